"""From samples to the numbers that are published: medians with order-statistic intervals, ratios round by round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.rollout_arms.arm import Sample
from bench.rollout_arms.rounds import FREE, ORDERS, Timed, select
from grpo_core.home import write_atomic, write_json
from pytest_grpo.measuring.stats import interval


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of ``n`` values with an interval for the true one, of 95 % confidence from six values on."""

    median: float
    low: float
    high: float
    n: int
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], unit: str, **wanted: float) -> Figure:
        """Raises ValueError when there are no values, or one is not finite and above zero."""
        found = interval(values)
        return cls(found.median, found.low, found.high, found.num_pairs, unit, **wanted)

    @property
    def reached(self) -> str:
        """Whether the median is where it was wanted."""
        if self.at_least is None and self.at_most is None:
            return ""
        is_low = self.at_least is not None and self.median < self.at_least
        is_high = self.at_most is not None and self.median > self.at_most
        return "no" if is_low or is_high else "yes"

    @property
    def wanted(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:.3g}" if self.at_most is not None else ""

    def as_json(self) -> dict[str, object]:
        return {"median": self.median, "low": self.low, "high": self.high, "n": self.n, "unit": self.unit}

    def __str__(self) -> str:
        return f"{_short(self.median)} [{_short(self.low)}, {_short(self.high)}]"


@dataclass(frozen=True, slots=True)
class Report:
    """What one part of the benchmark found: lines of Markdown, and figures under their keys."""

    lines: tuple[str, ...]
    figures: Mapping[str, Figure]


def publish(reports: Sequence[Report], markdown: Path | None, json: Path | None) -> None:
    """Print all lines, and write them and all figures to the files that were asked for."""
    text = "\n\n".join("\n".join(report.lines) for report in reports if report.lines) + "\n"
    print(text, end="")
    if markdown is not None:
        write_atomic(markdown, text.encode())
    if json is not None:
        write_json(json, {key: figure.as_json() for report in reports for key, figure in report.figures.items()})


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tokens per second of the arm ``torch`` over those of another one."""

    key: str
    kind: str
    other: str
    at_least: float | None = None
    decode_only: bool = False  # without the reading of prompts


COMPARISONS = (
    Comparison("tokens_per_second_vs_trl", FREE, "trl", 8),
    Comparison("tokens_per_second_vs_vllm_lora", FREE, "vllm_lora", 6),
    Comparison("tokens_per_second_vs_vllm", FREE, "vllm", 2),
    Comparison("constrained_vs_trl", ORDERS, "trl", 20),
    Comparison("jump_forward_gain", ORDERS, "no_jump_forward", 2),
    Comparison("jump_forward_decode_gain", ORDERS, "no_jump_forward", decode_only=True),
)


def speed_figures(samples: Sequence[Timed], num_prompt_tokens: int) -> dict[str, Figure]:
    """Every figure for each number of sequences (``<key>_8``), and under the plain key the worst of them.

    Comparisons with arms that were left out are not among them.
    """
    sizes = sorted({one.num_sequences for one in samples})
    figures: dict[str, Figure] = {}
    for comparison in COMPARISONS:
        found = {f"{comparison.key}_{size}": _ratio(samples, comparison, size) for size in sizes}
        ratios = {key: ratio for key, ratio in found.items() if ratio is not None}
        if ratios:
            figures |= {comparison.key: min(ratios.values(), key=lambda figure: figure.median)} | ratios
    prefill = {f"prefill_tokens_per_group_{size}": _prefill_per_group(samples, size) for size in sizes}
    worst = replace(max(prefill.values(), key=lambda figure: figure.median), at_most=num_prompt_tokens)
    figures |= {"prefill_tokens_per_group": worst} | prefill
    return figures | {"prompt_tokens": Figure.of([num_prompt_tokens], "tokens")}


def _ratio(samples: Sequence[Timed], comparison: Comparison, num_sequences: int) -> Figure | None:
    ours = select(samples, comparison.kind, "torch", num_sequences)
    theirs = select(samples, comparison.kind, comparison.other, num_sequences)
    rounds = sorted(ours.keys() & theirs.keys())
    if not rounds:
        return None
    speeds = [[_speed(of[number].sample, comparison) for number in rounds] for of in (ours, theirs)]
    ratios = [mine / its for mine, its in zip(*speeds, strict=True)]
    return replace(Figure.of(ratios, "ratio"), at_least=comparison.at_least)


def _speed(sample: Sample, comparison: Comparison) -> float:
    """Tokens per second."""
    if not comparison.decode_only:
        return sample.tokens_per_second
    assert sample.decode_seconds is not None, "the arms that are compared so have steps"
    return sample.num_tokens / sample.decode_seconds


def _prefill_per_group(samples: Sequence[Timed], num_sequences: int) -> Figure:
    taken = select(samples, FREE, "torch", num_sequences).values()
    return Figure.of([(one.sample.num_prefill_tokens or 0) / one.num_groups for one in taken], "tokens")


def figure_table(figures: Mapping[str, Figure]) -> Iterator[str]:
    yield from table_head("figure", "median and interval", "n", "unit", "asked for", "reached")
    for key, figure in figures.items():
        yield row(f"`{key}`", figure, figure.n, figure.unit, figure.wanted, figure.reached)


def table_head(*names: str) -> Iterator[str]:
    yield row(*names)
    yield "|---" * len(names) + "|"


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _short(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
