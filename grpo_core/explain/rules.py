"""What to try when a span takes much of a step: one table, with the source of each rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.explain.run_record import ROLLOUT, TRAIN
from grpo_core.ledger import spans
from grpo_core.ledger.spans import Span

Settings = Mapping[str, Any]
"""The run's configuration by dotted key; empty where no checkpoint has it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``thread`` spends its time in ``span``: ``setting`` may help, unless the run ``has`` it already.

    ``what`` completes "62 % of a step: ". ``phase`` measures whether it helped.
    """

    thread: str
    span: str
    what: str
    setting: str
    phase: int
    source: str
    has: Callable[[Settings], bool] = lambda settings: False


def _rule(
    thread: str,
    span: Span,
    what: str,
    setting: str,
    phase: int,
    source: str,
    has: Callable[[Settings], bool] = lambda settings: False,
) -> Rule:
    return Rule(thread, span.name, what, setting, phase, source, has)


def _is(key: str, *values: object) -> Callable[[Settings], bool]:
    return lambda settings: key in settings and settings[key] in values


def _at_least(key: str, least: float) -> Callable[[Settings], bool]:
    return lambda settings: key in settings and settings[key] >= least


RULES: tuple[Rule, ...] = (
    _rule(
        TRAIN, spans.WAIT_BATCH, "the trainer waits for a batch", "schedule.max_policy_lag_steps=1", 4,
        "Noukhovitch et al. 2024, Asynchronous RLHF: one step off policy hides the faster side",
        _at_least("schedule.max_policy_lag_steps", 1),
    ),
    _rule(
        TRAIN, spans.WAIT_BATCH, "the trainer waits for a batch: rollouts are the slower side",
        "rollout.engine=vllm, or on Modal --workers N", 2,
        "docs/rollouts.md: engines compared",
    ),
    _rule(
        ROLLOUT, spans.PREFILL, "the engine reads prompts", "environment.compact_prompts=true", 5,
        "phase 5 of this project: shorter prompts, the same orders", _is("environment.compact_prompts", True),
    ),
    _rule(
        ROLLOUT, spans.DECODE, "the engine decodes", "rollout.engine=vllm", 2,
        "Kwon et al. 2023, PagedAttention; docs/rollouts.md: engines compared", _is("rollout.engine", "vllm"),
    ),
    _rule(
        ROLLOUT, spans.DRAW, "the engine draws tokens", "a smaller rollout.max_completion_tokens", 2,
        "Yu et al. 2025, DAPO, section 3.4: answers that are cut off carry little signal",
    ),
    _rule(
        ROLLOUT, spans.REFERENCE, "the engine scores answers under the base model", "training.kl_coefficient=0", 2,
        "Yu et al. 2025, DAPO, section 2.3: without a KL term", _is("training.kl_coefficient", 0, 0.0),
    ),
    _rule(
        ROLLOUT, spans.PROMPT, "prompts and constraints are built", "environment.compact_prompts=true", 5,
        "phase 5 of this project", _is("environment.compact_prompts", True),
    ),
    _rule(
        ROLLOUT, spans.WAIT_ENVIRONMENT, "rollouts wait for the environment's code",
        "environment.use_state_cache=true, or a faster step()", 2,
        "docs/rollouts.md: the state cache", _is("environment.use_state_cache", True),
    ),
    _rule(
        ROLLOUT, spans.ENVIRONMENT, "the environment starts", "environment.use_state_cache=true", 2,
        "docs/rollouts.md: the state cache", _is("environment.use_state_cache", True),
    ),
    _rule(
        ROLLOUT, spans.WAIT_ENGINE, "rollouts wait for the engine's process",
        "a larger rollout.max_batch_sequences or rollout.max_kv_bytes", 2,
        "Kwon et al. 2023, PagedAttention: throughput follows the batch that fits",
    ),
    _rule(
        ROLLOUT, spans.WAIT_WORKERS, "the run waits for its workers", "more --workers", 4, "docs/modal.md",
    ),
    _rule(
        ROLLOUT, spans.LOAD, "a version's weights are read", "a smaller model.lora_rank", 2,
        "Hu et al. 2021, LoRA, section 7.2: small ranks suffice",
    ),
    _rule(
        ROLLOUT, spans.SWAP, "the engine switches versions", "a larger rollout.num_groups: fewer switches per token", 2,
        "docs/rollouts.md: adapters",
    ),
    _rule(
        TRAIN, spans.SCORING, "the trainer scores before the update", "training.old_logprobs=sampling", 3,
        "docs/training.md: log-probabilities come with the batch", _is("training.old_logprobs", "sampling"),
    ),
    _rule(
        TRAIN, spans.FORWARD, "forward passes", "training.packing=shared_prefix", 3,
        "docs/training-speed.md: a prompt once per group", _is("training.packing", "shared_prefix"),
    ),
    _rule(
        TRAIN, spans.FORWARD, "forward passes", "training.precision=bfloat16 on a GPU", 3,
        "Micikevicius et al. 2018, Mixed Precision Training", _is("training.precision", "bfloat16"),
    ),
    _rule(
        TRAIN, spans.BACKWARD, "backward passes", "training.gradient_checkpointing=false", 3,
        "Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost: it computes each layer twice",
        lambda settings: not settings.get("training.gradient_checkpointing", False),
    ),
    _rule(
        TRAIN, spans.BACKWARD, "backward passes", "training.packing=shared_prefix", 3,
        "docs/training-speed.md: a prompt once per group", _is("training.packing", "shared_prefix"),
    ),
    _rule(
        TRAIN, spans.BACKWARD, "backward passes", "training.precision=bfloat16 on a GPU", 3,
        "Micikevicius et al. 2018, Mixed Precision Training", _is("training.precision", "bfloat16"),
    ),
    _rule(
        TRAIN, spans.SUMS, "the host waits for the device, and sums for metrics", "training.precision=bfloat16", 3,
        "Micikevicius et al. 2018, Mixed Precision Training", _is("training.precision", "bfloat16"),
    ),
    _rule(
        TRAIN, spans.PACKING, "the batch is packed", "a larger training.micro_batch_tokens", 3,
        "docs/training-speed.md",
    ),
    _rule(
        TRAIN, spans.OPTIMIZER, "the optimizer", "training.method=lora", 3,
        "Hu et al. 2021, LoRA: few weights are trained", _is("training.method", "lora"),
    ),
    _rule(
        TRAIN, spans.GRADIENT_SUM, "processes wait for each other's gradients", "a larger rollout.num_groups", 3,
        "Goyal et al. 2017, Accurate, Large Minibatch SGD: more work per sum",
    ),
    _rule(
        TRAIN, spans.WAIT_PROCESSES, "processes wait for each other", "fewer --processes", 4,
        "Goyal et al. 2017, Accurate, Large Minibatch SGD",
    ),
    _rule(
        TRAIN, spans.PUBLISH, "a version is published", "a smaller model.lora_rank", 2,
        "Hu et al. 2021, LoRA, section 7.2: small ranks suffice",
    ),
    _rule(
        TRAIN, spans.CHECKPOINT, "checkpoints", "a larger schedule.checkpoint_every_steps", 4,
        "Young 1974: the interval grows with the root of the cost",
    ),
    _rule(
        TRAIN, spans.TELEMETRY, "telemetry", "a larger telemetry.gpu_stats_interval_s", 1, "phase 1 of this project",
    ),
)  # fmt: skip
"""The first rule that fits a span and that the run does not have counts."""


def rule_for(thread: str, span: str, settings: Settings) -> Rule | None:
    """What to try about ``span``; None where nothing is known that the run does not have."""
    fitting = (rule for rule in RULES if (rule.thread, rule.span) == (thread, span))
    return next((rule for rule in fitting if not rule.has(settings)), None)
