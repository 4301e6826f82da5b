"""Where a run of an arm spends its time: the spans of grpo_core's ledger, on the thread that runs the arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def recorded_spans() -> Iterator[dict[str, float]]:
    """Yields a table that is filled at the end of the block: seconds by span, without what no span names.

    It stays empty where the arm enters no span, or runs a grpo_core of before the ledger: a comparison with an older
    version does.
    """
    spans: dict[str, float] = {}
    try:
        from grpo_core.ledger.account import OTHER
        from grpo_core.ledger.recorder import recording
    except ImportError:
        yield spans
        return
    with recording("arm", "arm", with_inner=True) as recorder:
        yield spans
        (account, *_) = recorder.cut()
    spans.update({name: seconds for name, seconds in account.seconds.items() if name != OTHER and seconds > 0})


def per_run(spans: Mapping[str, float], num_runs: int) -> dict[str, float]:
    """The mean of ``num_runs`` runs."""
    return {name: seconds / num_runs for name, seconds in spans.items()}
