"""The vocabularies of the stacks whose logs are known."""

from __future__ import annotations

from pytest_grpo.logs.vocabulary.quantities import (
    BROADCAST,
    CYCLE,
    LAG,
    MEMORY,
    PEAK_MEMORY,
    REWARD,
    ROLLOUT,
    STEP,
    TOKENS,
    part,
)
from pytest_grpo.logs.vocabulary.vocabulary import GIB, MILLI, Entry, Vocabulary

_OWN_PARTS = ("layout", "scoring", "loss_forward", "backward", "optimizer", "publish")

OWN_STACK = Vocabulary(
    "grpo_core",
    (
        Entry(STEP, ("step_s", "timing/step_s")),
        Entry(CYCLE, ("cycle_s",)),
        Entry(ROLLOUT, ("rollout_s", "timing/rollout_s")),
        Entry(TOKENS, ("tokens_per_second", "timing/tokens_per_second")),
        Entry(LAG, ("policy_lag_steps", "schedule/policy_lag_steps")),
        Entry(REWARD, ("reward_mean", "reward/mean")),
        Entry(MEMORY, ("memory_used_bytes",)),
        Entry(PEAK_MEMORY, ("peak_memory_bytes", "compute/peak_memory_bytes")),
        *(Entry(part(name), (f"{name}_ms", f"timing/{name}_ms"), MILLI) for name in _OWN_PARTS),
    ),
    steps=(("rollout/batch_index", 1), ("schedule/step", 0)),  # step k + 1 trains on batch k
)
"""Of the events, then of W&B (``grpo_core/telemetry/wandb/connection.py``)."""

_TRL_TIMERS = {
    "prepare_inputs": "profiling/Time taken: GRPOTrainer._prepare_inputs",
    "compute_loss": "profiling/Time taken: GRPOTrainer.compute_loss",
}
"""Others, such as that of ``generate``, run in these. The backward pass has none."""

TRL = Vocabulary(
    "TRL",
    (
        Entry(STEP, ("step_time", "train/step_time")),
        Entry(LAG, ("sample/staleness_max", "train/sample/staleness_max")),
        Entry(REWARD, ("reward", "train/reward")),
        *(Entry(part(name), (timer,)) for name, timer in _TRL_TIMERS.items()),
    ),
    steps=(("train/global_step", 0),),
    total_tokens=("num_tokens", "train/num_tokens"),
    timers=tuple(_TRL_TIMERS.values()),
)
"""Of ``trainer_state.json``, then of W&B. Sources: ``trl/trainer/grpo_trainer.py``, ``trl/extras/profiling.py``."""

_VERL_PARTS = (
    "gen",
    "gen_max",
    "reward",
    "old_log_prob",
    "ref",
    "values",
    "adv",
    "update_critic",
    "update_actor",
    "update_weights",
    "dump_rollout_generations",
    "testing",
    "save_checkpoint",
)
"""Timers that verl runs one after the other within ``step``. Others, such as ``generate_sequences``, run in these."""

VERL = Vocabulary(
    "verl",
    (
        Entry(STEP, ("timing_s/step", "perf/time_per_step")),
        Entry(TOKENS, ("perf/throughput",)),  # per GPU
        Entry(LAG, ("training/off_policy/trajectory_staleness/max", "training/off_policy/trajectory_staleness")),
        Entry(REWARD, ("critic/rewards/mean", "critic/score/mean")),
        Entry(PEAK_MEMORY, ("perf/max_memory_allocated_gb", "actor/perf/max_memory_allocated_gb"), GIB),
        Entry(MEMORY, ("perf/cpu_memory_used_gb", "actor/perf/cpu_memory_used_gb"), GIB),
        *(Entry(part(name), (f"timing_s/{name}",)) for name in _VERL_PARTS),
    ),
    steps=(("training/global_step", 0),),
)
"""Sources: ``verl/trainer/ppo/ray_trainer.py``, ``verl/trainer/ppo/metric_utils.py``. Its ``_gb`` are 2**30 bytes."""

TRAINER_STEP, ORCHESTRATOR_STEP = "trainer's step", "orchestrator's step"
CONSOLE_REWARD, CONSOLE_LAG = "orchestrator's reward", "orchestrator's lag"
"""What the lines of prime-rl's console are called here: both processes print ``Step``."""

PRIME_RL = Vocabulary(
    "prime-rl",
    (
        Entry(STEP, ("time/step", TRAINER_STEP, ORCHESTRATOR_STEP)),
        Entry(BROADCAST, ("time/broadcast_weights",)),  # before the step's clock starts
        Entry(TOKENS, ("perf/throughput",)),
        Entry(LAG, ("dispatcher/off_policy/max", CONSOLE_LAG)),
        Entry(REWARD, ("reward/all/mean", "train/agg/all/reward/mean", "reward/mean", CONSOLE_REWARD)),
        Entry(PEAK_MEMORY, ("perf/peak_memory",), GIB),
        *(Entry(part(name), (f"time/{name}",)) for name in ("wait_for_batch", "load_data", "forward_backward")),
    ),
    steps=(("step", 0),),
)
"""Sources: ``src/prime_rl/trainer/rl/train.py``, ``src/prime_rl/orchestrator/metrics.py``."""

STACKS = (OWN_STACK, TRL, VERL, PRIME_RL)
