"""Every token that is sampled is in exactly one place of the ledger, whatever happens to it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.schedule.accounting.tokens import TokenLedger
from grpo_core.schedule.loop import train
from grpo_core.schedule.stack import Stack
from grpo_core.telemetry.events import Event, Telemetry
from grpo_core.types import Batch, Observation, RolloutStats, StepMetrics
from tests.grpo_core.rollout.play.duel import Duel

MakeStack = Callable[..., Stack]

pytestmark = pytest.mark.usefixtures("nothing_is_left")

LONG = 5000
"""More than the model's context, in characters."""


class Eventful(Duel):
    """``left`` chooses a line, ``right`` answers freely. Some starting states pay nobody."""

    def observe(self) -> tuple[Observation, ...]:
        left, right = super().observe()
        prompt = right.prompt
        if self.breaks == "right" and len(self.said) == 3:
            prompt += "x" * LONG
        return left, replace(right, prompt=prompt, choices=None)

    def rewards(self) -> Mapping[str, float]:
        said = "".join(self.said[2:])
        return (
            {"left": float(said.count("A")), "right": float(len(said))}
            if self.seed % 2
            else dict.fromkeys(("left", "right"), 0.0)
        )


made = itertools.count()
BREAKS = {3: "step", 5: "right", 11: "right"}


def eventful(config: EnvironmentConfig) -> Eventful:
    return Eventful(breaks=BREAKS.get(next(made), ""))


class Ledgers:
    """A sink that keeps the token ledgers."""

    def __init__(self) -> None:
        self.found: list[TokenLedger] = []

    def write(self, event: Event) -> None:
        if event.kind == "token_ledger":
            names = [field.name for field in fields(TokenLedger)]
            self.found.append(TokenLedger(**{name: event.fields[name] for name in names}))  # type: ignore[arg-type]

    def flush(self) -> None:
        pass

    def begin_close(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_sampled_tokens_are_accounted_for_to_the_last_one(make_stack: MakeStack) -> None:
    """Failed attempts, openings, cancelled requests, replaced and dropped groups, forced and masked tokens at once."""
    stack = make_stack(
        environment=f"{__name__}:eventful", num_steps=6, max_refill_rounds=1, training={"mask_overlong": True}
    )
    ledgers = Ledgers()
    train(stack, Telemetry("run", [ledgers]))

    assert [ledger.num_missing_tokens for ledger in ledgers.found] == [0] * 6
    totals = Counter[str]()
    for ledger in ledgers.found:
        totals.update(asdict(ledger))
    assert totals.pop("num_stale_tokens") == 0
    assert min(totals.values()) > 0, totals


def test_a_lost_token_is_missing(make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's count and the counts where tokens end are made apart."""
    stack = make_stack(num_steps=1)
    collect = stack.collector.collect

    def collect_less(index: int) -> Batch:
        batch = collect(index)
        return replace(batch, groups=batch.groups[1:])

    monkeypatch.setattr(stack.collector, "collect", collect_less)
    ledgers = Ledgers()
    train(stack, Telemetry("run", [ledgers]))
    assert ledgers.found[0].num_missing_tokens > 0


def test_stale_tokens_are_sampled_again(make_stack: MakeStack) -> None:
    metrics = train(make_stack(num_steps=1), Telemetry("run", [])).reports[0].metrics
    num_tokens = metrics.num_effective_tokens + metrics.num_masked_tokens + metrics.num_forced_tokens
    num_tokens += metrics.num_dropped_tokens
    stats = RolloutStats(1.0, 0, 0, num_tokens, 4, num_sampled_tokens=num_tokens)
    ledger = TokenLedger.of_step(stats, metrics, num_stale_tokens=7)
    assert ledger.num_sampled_tokens == num_tokens + 7
    assert ledger.num_stale_tokens == 7
    assert ledger.num_missing_tokens == 0


def test_the_tokens_of_a_skipped_step_are_dropped(make_stack: MakeStack) -> None:
    metrics = train(make_stack(num_steps=1), Telemetry("run", [])).reports[0].metrics
    stats = RolloutStats(1.0, 0, 0, 0, 0, num_sampled_tokens=metrics.num_loss_tokens)
    trained, skipped = (TokenLedger.of_step(stats, each) for each in (metrics, _skipped(metrics)))
    assert trained.num_trained_tokens > 0 == skipped.num_trained_tokens
    assert skipped.num_dropped_tokens == trained.num_dropped_tokens + trained.num_trained_tokens
    assert skipped.num_missing_tokens == trained.num_missing_tokens


def _skipped(metrics: StepMetrics) -> StepMetrics:
    return replace(metrics, is_skipped=True)
