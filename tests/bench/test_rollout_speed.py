from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from bench.reporting.figures import Figure, figure_table
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.arm import RolloutSample, Setup, Workload
from bench.rollout_arms.costs import measure_costs
from bench.rollout_arms.figures import speed_figures
from bench.rollout_arms.rounds import FREE, ORDERS, RolloutShape, Timed, run_rounds, warm_up
from bench.rollout_arms.scaling import Cell, measure_scaling
from bench.rollout_arms.torch_arm import TorchArm, requests
from bench.rollout_arms.workloads import OrderWorkloads, free_workload
from bench.rollout_speed import main
from grpo_core.model.policy import load_policy
from grpo_core.model.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tests.bench.conftest import RunShort

KEYS = {
    "tokens_per_second_vs_trl",
    "tokens_per_second_vs_vllm_lora",
    "tokens_per_second_vs_vllm",
    "constrained_vs_trl",
    "jump_forward_gain",
    "jump_forward_decode_gain",
    "prefill_tokens_per_group",
    "prompt_tokens",
}
SHAPE = RolloutShape(num_sequences=(2, 4), group_size=2, num_prompt_tokens=24, num_tokens=4, vocab_size=2048)


class FakeArm:
    """Takes as many seconds per token as it is told, and keeps what it was given."""

    def __init__(self, seconds_per_token: float, num_order_tokens: int = 0) -> None:
        self.seconds_per_token = seconds_per_token
        self.num_order_tokens = num_order_tokens
        self.workloads: list[Workload] = []

    def run(self, workload: Workload) -> RolloutSample:
        self.workloads.append(workload)
        num_tokens = workload.num_sequences * (
            workload.num_tokens if workload.orders is None else self.num_order_tokens
        )
        seconds = num_tokens * self.seconds_per_token
        return RolloutSample(num_tokens, seconds, sum(map(len, workload.prompts)), decode_seconds=seconds / 2)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def fake_rounds() -> tuple[dict[str, FakeArm], list[Timed]]:
    """Arms of known speed, and the samples of six rounds of them."""
    pytest.importorskip("diplomacy", reason="the extra diplomacy is not installed")
    arms = {
        "torch": FakeArm(0.01, num_order_tokens=17),
        "no_jump_forward": FakeArm(0.03, num_order_tokens=17),
        "trl": FakeArm(0.1),
        "vllm_lora": FakeArm(0.05),
        "vllm": FakeArm(0.02),
    }
    rng = np.random.default_rng(0)
    return arms, list(run_rounds(arms, SHAPE, 6, rng, OrderWorkloads(load_tokenizer("tiny"), rng)))


def timed(arm: str, number: int, num_tokens: int, seconds: float, num_sequences: int = 8) -> Timed:
    sample = RolloutSample(num_tokens, seconds, num_prefill_tokens=100, decode_seconds=seconds / 2)
    return Timed(FREE, arm, num_sequences // 8, num_sequences, number, sample, foreign_s=0.0)


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = [(100, 1.0), (100, 2.0), (100, 4.0)], [(50, 1.0), (80, 3.2), (20, 10.0)]
    samples = [timed("torch", number, *sample) for number, sample in enumerate(ours)]
    samples += [timed("trl", number, *sample) for number, sample in enumerate(theirs)]
    ratio = speed_figures(samples, 100)["tokens_per_second_vs_trl_8"]
    assert (ratio.median, ratio.low, ratio.high, ratio.n, ratio.unit) == (2.0, 2.0, 12.5, 3, "ratio")


def test_a_plain_key_has_the_worst_number_of_sequences() -> None:
    samples = [timed("torch", 0, 100, 1.0, size) for size in (8, 16, 64)]
    samples += [timed("trl", 0, speed, 1.0, size) for size, speed in ((8, 10), (16, 25), (64, 20))]
    figures = speed_figures(samples, 100)
    assert figures["tokens_per_second_vs_trl"] == figures["tokens_per_second_vs_trl_16"]
    assert figures["tokens_per_second_vs_trl"].median == 4
    assert figures["prefill_tokens_per_group"].median == 100  # of one group; 12.5 of eight


def test_an_interval_covers_seven_rounds_and_names_what_was_asked_for() -> None:
    figure = Figure.of([3.0, 1.0, 2.0, 5.0, 4.0, 7.0, 6.0], "ratio", at_least=4)
    assert figure.as_json() == {"median": 4.0, "low": 1.0, "high": 7.0, "n": 7, "unit": "ratio"}
    assert (figure.wanted, figure.reached) == ("≥ 4", "yes")
    assert replace(figure, at_least=4.1).reached == "no"
    assert replace(figure, at_least=None, at_most=3.9).reached == "no"
    assert "| `key` | 4 [1, 7] | 7 | ratio | ≥ 4 | yes |" in list(figure_table({"key": figure}))


def test_all_arms_give_all_keys(fake_rounds: tuple[dict[str, FakeArm], list[Timed]]) -> None:
    figures = speed_figures(fake_rounds[1], SHAPE.num_prompt_tokens)
    assert set(figures) == KEYS | {f"{key}_{size}" for key in KEYS - {"prompt_tokens"} for size in (2, 4)}
    medians = {key: pytest.approx(figures[key].median) for key in KEYS}
    assert medians == {
        "tokens_per_second_vs_trl": 10,
        "tokens_per_second_vs_vllm_lora": 5,
        "tokens_per_second_vs_vllm": 2,
        "constrained_vs_trl": 10,
        "jump_forward_gain": 3,
        "jump_forward_decode_gain": 3,
        "prefill_tokens_per_group": 24,
        "prompt_tokens": 24,
    }


def test_arms_get_the_same_work_in_an_order_of_each_round(fake_rounds: tuple[dict[str, FakeArm], list[Timed]]) -> None:
    arms, samples = fake_rounds
    free = {
        name: [workload for workload in arm.workloads if workload.num_tokens == SHAPE.num_tokens]
        for name, arm in arms.items()
    }
    assert free["torch"] == free["vllm"] == free["vllm_lora"] == free["trl"]
    assert len({workload.prompts[0].tobytes() for workload in free["torch"]}) == 12  # no prompt comes again
    orders = [[one.arm for one in samples if one.kind == FREE and one.number == number] for number in range(6)]
    assert len({tuple(order) for order in orders}) > 1


def test_the_arm_without_constraints_samples_as_many_tokens(
    fake_rounds: tuple[dict[str, FakeArm], list[Timed]],
) -> None:
    arms, samples = fake_rounds
    unconstrained = [workload for workload in arms["trl"].workloads if workload.num_tokens == 17]
    constrained = [workload for workload in arms["torch"].workloads if workload.orders is not None]
    assert [workload.prompts for workload in unconstrained] == [workload.prompts for workload in constrained]
    assert all(workload.orders is None for workload in unconstrained)
    assert {one.sample.num_tokens for one in samples if one.kind == ORDERS and one.num_sequences == 2} == {34}


def test_warm_up_shows_each_size_to_each_arm() -> None:
    arms = {"torch": FakeArm(1.0), "trl": FakeArm(1.0)}
    warm_up(arms, SHAPE, np.random.default_rng(0))
    for arm in arms.values():
        assert [workload.num_sequences for workload in arm.workloads] == [2, 4]


def test_prompts_share_no_beginning() -> None:
    workload = free_workload(np.random.default_rng(0), 40, 2, 3, 4, vocab_size=40)
    assert sorted(int(prompt[0]) for prompt in workload.prompts) == list(range(40))


def test_orders_are_those_of_movement_phases() -> None:
    pytest.importorskip("diplomacy", reason="the extra diplomacy is not installed")
    tokenizer = load_tokenizer("tiny")
    workload = OrderWorkloads(tokenizer, np.random.default_rng(0)).next(20, 2)
    texts = [tokenizer.decode(prompt) for prompt in workload.prompts]
    assert all("the movement phase" in text for text in texts)
    assert len(set(texts)) == 20
    assert workload.orders is not None
    lines = [tokenizer.decode(line) for segments in workload.orders for lines in segments for line in lines]
    assert all(line.endswith("\n") for line in lines)


def test_every_work_is_sampled_with_a_version_of_its_own_and_reads_its_prompts(setup: Setup) -> None:
    arm = TorchArm(setup, AdapterPublisher(setup.folder / "adapters", setup.model))
    workload = SHAPE.free_workload(np.random.default_rng(0), 4)
    first, second = arm.run(workload), arm.run(workload)
    assert arm.engine.policy_version == 2
    assert (first.num_tokens, first.num_prefill_tokens) == (16, 48)
    assert (second.num_tokens, second.num_prefill_tokens) == (16, 48)


def test_the_adapter_of_all_arms_changes_what_is_said(setup: Setup) -> None:
    arm = TorchArm(setup, AdapterPublisher(setup.folder / "adapters", setup.model))
    workload = SHAPE.free_workload(np.random.default_rng(0), 2)
    base = arm.engine.generate(requests(workload))
    arm.next_version()
    adapted = arm.engine.generate(requests(workload))
    assert not np.allclose(base[0].sampling_logprobs[0], adapted[0].sampling_logprobs[0], atol=0.01)


@pytest.mark.slow
def test_the_torch_arms_run_end_to_end(run_short: RunShort) -> None:
    pytest.importorskip("diplomacy", reason="the extra diplomacy is not installed")
    found = run_short(main, ["--arms", "torch,no_jump_forward", "--sequences", "2,4"])
    assert {"jump_forward_gain", "jump_forward_gain_2", "jump_forward_gain_4", "prompt_tokens"} <= set(found.figures)
    assert not any("trl" in key or "vllm" in key for key in found.figures)
    assert found.figures["prefill_tokens_per_group"]["median"] == found.figures["prompt_tokens"]["median"] == 24
    for figure in found.figures.values():
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
    assert "| 4 | orders | `no_jump_forward` |" in found.tables
    assert "round 2/2: 4 sequences, free, torch: 16 tokens in " in found.progress


@pytest.mark.slow
def test_an_arm_without_its_package_is_left_out_and_named(run_short: RunShort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.rollout_speed.find_spec", lambda name: None)
    printed = run_short(main, ["--arms", "torch,trl,vllm", "--sequences", "2"]).tables
    assert "Arm trl left out: trl is not installed; run: pip install 'pytest-grpo[trl]'\n" in printed
    assert "Arm vllm left out: vllm is not installed; run: pip install " in printed
    assert "| 2 | free | `torch` |" in printed
    assert "`trl`" not in printed


def test_growth_draws_every_cell_in_both_panels(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.rollout_arms.scaling.NUM_ROUNDS", 1)
    cells = (Cell(1, 2, 16), Cell(1, 4, 48), Cell(4, 1, 48))
    file = setup.folder / "growth.svg"
    report = measure_scaling(setup, AdapterPublisher(setup.folder / "adapters", setup.model), file, cells)
    circles = list(ElementTree.fromstring(file.read_text(encoding="utf-8")).iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 2 * len(cells) + 2  # and one for each number of sequences in the legend
    assert sum(circle.get("fill") == "#fff" for circle in circles) == 2
    # 4 layers of 2 key-value heads of 64, keys and values, float32: 4 KiB per token; 4 x 48 + 4 x 32 tokens
    assert any(line.startswith("| 4 | 4 | 48 |") and line.endswith("| 1.2 | 1.2 |") for line in report.lines)
    assert any(line.startswith("| 1 | 4 | 48 |") and line.endswith("| 0.7 | 1.2 |") for line in report.lines)
    assert report.figures["decode_step_ms"].n == len(cells)


@pytest.mark.slow
def test_costs_are_those_of_swaps_and_of_a_process_of_its_own(setup: Setup) -> None:
    report = measure_costs(setup, SHAPE, ("tiny",))
    hit, swap = report.figures["adapter_cache_hit_ms"], report.figures["adapter_swap_ms"]
    assert hit.n == swap.n == 40
    assert hit.median <= swap.median
    assert report.figures["resident_memory_ratio_tiny"].median > 0
    weights = sum(weight.nbytes for weight in load_policy(setup.model).model.parameters())
    assert f"twice the weights are {2 * weights / 2**20:.0f} MiB" in report.lines[-1]


def test_threads_are_those_that_were_asked_for(setup: Setup) -> None:
    arm = TorchArm(setup, AdapterPublisher(setup.folder / "adapters", setup.model))
    torch.set_num_threads(2)
    arm.run(SHAPE.free_workload(np.random.default_rng(0), 2))
    assert torch.get_num_threads() == 1
