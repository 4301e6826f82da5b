"""Whether a run does what it should at all. A run that does not needs no speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.explain.run_record import RunRecord

MAX_MISMATCH_KL = 0.1
"""Nats per token between sampler and trainer: 1e-8 is rounding in float32, 1e-3 in bfloat16; old batches make more."""
MAX_FAILED_SHARE = 0.2

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong, and what to do."""

    what: str
    remedy: str


def complaints(record: RunRecord) -> list[Complaint]:
    """What is wrong with the run; nothing where it is healthy."""
    return [complaint for check in _CHECKS for complaint in check(record)]


def _skipped(record: RunRecord) -> Iterator[Complaint]:
    skipped = [event["step"] for event in record.events["train_step"] if event["is_skipped"]]
    if skipped:
        yield Complaint(
            f"{len(skipped)} of {len(record.events['train_step'])} steps were skipped, the first one is step "
            f"{skipped[0]}: loss or gradient was NaN or infinite",
            "lower training.learning_rate; the events step_skipped name the trajectories",
        )


def _nothing_to_learn(record: RunRecord) -> Iterator[Complaint]:
    steps = record.events["train_step"]
    if all(event["advantage_abs_mean"] == 0 for event in steps):
        yield Complaint(
            f"no step of {len(steps)} had a group with a winner and a loser: all advantages are 0, nothing is learned",
            "make the task easier or the rewards finer, or set rollout.max_refill_rounds",
        )


def _mismatch(record: RunRecord) -> Iterator[Complaint]:
    worst = max(record.events["train_step"], key=lambda event: event["mismatch_kl"] or 0.0)
    if (worst["mismatch_kl"] or 0.0) > MAX_MISMATCH_KL:
        yield Complaint(
            f"sampler and trainer disagree by {worst['mismatch_kl']:.2g} nats per token in step {worst['step']}",
            "find out why with: grpo doctor",
        )


def _lag(record: RunRecord) -> Iterator[Complaint]:
    late = [event for event in record.events["train_step"] if event["policy_lag_steps"] > event["max_policy_lag_steps"]]
    if late:
        yield Complaint(
            f"step {late[0]['step']} trained on a batch {late[0]['policy_lag_steps']} steps old, more than "
            f"{late[0]['max_policy_lag_steps']}",
            "this is a fault of the schedule; judge it with: grpo bench --phase 4",
        )


def _failing(record: RunRecord) -> Iterator[Complaint]:
    rollouts = record.events["rollout"]
    failed = sum(event["num_failed_episodes"] for event in rollouts)
    played = sum(event["num_trajectories"] for event in rollouts)
    if failed > MAX_FAILED_SHARE * (played + failed):
        yield Complaint(
            f"{failed} attempts at episodes failed, {played} trajectories were played",
            "fix the environment; the events episode_failed say what it raised",
        )


def _second_forward(record: RunRecord) -> Iterator[Complaint]:
    wrong = [
        event for event in record.events["train_step"] if event["num_forward_passes"] != event["num_micro_batches"]
    ]
    if wrong:
        yield Complaint(
            f"step {wrong[0]['step']} ran {wrong[0]['num_forward_passes']} forward passes for "
            f"{wrong[0]['num_micro_batches']} micro-batches",
            "a second forward pass crept in; judge it with: grpo bench --phase 3",
        )


def _lost_tokens(record: RunRecord) -> Iterator[Complaint]:
    for event in record.events["token_ledger"]:
        parts = ("trained", "forced", "masked", "dropped", "stale", "replaced", "preempted")
        missing = event["num_sampled_tokens"] - sum(event[f"num_{part}_tokens"] for part in parts)
        if missing:
            yield Complaint(
                f"step {event['step']}: {abs(missing)} sampled tokens are {'lost' if missing > 0 else 'counted twice'}",
                "this is a fault of the stack; judge it with: grpo bench --phase 4",
            )
            return


_CHECKS: tuple[Callable[[RunRecord], Iterator[Complaint]], ...] = (
    _skipped,
    _nothing_to_learn,
    _mismatch,
    _lag,
    _failing,
    _second_forward,
    _lost_tokens,
)
