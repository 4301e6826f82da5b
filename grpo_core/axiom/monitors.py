"""The monitors: a run that hangs, an old batch, an idle trainer, a reward that fell, a GPU that is slowed down."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_core.axiom.documents import NAME_PREFIX, Document

_IDLE_SHARE = 0.5
_SILENT_MINUTES = 10
_FALL_SPREADS = 0.5
_HARMFUL = ("sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Reasons for lower clocks that a machine should not have; an idle GPU has lower ones, too."""


def monitors(dataset: str, notifier_ids: Sequence[str]) -> tuple[Document, ...]:
    """Each looks every few minutes, and tells ``notifier_ids``. All are threshold monitors of one number."""
    events = f"['{dataset}']"
    own = tuple(notifier_ids)
    return (
        _monitor(
            "no step for 10 minutes",
            "Runs that did something within 20 minutes, finished nothing within 10, and did not end.",
            f'{events}\n| summarize steps = countif(kind == "train_step" and _time > ago({_SILENT_MINUTES}m)), '
            'ends = countif(kind == "run_finished") by run\n| where steps == 0 and ends == 0\n'
            "| summarize runs = count()",
            (0, 2 * _SILENT_MINUTES, own),
        ),
        _monitor(
            "policy lag beyond its bound",
            "Steps between the policy that sampled and the one that trains, less what the run allows. Never above 0.",
            f'{events}\n| where kind == "train_step"\n'
            "| summarize excess_steps = max(policy_lag_steps - max_policy_lag_steps)",
            (0, 10, own),
        ),
        _monitor(
            f"trainer idle for more than {_IDLE_SHARE:.0%}",
            "Share of a step that the trainer waits for a batch: the time between steps that is no step.",
            f'{events}\n| where kind == "train_step"\n| summarize busy_s = sum(step_s), steps = count(), '
            "first = min(_time), last = max(_time) by run\n| where steps > 2\n"
            "| summarize idle_share = max(1.0 - busy_s / (todouble(last - first) / 10000000.0))",
            (_IDLE_SHARE, 30, own),
        ),
        _monitor(
            "reward fell",
            f"The mean reward of the last 30 minutes is {_FALL_SPREADS:g} standard deviations of a batch's rewards "
            "below that of the 30 minutes before.",
            f'{events}\n| where kind == "train_step"\n| summarize before = avgif(reward_mean, _time < ago(30m)), '
            "now = avgif(reward_mean, _time >= ago(30m)), spread = avg(reward_std) by run\n| where spread > 0\n"
            "| summarize fall_spreads = max((before - now) / spread)",
            (_FALL_SPREADS, 60, own),
        ),
        _monitor(
            "GPU throttled",
            "Samples of a GPU whose clocks are lowered by heat or by its power limit.",
            f'{events}\n| where kind == "gpu_stats" and source == "nvml"\n| where {_any_of(_HARMFUL)}\n'
            "| summarize samples = count()",
            (30, 10, own),
        ),
    )


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(f'throttle_reasons contains "{name}"' for name in names)


def _monitor(name: str, description: str, apl: str, when: tuple[float, int, Sequence[str]]) -> Document:
    """It fires when the query's number over the last ``rangeMinutes`` is above a threshold."""
    threshold, range_minutes, notifier_ids = when
    return {
        "name": f"{NAME_PREFIX}{name}",
        "description": description,
        "type": "Threshold",
        "aplQuery": apl,
        "operator": "Above",
        "threshold": threshold,
        "intervalMinutes": 5,
        "rangeMinutes": range_minutes,
        "alertOnNoData": False,
        "resolvable": True,
        "notifierIds": list(notifier_ids),
    }
