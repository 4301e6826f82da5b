"""The panels, each defined once: APL for Axiom, SQL for DuckDB over the JSONL files.

``python -m grpo_core.telemetry.panels.page > docs/axiom_dashboard_queries.md`` writes the page.
"""

from __future__ import annotations

from dataclasses import dataclass

_TIME = "make_timestamp(CAST(time * 1e6 AS BIGINT)) AS time"


@dataclass(frozen=True, slots=True)
class Panel:
    """One view of the events.

    ``sql`` reads the table ``events`` and gives one row per event, with ``time`` (UTC) and ``run``. ``apl`` gives the
    same columns, averaged over the time bins that Axiom chooses; where a mean hides what is slow now and then, their
    95th percentile (``_p95``) as well. ``per`` names the column that tells the lines of one
    panel apart, when there are several.
    """

    number: int
    title: str
    shows: str
    unit: str
    apl: str
    sql: str
    per: str | None = None


def _panel(
    number: int,
    title: str,
    shows: str,
    unit: str,
    *,
    kind: str,
    columns: dict[str, str],
    per: str | None = None,
    tails: tuple[str, ...] = (),
) -> Panel:
    """A panel of the events of one kind. ``columns``: field to APL aggregation. ``tails``: those of them of which Axiom
    shows the 95th percentile, too."""
    fields = [per, *columns] if per else list(columns)
    bins = "run, bin_auto(_time)" if per is None else f"run, {per}, bin_auto(_time)"
    means = [f"{field} = {function}({field})" for field, function in columns.items()]
    aggregates = ", ".join([*means, *(f"{field}_p95 = percentile({field}, 95)" for field in tails)])
    apl = f"['grpo']\n| where kind == \"{kind}\"\n| summarize {aggregates} by {bins}"
    sql = f"SELECT {_TIME}, run, {', '.join(fields)}\nFROM events\nWHERE kind = '{kind}'\nORDER BY time"
    return Panel(number, title, shows, unit, apl, sql, per)


PANELS: tuple[Panel, ...] = (
    _panel(
        1,
        "Reward",
        "Mean and spread of the rewards that each step trains on. Rising means that the policy learns.",
        "reward",
        kind="train_step",
        columns={"step": "max", "reward_mean": "avg", "reward_std": "avg"},
    ),
    _panel(
        2,
        "Loss and KL",
        "Policy loss, KL to the base model and entropy per chosen token; norm of the gradient before clipping. "
        "A loss near 0 is normal: on policy, only its gradient means something.",
        "nats",
        kind="train_step",
        columns={"step": "max", "loss": "avg", "kl": "avg", "entropy": "avg", "grad_norm": "avg"},
    ),
    _panel(
        3,
        "Ratio and clipping",
        "Smallest and largest importance ratio, the fractions of tokens that the lower and upper bounds clip, and how "
        "far the trainer's policy is from the sampler's. On policy the ratios are 1 and the rest is 0.",
        "ratio, fraction, nats",
        kind="train_step",
        columns={
            "step": "max",
            "ratio_min": "min",
            "ratio_max": "max",
            "clip_fraction_low": "avg",
            "clip_fraction_high": "avg",
            "mismatch_kl": "avg",
        },
    ),
    _panel(
        4,
        "Step time",
        "Where a training step spends its time. Forward and backward are about equal, because frozen weights need no "
        "gradient of their own; twice as much forward means a second forward pass.",
        "ms (step_s: s)",
        kind="train_step",
        columns={
            "step": "max",
            "loss_forward_ms": "avg",
            "backward_ms": "avg",
            "optimizer_ms": "avg",
            "publish_ms": "avg",
            "step_s": "avg",
        },
        tails=("step_s",),
    ),
    _panel(
        5,
        "Tokens per step",
        "Tokens with a loss, those of them that no mask took out, tokens that went through the model, and tokens that "
        "would have gone through it without sharing prompts.",
        "tokens",
        kind="train_step",
        columns={
            "step": "max",
            "num_loss_tokens": "avg",
            "num_effective_tokens": "avg",
            "num_model_tokens": "avg",
            "num_padded_tokens": "avg",
        },
    ),
    _panel(
        6,
        "Rollouts",
        "What a batch took to collect, what it earned, what all earned that was played for it, the starting states "
        "that were replaced, and the episodes that failed.",
        "s, reward, groups, episodes",
        kind="rollout",
        columns={
            "batch_index": "max",
            "duration_s": "avg",
            "reward_mean": "avg",
            "sampled_reward_mean": "avg",
            "num_replaced_groups": "avg",
            "num_failed_episodes": "sum",
        },
        tails=("duration_s",),
    ),
    Panel(
        7,
        "Adapter cache",
        "Each time that the engine takes up a policy version: the share of loads that were cached, and what load and "
        "swap cost.",
        "fraction, ms",
        "['grpo']\n| where kind == \"adapter_load\"\n"
        "| summarize hit_rate = todouble(countif(cache_hit)) / count(), load_ms = avg(load_ms), "
        "swap_ms = avg(swap_ms), load_ms_p95 = percentile(load_ms, 95) by run, bin_auto(_time)",
        f"SELECT {_TIME}, run, version, cache_hit,\n"
        "  avg(CAST(cache_hit AS DOUBLE)) OVER (PARTITION BY run ORDER BY time) AS hit_rate, load_ms, swap_ms\n"
        "FROM events\nWHERE kind = 'adapter_load'\nORDER BY time",
    ),
    Panel(
        8,
        "Runs",
        "When each run started and finished. A run without its finish is still going, or was killed.",
        "steps, s",
        '[\'grpo\']\n| where kind in ("run_started", "run_finished")\n'
        "| project _time, run, kind, preset, environment, num_steps, duration_s\n| sort by _time asc",
        f"SELECT {_TIME}, run, kind, preset, environment, num_steps, duration_s\n"
        "FROM events\nWHERE kind IN ('run_started', 'run_finished')\nORDER BY time",
    ),
    _panel(
        9,
        "GPU stats",
        "Use, memory, power, temperature and clock of each GPU. Without a GPU: CPU use, memory of the process and "
        "memory of the host.",
        "%, bytes, W, °C, MHz",
        kind="gpu_stats",
        columns={
            "utilization_percent": "avg",
            "memory_used_bytes": "max",
            "memory_total_bytes": "max",
            "power_watts": "avg",
            "temperature_celsius": "max",
            "sm_clock_mhz": "min",
        },
        per="device_index",
    ),
    _panel(
        10,
        "Inference throughput",
        "Completion tokens per second of rollout, environment time included; and prompt tokens, of which only the "
        "prefilled ones were computed.",
        "tokens/s, tokens",
        kind="rollout",
        columns={
            "tokens_per_second": "avg",
            "num_completion_tokens": "sum",
            "num_prompt_tokens": "sum",
            "num_prefill_tokens": "sum",
        },
    ),
    _panel(
        11,
        "Policy lag and buffer depth",
        "How far the policy that sampled is behind the one that trains, and how many batches wait. The lag never "
        "exceeds its maximum; the depth swings around its setting.",
        "steps, batches",
        kind="train_step",
        columns={
            "policy_lag_steps": "max",
            "max_policy_lag_steps": "max",
            "buffer_depth": "avg",
            "configured_buffer_depth": "max",
        },
    ),
    _panel(
        12,
        "Reward functions",
        "Of each function of a data set's rewards: mean and spread of its scores, before its weight, the answers that "
        "it failed on, and what it took for a batch.",
        "score, answers, s",
        kind="reward",
        columns={
            "batch_index": "max",
            "score_mean": "avg",
            "score_std": "avg",
            "num_failed": "sum",
            "reward_s": "avg",
        },
        per="function",
    ),
    _panel(
        13,
        "Evaluation",
        "Held-out questions: mean reward of the greedy answers, the share of questions that they pass, and the share "
        "that one of k drawn answers passes. They rise with the reward, unless the policy only learns by heart.",
        "reward, share, s",
        kind="evaluation",
        columns={
            "step": "max",
            "greedy_reward_mean": "avg",
            "greedy_passed": "avg",
            "pass_at_k": "avg",
            "evaluation_s": "avg",
        },
    ),
)
