"""What is sampled from: the model's own distribution, and the log-probabilities that say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import chisquare
from torch import Tensor, nn

from grpo_core.config import ModelConfig
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Completion
from tests.grpo_core.rollout.torch_engine.bench import Bench, peft_model
from tests.grpo_core.rollout.torch_engine.sampling_requests import (
    STOP_ID,
    prompt,
    random_constraint,
    random_requests,
    request,
)

PlainLogprobs = Callable[[Any, Completion], Tensor]
MakeAdapter = Callable[..., Adapter]
MakeBench = Callable[..., Bench]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_cold_sampling_is_the_greedy_search_of_transformers(
    architecture: str,
    native: bool,
    model_folders: dict[str, Path],
    make_bench: MakeBench,
    load_plain: Callable[[Path], Any],
) -> None:
    plain = load_plain(model_folders[architecture])
    prompts = [prompt(seed, length) for seed, length in enumerate((1, 5, 17, 40))]

    completions = make_bench(model_folders[architecture], native=native).engine.generate(
        [request(ids, temperature=1e-6, max_tokens=24) for ids in prompts]
    )

    for ids, completion in zip(prompts, completions, strict=True):
        input_ids = torch.from_numpy(ids.astype(np.int64))[None]
        expected = plain.generate(
            input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, max_new_tokens=24
        )[0, len(ids) :]
        assert completion.completion_ids.tolist() == expected.tolist()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_sampling_logprobs_are_those_of_a_plain_forward(
    with_adapter: bool,
    native: bool,
    make_bench: MakeBench,
    make_adapter: MakeAdapter,
    plain_model: nn.Module,
    plain_logprobs: PlainLogprobs,
) -> None:
    bench = make_bench(native=native)
    rng = np.random.default_rng(0)
    constraint = random_constraint(rng)
    options: list[dict[str, Any]] = [
        {},
        {"temperature": 0.75},
        {"temperature": 0.75, "top_p": 0.9},
        {"constraint": constraint},
        {"constraint": constraint, "temperature": 0.75, "top_p": 0.9},
    ]
    requests = [
        request(prompt(length, length), seed, want_ref=True, **option)
        for length in (1, 13, 30)
        for option in options
        for seed in range(2)
    ]
    model = plain_model
    if with_adapter:
        adapter = make_adapter(bench.policy)
        bench.publish_and_use(adapter)
        model = peft_model(bench, adapter, plain_model)

    completions = bench.engine.generate(requests)

    moved = []
    for completion in completions:
        with torch.no_grad():
            expected = plain_logprobs(model, completion).numpy()
            if isinstance(model, PeftModel):
                with model.disable_adapter():
                    reference = plain_logprobs(model, completion).numpy()
            else:
                reference = expected
        assert completion.policy_version == int(with_adapter)
        assert np.abs(completion.sampling_logprobs - expected).max() < 1e-4
        assert completion.ref_logprobs is not None
        assert completion.ref_logprobs.dtype == np.float32
        assert np.abs(completion.ref_logprobs - reference).max() < 1e-4
        moved.append(np.abs(expected - reference).max())
    assert (max(moved) > 0.1) == with_adapter


def test_bfloat16_weights_sample_from_almost_the_same_distribution(
    model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path, plain_model: nn.Module, plain_logprobs: PlainLogprobs
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu", dtype="bfloat16"))
    store = AdapterStore(tmp_path / "adapters")
    bench = Bench(policy, store, TorchEngine(policy, (STOP_ID,), LoRACache(store, 1 << 20, 2), "run"))
    adapter = make_adapter(policy, targets=("q_proj", "down_proj"), std=0.05)
    bench.publish_and_use(adapter)
    requests = [request(prompt(length, length), seed, want_ref=True) for length in (5, 90) for seed in range(3)]

    completions = bench.engine.generate(requests)

    model = peft_model(bench, adapter, plain_model)
    for completion in completions:
        with torch.no_grad():
            expected = plain_logprobs(model, completion).numpy()
        assert np.abs(completion.sampling_logprobs - expected).max() < 0.1


def test_the_reference_of_version_0_is_the_policy_itself(make_bench: MakeBench) -> None:
    completions = make_bench().engine.generate(random_requests(np.random.default_rng(1), 4, want_ref=True))

    for completion in completions:
        assert completion.ref_logprobs is not None
        assert completion.ref_logprobs.tolist() == completion.sampling_logprobs.tolist()


def test_reference_logprobs_come_only_where_they_are_wanted(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    bench = make_bench()
    wanted = [True, False, True]
    requests = [request(prompt(0, 5), seed, want_ref=want) for seed, want in enumerate(wanted)]
    for number in (0, 1):
        if number:
            bench.publish_and_use(make_adapter(bench.policy))
        completions = bench.engine.generate(requests)
        assert [completion.ref_logprobs is not None for completion in completions] == wanted


def test_first_tokens_come_as_often_as_the_model_says(make_bench: MakeBench, plain_model: nn.Module) -> None:
    prompt_ids, num = prompt(0, 6), 4000
    with torch.no_grad():
        ids = torch.from_numpy(prompt_ids.astype(np.int64))[None]
        expected = plain_model(input_ids=ids).logits[0, -1].double().softmax(-1).numpy() * num

    completions = make_bench().engine.generate([request(prompt_ids, seed, max_tokens=1) for seed in range(num)])

    counts = np.bincount([completion.completion_ids[0] for completion in completions], minlength=len(expected))
    is_common = expected >= 5
    observed = [*counts[is_common], counts[~is_common].sum()]
    assert len(observed) > 20
    assert chisquare(observed, [*expected[is_common], expected[~is_common].sum()]).pvalue > 1e-6


def test_second_tokens_follow_the_first_as_often_as_the_model_says(make_bench: MakeBench) -> None:
    """Cumulative probabilities of sampled tokens are uniform at every position only if draws are independent."""
    bench = make_bench()
    constraint = LineConstraint((((1, 9), (2, 9)), ((3, 9), (4, 9))))
    completions = bench.engine.generate([request(prompt(0, 6), seed, constraint=constraint) for seed in range(4000)])

    counts: dict[tuple[int, int], int] = {}
    exact: dict[tuple[int, int], float] = {}
    for completion in completions:
        pair = (int(completion.completion_ids[0]), int(completion.completion_ids[2]))
        counts[pair] = counts.get(pair, 0) + 1
        exact[pair] = float(np.exp(completion.sampling_logprobs.sum(dtype=np.float64)))
    pairs = sorted(exact)

    assert len(pairs) == 4
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    expected = np.array([exact[pair] for pair in pairs])
    assert chisquare([counts[pair] for pair in pairs], expected / expected.sum() * 4000).pvalue > 1e-6


def test_reference_scoring_leaves_the_adapter_in_use(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    bench = make_bench()
    bench.publish_and_use(make_adapter(bench.policy))
    item = request(prompt(0, 8), want_ref=True)

    first, again = (bench.engine.generate([item])[0] for _ in range(2))

    assert first.sampling_logprobs.tobytes() == again.sampling_logprobs.tobytes()
    assert first.ref_logprobs is not None
    assert np.abs(first.ref_logprobs - first.sampling_logprobs).max() > 0.01
