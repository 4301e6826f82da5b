"""The published ratios of the rollout benchmark, taken round by round: this engine over each other arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.reporting.figures import Figure
from bench.rollout_arms.arm import RolloutSample
from bench.rollout_arms.limits import Limits
from bench.rollout_arms.rounds import FREE, ORDERS, Timed, beside, select


@dataclass(frozen=True, slots=True)
class SpeedRatio:
    """Tokens per second of the arm ``torch`` over those of another one."""

    key: str
    kind: str
    other: str
    at_least: float | None = None
    decode_only: bool = False  # without the reading of prompts


SPEED_RATIOS = (
    SpeedRatio("tokens_per_second_vs_trl", FREE, "trl", 8),
    SpeedRatio("tokens_per_second_vs_vllm_lora", FREE, "vllm_lora", 6),
    SpeedRatio("tokens_per_second_vs_vllm", FREE, "vllm", 2),
    SpeedRatio("tokens_per_second_vs_openvino", FREE, "openvino", 1),
    SpeedRatio("tokens_per_second_vs_llama_cpp", FREE, "llama_cpp", 1),
    SpeedRatio("tokens_per_second_vs_llama_cpp_f16", FREE, "llama_cpp_f16"),
    SpeedRatio("constrained_vs_trl", ORDERS, "trl", 20),
    SpeedRatio("jump_forward_gain", ORDERS, "no_jump_forward", 2),
    SpeedRatio("jump_forward_decode_gain", ORDERS, "no_jump_forward", decode_only=True),
)


def speed_figures(samples: Sequence[Timed], num_prompt_tokens: int) -> dict[str, Figure]:
    """Every figure for each number of sequences (``<key>_8``), and under the plain key the worst of them.

    Comparisons with arms that were left out are not among them.
    """
    sizes = sorted({one.num_sequences for one in samples})
    figures: dict[str, Figure] = {}
    for comparison in SPEED_RATIOS:
        found = {f"{comparison.key}_{size}": _ratio(samples, comparison, size) for size in sizes}
        ratios = {key: ratio for key, ratio in found.items() if ratio is not None}
        if ratios:
            figures |= {comparison.key: min(ratios.values(), key=lambda figure: figure.median)} | ratios
    prefill = {f"prefill_tokens_per_group_{size}": _prefill_per_group(samples, size) for size in sizes}
    worst = replace(max(prefill.values(), key=lambda figure: figure.median), at_most=num_prompt_tokens)
    figures |= {"prefill_tokens_per_group": worst} | prefill
    return figures | {"prompt_tokens": Figure.of([num_prompt_tokens], "tokens")}


def _ratio(samples: Sequence[Timed], comparison: SpeedRatio, num_sequences: int) -> Figure | None:
    ours = select(samples, comparison.kind, "torch", num_sequences)
    theirs = select(samples, comparison.kind, comparison.other, num_sequences)
    rounds = sorted(ours.keys() & theirs.keys())
    if not rounds:
        return None
    speeds = [[_speed(of[number].sample, comparison) for number in rounds] for of in (ours, theirs)]
    ratios = [mine / its for mine, its in zip(*speeds, strict=True)]
    return replace(Figure.of(ratios, "ratio"), at_least=comparison.at_least)


def _speed(sample: RolloutSample, comparison: SpeedRatio) -> float:
    """Tokens per second."""
    if not comparison.decode_only:
        return sample.tokens_per_second
    assert sample.decode_seconds is not None, "the arms that are compared so have steps"
    return sample.num_tokens / sample.decode_seconds


def _prefill_per_group(samples: Sequence[Timed], num_sequences: int) -> Figure:
    taken = select(samples, FREE, "torch", num_sequences).values()
    return Figure.of([(one.sample.num_prefill_tokens or 0) / one.num_groups for one in taken], "tokens")


def neighbour_figures(samples: Sequence[Timed], neighbours: Sequence[int]) -> dict[str, Figure]:
    """How much longer each arm takes beside busy processes than alone, round by round: ``slowdown_beside_4_trl_8``.

    Without a number of sequences it is the worst of them; without an arm, that of ``torch``.
    """
    arms = list(dict.fromkeys(one.arm for one in samples if one.kind == FREE))
    sizes = sorted({one.num_sequences for one in samples})
    figures: dict[str, Figure] = {}
    for count in neighbours:
        for arm in arms:
            key = f"slowdown_beside_{count}_{arm}"
            found = {f"{key}_{size}": _slowdown(samples, arm, count, size) for size in sizes}
            worst = max(found.values(), key=lambda figure: figure.median)
            figures |= ({f"slowdown_beside_{count}": worst} if arm == "torch" else {}) | {key: worst} | found
    return figures


def _slowdown(samples: Sequence[Timed], arm: str, count: int, num_sequences: int) -> Figure:
    alone, busy = (select(samples, kind, arm, num_sequences) for kind in (FREE, beside(count)))
    ratios = [busy[number].sample.seconds / one.sample.seconds for number, one in alone.items()]
    return Figure.of(ratios, "ratio")


def limit_figures(samples: Sequence[Timed], limits: Limits) -> dict[str, Figure]:
    """How far ``torch`` is from what the machine allows, and what that is. Plain keys have the worst size."""
    figures: dict[str, Figure] = {}
    for key, unit, value_of in (
        ("decode_share_of_bound", "share", limits.share_of_bound),
        ("prefill_gflops", "GFLOP/s", lambda one: limits.prefill_rate(one) / 1e9),
    ):
        found: dict[str, Figure] = {}
        for size in sorted({one.num_sequences for one in samples}):
            taken = select(samples, FREE, "torch", size).values()
            found[f"{key}_{size}"] = Figure.of([value_of(one) for one in taken], unit)
        figures |= {key: min(found.values(), key=lambda figure: figure.median)} | found
    figures["matrix_rate"] = Figure.of([limits.machine.flop_rate / 1e9], "GFLOP/s")
    figures["read_rate"] = Figure.of([limits.machine.byte_rate / 1e9], "GB/s")
    return figures
