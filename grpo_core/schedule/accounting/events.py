"""The ledger's events: where the time of each thread went, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from grpo_core.ledger import spans
from grpo_core.ledger.account import OTHER, Account
from grpo_core.telemetry.events import Telemetry
from grpo_core.training.distributed.ranks import Ranks

_NAMES = (*(span.name for span in spans.SPANS), OTHER)
_LANE_DIGITS = 6  # microseconds


def emit_accounts(accounts: Iterable[Account], step: int, telemetry: Telemetry) -> None:
    """A ``ledger`` event for each of ``accounts``, which led to policy version ``step``."""
    for account in accounts:
        telemetry.emit(
            "ledger",
            step=step,
            process=account.process,
            thread=account.thread,
            started_s=account.started_s,
            wall_s=account.wall_s,
            other_s=account.other_s,
            lane=_lane_text(account),
            **{span.column: account.seconds.get(span.name, 0.0) for span in spans.SPANS},
        )


def process_name(rank: int) -> str:
    """What the ledger calls process ``rank`` of a run."""
    return f"trainer-{rank}"


def tell_account(ranks: Ranks, account: Account) -> None:
    """In a follower: let process 0 have ``account``, which is of this process. It calls ``hear_accounts``."""
    _exchange(ranks, account)


def hear_accounts(ranks: Ranks) -> list[Account]:
    """In process 0: the accounts that the followers tell, without their lanes."""
    if ranks.size == 1:
        return []
    told = _exchange(ranks, None)
    return [_account(rank, told[rank]) for rank in range(1, ranks.size)]


def _exchange(ranks: Ranks, own: Account | None) -> np.ndarray:
    """[processes, numbers]: each process fills its row of a sum over all."""
    table = np.zeros((ranks.size, 2 + len(_NAMES)))
    if own is not None:
        table[ranks.rank] = [own.started_s, own.wall_s, *(own.seconds.get(name, 0.0) for name in _NAMES)]
    return ranks.total(table)


def _account(rank: int, row: Sequence[float]) -> Account:
    started_s, wall_s, *seconds = map(float, row)
    named = {name: spent for name, spent in zip(_NAMES, seconds, strict=True) if spent}
    return Account(process_name(rank), "train", started_s, wall_s, named)


def _lane_text(account: Account) -> str:
    """As JSON, since the field of an event is one value."""
    rounded = [
        (part.name, round(part.start_s, _LANE_DIGITS), round(part.seconds, _LANE_DIGITS)) for part in account.lane
    ]
    return json.dumps(rounded, separators=(",", ":"))
