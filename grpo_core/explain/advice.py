"""The largest shares of a step, and what each would give back at best."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_core.explain.rules import Rule, Settings, rule_for
from grpo_core.explain.run_record import ROLLOUT, TRAIN, RunRecord
from grpo_core.ledger import spans

NUM_SHARES = 3
_IDLE_BECAUSE_OF_THE_TRAINER = (spans.WAIT_ROOM.name,)


@dataclass(frozen=True, slots=True)
class Advice:
    """``share`` of a step's wall clock is ``thread`` in ``span``. Without it a step would be ``bound`` times as fast,
    at best. ``rule`` is what to try, None where nothing is known."""

    thread: str
    span: str
    share: float
    bound: float
    rule: Rule | None


def advise(record: RunRecord, settings: Settings, num_shares: int = NUM_SHARES) -> list[Advice]:
    """The largest shares of a warm step, the largest first.

    Waits of the rollout thread for room are no share: they give nothing back.
    """
    candidates = [
        Advice(thread, span, spent_s / record.step_s, _bound(record, thread, span), rule_for(thread, span, settings))
        for thread in (TRAIN, ROLLOUT)
        for span, spent_s in record.spent_s(thread).items()
        if span not in _IDLE_BECAUSE_OF_THE_TRAINER
    ]
    return sorted(candidates, key=lambda advice: -advice.share)[:num_shares]


def _bound(record: RunRecord, thread: str, span: str) -> float:
    """Wall clock of a step over what it would be if ``span`` took no time and all else took as long as it does.

    Where rollouts and training take turns, all that is saved shortens the step; a trainer that does not wait for its
    batch has overlapped: then the slower side is the step. So it is with overlap anyway.
    """
    spent_s = record.spent_s(thread)[span]
    takes_turns = record.max_policy_lag_steps == 0
    if takes_turns and span != spans.WAIT_BATCH.name:
        return record.step_s / max(record.step_s - spent_s, 1e-9)
    busy_s = {side: _busy_s(record, side) for side in (TRAIN, ROLLOUT)}
    if span == spans.WAIT_BATCH.name:
        left_s = max(busy_s.values()) if takes_turns else busy_s[TRAIN]
    else:
        busy_s[thread] -= spent_s
        left_s = max(busy_s.values())
    return max(1.0, record.step_s / max(left_s, 1e-9))


def _busy_s(record: RunRecord, side: str) -> float:
    """Seconds per step that the other side does not cause: waits for engines and environments are the side's own."""
    others = (spans.WAIT_BATCH.name, spans.WAIT_ROOM.name, spans.WAIT_END.name)
    return sum(spent_s for name, spent_s in record.spent_s(side).items() if name not in others)
