from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bench.reporting.figures import Figure
from bench.rollout_arms.arm import Setup, Workload
from bench.trainer_arms.arms import SHARED, Taken, build_arms
from bench.trainer_arms.batches import BatchShape, on_policy, random_batch
from bench.trainer_arms.figures import agreement, all_figures, preset_figures, rate_figure
from bench.trainer_arms.flops import step_flops
from bench.trainer_arms.memory import measure_step_bytes
from bench.trainer_arms.scaling import GROUP_SIZES, scaling_predictors, slope_ratio
from bench.trainer_arms.speed import measure_speed, run_rounds
from bench.trainer_speed import main
from grpo_core.model.presets import PRESETS
from pytest_grpo.systems.protocol import TrainBatch, TrainStep

if TYPE_CHECKING:
    from tests.bench.conftest import RunShort

SHAPE = BatchShape(num_groups=2, group_size=3, num_prompt_tokens=20, num_tokens=5)
FULL = BatchShape(num_groups=2, group_size=8, num_prompt_tokens=944, num_tokens=64)


def taken(forward_ms: float, backward_ms: float, *, rollout: float = 0.0, logprob: float = -1.0) -> Taken:
    step = TrainStep(0.0, 2.0, forward_ms, backward_ms, 1, 1, 0, 4, (np.full(4, logprob, np.float32),))
    return Taken(step, (forward_ms + backward_ms) / 1e3, rollout)


class FakeArm:
    """Keeps what it was given, and says that the policy has -3 nats for everything."""

    def __init__(self) -> None:
        self.batches: list[TrainBatch] = []
        self.works: list[Workload | None] = []

    def run(self, batch: TrainBatch, work: Workload | None = None) -> Taken:
        self.batches.append(batch)
        self.works.append(work)
        logprobs = tuple(np.full(len(one.completion_ids), -3.0, np.float32) for one in batch.completions)
        return Taken(replace(taken(1, 1).step, logprobs=logprobs), 1.0, 1.0)


def test_ratios_are_taken_round_by_round() -> None:
    rounds = [
        {"shared": taken(10, 10, rollout=1.0), "padded": taken(50, 70), "trl": taken(100, 300, rollout=4.0)},
        {"shared": taken(20, 40, rollout=1.0), "padded": taken(100, 140), "trl": taken(200, 700, rollout=4.0)},
        {"shared": taken(30, 10, rollout=1.0), "padded": taken(100, 100), "trl": taken(400, 400, rollout=4.0)},
    ]
    figures = preset_figures(rounds)

    assert {key: figure.median for key, figure in figures.items()} == {
        "step_vs_trl": pytest.approx(20),
        "step_vs_padded": pytest.approx(5),
        "forward_over_backward": 1,
        "whole_step_vs_trl": pytest.approx(4.8 / 1.04),
    }
    assert (figures["step_vs_trl"].low, figures["step_vs_trl"].high) == pytest.approx((15, 20))
    assert figures["forward_over_backward"].wanted == "0.67 to 1.5"
    assert preset_figures([{"shared": taken(1, 2)}]).keys() == {"forward_over_backward"}


def test_a_share_of_the_matrix_rate_is_of_each_round() -> None:
    rounds = [{"shared": taken(500, 500)}, {"shared": taken(1000, 1000)}, {"shared": taken(2000, 2000)}]
    figure = rate_figure(rounds, 30.0, 60.0)["step_share_of_matrix_rate"]
    assert (figure.median, figure.low, figure.high) == (0.25, 0.125, 0.5)


def test_a_plain_key_has_the_worst_preset() -> None:
    def figures(speedup: float, ratio: float, memory: float) -> dict[str, Figure]:
        return {
            "step_vs_trl": Figure.of([speedup], "ratio", at_least=12),
            "forward_over_backward": Figure.of([ratio], "ratio", at_least=0.67, at_most=1.5),
            "peak_memory_vs_padded": Figure.of([memory], "ratio", at_most=1 / 3),
        }

    found = all_figures({"tiny": figures(20, 1.3, 0.2), "small": figures(30, 0.7, 0.3)})

    assert found["step_vs_trl"] == found["step_vs_trl_tiny"]
    assert found["forward_over_backward"] == found["forward_over_backward_small"]  # 1 / 0.7 is above 1.3
    assert found["peak_memory_vs_padded"] == found["peak_memory_vs_padded_small"]


def test_agreement_is_the_largest_difference() -> None:
    rounds = [{"shared": taken(1, 1), "trl": taken(1, 1, logprob=value)} for value in (-1.0001, -1.0005)]
    found = agreement(rounds, "trl")

    assert found.logprobs == pytest.approx(5e-4, rel=1e-3)
    assert found.is_close
    assert not agreement([{"shared": taken(1, 1), "trl": taken(1, 1, logprob=-1.01)}], "trl").is_close
    other = replace(taken(1, 1).step, grad_norm=2.1)
    assert agreement([{"shared": taken(1, 1), "trl": Taken(other, 1.0)}], "trl").grad_norm == pytest.approx(0.05)


def test_arms_that_disagree_are_no_comparison(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [{"shared": taken(1, 1, rollout=1.0), "trl": taken(1, 1, rollout=1.0, logprob=-2.0)}]
    monkeypatch.setattr("bench.trainer_arms.speed.build_arms", lambda *args, **options: {})
    monkeypatch.setattr("bench.trainer_arms.speed.run_rounds", lambda *args: iter(rounds))
    with pytest.raises(ArithmeticError, match="tiny: trl and shared do not compute the same"):
        measure_speed(setup, ["tiny"], SHAPE, ["shared", "trl"], 1, 1)


def test_arms_get_the_same_batch_in_an_order_of_each_round() -> None:
    arms = {name: FakeArm() for name in ("shared", "padded", "trl")}
    rounds = list(run_rounds(arms, "tiny", SHAPE, 6, np.random.default_rng(0)))  # pyright: ignore[reportArgumentType]

    assert len(rounds) == 6
    assert len({tuple(one) for one in rounds}) > 1
    assert len(arms["shared"].batches) == 2 * 7  # each batch first for its log-probabilities
    assert arms["shared"].batches[1::2] == arms["padded"].batches == arms["trl"].batches
    assert len({batch.groups[0].prompt_ids.tobytes() for batch in arms["trl"].batches}) == 7
    assert all((one.sampling_logprobs == -3).all() for one in arms["trl"].batches[0].completions)
    assert arms["trl"].works == arms["padded"].works
    assert {work.num_tokens for work in arms["trl"].works if work is not None} == {5}


def test_batches_have_the_shape_and_rewards_that_differ() -> None:
    batch = random_batch(np.random.default_rng(0), SHAPE, 2048)

    assert [len(group.prompt_ids) for group in batch.groups] == [20, 20]
    assert len({int(group.prompt_ids[0]) for group in batch.groups}) == 2
    assert batch.num_loss_tokens == 2 * 3 * 5
    assert all(sorted(group.rewards) == [0.0, 1.0, 2.0] for group in batch.groups)
    assert (SHAPE.num_padded_tokens, SHAPE.num_needed_tokens) == (2 * 3 * 25, 2 * (20 + 15))
    values = tuple(np.full(5, float(index), np.float32) for index in range(6))
    changed = on_policy(batch, values).completions
    assert [float(one.sampling_logprobs[0]) for one in changed] == [0, 1, 2, 3, 4, 5]


def test_flops_are_those_counted_by_hand() -> None:
    """One prompt of two tokens, two completions of two: four tokens go in, three predict, four are chosen."""
    sizes = PRESETS["tiny"]
    keys_values, others = 2 * 256 * 128, 2 * 256 * 256 + 3 * 256 * 896
    assert (sizes.hidden_size, sizes.num_layers, sizes.vocab_size) == (256, 4, 2048)
    found = step_flops("tiny", BatchShape(1, 2, 2, 2))

    pairs, last_pairs = 1 + 2 + 3 + 3, 2 + 3 + 3
    linears = 2 * 4 * (4 * keys_values + 3 * others) + 2 * 3 * others
    attention, head = 4 * (3 * pairs + last_pairs) * 256, 2 * 4 * 256 * 2048
    assert found.forward == linears + attention + head
    below_all_trained = 2 * 4 * (256 * 256 + keys_values) + 2 * pairs * 256
    assert found.backward == linears - below_all_trained + 2 * attention + head


def test_growth_is_measured_against_what_predicts_it() -> None:
    predictors = scaling_predictors("tiny", FULL)

    assert predictors["tokens"](4) == 944 + 4 * 64
    for predict in predictors.values():
        assert slope_ratio({size: 3e-4 * predict(size) for size in GROUP_SIZES}, predict) == pytest.approx(1)
    assert slope_ratio({size: 1.0 * size for size in GROUP_SIZES}, predictors["tokens"]) > 1.3
    assert slope_ratio({size: 1.0 for size in GROUP_SIZES}, predictors["tokens"]) == pytest.approx(0, abs=1e-9)
    flops = predictors["flops"]
    assert flops(32) - flops(16) == pytest.approx(2 * (flops(16) - flops(8)), rel=1e-9)


@pytest.mark.slow
def test_the_arms_of_this_project_agree(setup: Setup) -> None:
    arms = build_arms(["shared", "padded"], setup, with_rollouts=False)
    batch = random_batch(np.random.default_rng(0), SHAPE, 2048)
    found = {name: arm.run(batch) for name, arm in arms.items()}

    assert agreement([found], "padded").logprobs < 1e-4
    assert agreement([found], "padded").grad_norm < 1e-4
    assert found[SHARED].step.grad_norm > 0
    assert {taken.step.num_micro_batches for taken in found.values()} == {1}


@pytest.mark.slow
def test_memory_is_that_of_a_step(tmp_path: Path) -> None:
    """More tokens need more; the weights, which are there before, are not counted."""
    few, many = (
        measure_step_bytes(SHARED, "tiny", BatchShape(1, 2, size, 8), tmp_path / str(size), 1) for size in (32, 1500)
    )
    assert 0 < few < 100 * 2**20
    assert many > few + 20 * 2**20


@pytest.mark.slow
def test_the_arms_run_end_to_end(run_short: RunShort, tmp_path: Path) -> None:
    drawing = tmp_path / "growth.svg"
    found = run_short(main, ["--presets", "tiny", "--arms", "shared,padded", "--growth", str(drawing)])

    keys = {"step_vs_padded", "peak_memory_vs_padded", "forward_over_backward", "step_share_of_matrix_rate"}
    assert set(found.figures) == {
        *keys,
        *(f"{key}_tiny" for key in keys),
        "matrix_rate",
        "growth_slope_vs_tokens_tiny",
        "growth_slope_vs_flops_tiny",
    }
    assert "log-probabilities differ by at most" in found.tables
    assert ElementTree.parse(drawing).getroot().tag.endswith("svg")
