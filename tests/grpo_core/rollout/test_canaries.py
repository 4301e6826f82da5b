"""Every canary passes on sound engines and turns red on the fault that it is there for."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.canaries import Canary, CanaryResult, canaries_for, exactness, lifetime
from grpo_core.rollout.canaries.reference import support_problem
from grpo_core.rollout.canaries.subject import Subject, difference
from grpo_core.rollout.constraints.lines import Line, LineConstraint
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import AdapterSwap, GenerationRequest, Outcome, SamplingParams
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Completion, Float32, PolicyWeights, RaggedIds
from tests.grpo_core.model.broken_models import copy_of, edit_json

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
RUN = "doctor"
Examine = Callable[[type], Subject]


@pytest.fixture
def examine(model_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> Examine:
    """A subject with an engine of the given class."""

    def subject(kind: type) -> Subject:
        engine_policy, policy = (load_policy(ModelConfig(name=str(model_folder), device="cpu")) for _ in range(2))
        store = AdapterStore(tmp_path / "adapters")
        engine = kind(engine_policy, tokenizer.stop_ids, LoRACache(store, max_bytes=1 << 20, max_adapters=3), RUN)
        return Subject(engine, store, RUN, policy, tokenizer)

    return subject


def canaries_of(subject: Subject) -> list[Canary]:
    return canaries_for(subject, num_swaps=4, num_requests=4)


@pytest.mark.parametrize("kind", [pytest.param(PlainEngine, marks=pytest.mark.slow), TorchEngine])
def test_a_sound_engine_passes_them_all(kind: type, examine: Examine) -> None:
    subject = examine(kind)

    results = [canary.run(subject) for canary in canaries_of(subject)]

    assert [result for result in results if not result.passed] == []
    names = [result.name for result in results]
    assert len(set(names)) == len(names) == 7 + 9
    assert {f"adapter reaches {target}" for target in ("q_proj", "o_proj", "down_proj")} <= set(names)


class LosesModules(PlainEngine):
    """Merges all of an adapter but its ``k_proj``."""

    def _load(self, number: int) -> tuple[PolicyWeights | None, bool]:
        adapter, hit = super()._load(number)
        if adapter is not None:
            kept = {name: tensor for name, tensor in adapter.tensors.items() if ".k_proj." not in name}
            adapter = replace(adapter, tensors=kept)
        return adapter, hit


class KeepsPrefixes(PlainEngine):
    """Reuses the keys and values of a prompt, also those of another version."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._prefixes: dict[bytes, Any] = {}

    def _read(self, work: Any) -> torch.Tensor:
        prompt_ids = work.sequence.request.prompt_ids
        kept = self._prefixes.get(prompt_ids.tobytes())
        if kept is not None and not work.history.tokens:
            work.history.tokens, work.history.cache = prompt_ids[:-1].tolist(), copy.deepcopy(kept)
            work.sequence.pending.insert(0, int(prompt_ids[-1]))
            return super()._read(work)
        logits = super()._read(work)
        if kept is None:
            kept = self._prefixes[prompt_ids.tobytes()] = copy.deepcopy(work.history.cache)
            kept["past_key_values"].crop(len(prompt_ids) - 1)
        return logits


class IgnoresTopP(PlainEngine):
    def submit(self, request: GenerationRequest) -> int:
        return super().submit(replace(request, sampling=replace(request.sampling, top_p=1.0)))


class IgnoresTopK(PlainEngine):
    def submit(self, request: GenerationRequest) -> int:
        return super().submit(replace(request, sampling=replace(request.sampling, top_k=0)))


class _Edits(PlainEngine):
    """Changes completions that are sound."""

    def step(self) -> list[Outcome]:
        return [
            Outcome(each.ticket, self.edit(each.result) if isinstance(each.result, Completion) else each.result)
            for each in super().step()
        ]

    def edit(self, completion: Completion) -> Completion:
        raise NotImplementedError


class ForgetsTheTemperature(_Edits):
    def edit(self, completion: Completion) -> Completion:
        return replace(completion, temperature=1.0)


class CallsAllTokensChosen(_Edits):
    def edit(self, completion: Completion) -> Completion:
        return replace(completion, completion_mask=np.ones_like(completion.completion_mask))


class NamesTheNewVersion(_Edits):
    def edit(self, completion: Completion) -> Completion:
        return replace(completion, policy_version=self.policy_version)


class GivesNoNumbers(_Edits):
    def edit(self, completion: Completion) -> Completion:
        return replace(completion, sampling_logprobs=completion.sampling_logprobs * np.float32("nan"))


class ScoresWithTheAdapter(PlainEngine):
    def _score(self, completion: Completion) -> Float32:
        return completion.sampling_logprobs


class LetsMatesDecide(PlainEngine):
    def submit(self, request: GenerationRequest) -> int:
        seed = request.sampling.seed + len(self._waiting)
        return super().submit(replace(request, sampling=replace(request.sampling, seed=seed)))


class RoundsByTheBatch(_Edits):
    """Its company decides the last digits."""

    def edit(self, completion: Completion) -> Completion:
        shift = np.float32(2e-6 * len(self._waiting))
        return replace(completion, sampling_logprobs=completion.sampling_logprobs - shift)


class SaysItIsExact(RoundsByTheBatch):
    is_batch_invariant = True


class SpellsForcedRuns(PlainEngine):
    """Forces the right text, in tokens of half the length."""

    tokenizer: Tokenizer

    def submit(self, request: GenerationRequest) -> int:
        constraint = request.constraint
        if isinstance(constraint, LineConstraint):
            segments = tuple(tuple(self._spell(line) for line in lines) for lines in constraint.segments)
            request = replace(request, constraint=LineConstraint(segments))
        return super().submit(request)

    def _spell(self, line: Line) -> Line:
        return tuple(
            int(token) for character in self.tokenizer.decode(line) for token in self.tokenizer.encode(character)
        )


class SwitchesUnderWay(PlainEngine):
    """A swap reaches requests that have begun."""

    def use_version(self, number: int) -> AdapterSwap:
        swap = super().use_version(number)
        for ticket, work in self._waiting.items():
            self._waiting[ticket] = replace(work, weights=self._active)  # type: ignore[type-var]
        return swap


class IgnoresVersions(PlainEngine):
    def submit(self, request: GenerationRequest) -> int:
        return super().submit(replace(request, policy_version=None))


class Leaks(PlainEngine):
    def use_version(self, number: int) -> AdapterSwap:
        self.__dict__.setdefault("kept", []).append(np.ones(8 << 20))  # 64 MiB
        return super().use_version(number)


class Breaks(PlainEngine):
    def step(self) -> list[Outcome]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")


@pytest.mark.parametrize(
    ("fault", "name", "seen"),
    [
        (LosesModules, "adapter reaches k_proj", "moved by up to"),
        (KeepsPrefixes, "nothing stale after a swap", "from PEFT"),
        (IgnoresTopP, "ratio 1 on policy", "top_p 0.8: no allowed_ids"),
        (IgnoresTopK, "ratio 1 on policy", "top_k 20: no allowed_ids"),
        (ForgetsTheTemperature, "ratio 1 on policy", "temperature 0.7"),
        (CallsAllTokensChosen, "ratio 1 on policy", "constrained: token 0: forced"),
        (GivesNoNumbers, "ratio 1 on policy", "inf"),
        (ScoresWithTheAdapter, "reference is the base model", "from transformers"),
        (LetsMatesDecide, "batch-mates change nothing", "is not"),
        (SaysItIsExact, "batch-mates change nothing", "the same tokens, log-probabilities"),
        (IgnoresTopK, "greedy is transformers.generate", "version 0, prompt 0"),
        (SpellsForcedRuns, "forced runs are the tokenizer's", "is not ["),
        (SwitchesUnderWay, "requests keep their version", "request"),
        (NamesTheNewVersion, "requests keep their version", "says version"),
        (IgnoresVersions, "versions share a batch", "request 0"),
        pytest.param(Leaks, "memory is flat", "MiB over 4 swaps", marks=pytest.mark.slow),
        (Breaks, "batch-mates change nothing", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_planted_fault_turns_its_canary_red(
    fault: type, name: str, seen: str, examine: Examine, tokenizer: Tokenizer
) -> None:
    subject = examine(fault)
    if isinstance(subject.engine, SpellsForcedRuns):
        subject.engine.tokenizer = tokenizer
    (canary,) = [canary for canary in canaries_of(subject) if canary.name == name]

    result = canary.run(subject)

    assert (result.name, result.passed) == (name, False)
    assert seen in result.detail
    assert "\n" not in result.detail


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (RoundsByTheBatch, "10 requests: the same whatever shares the batch"),
        pytest.param(TorchEngine, "10 requests: the same whatever shares the batch, bit for bit", marks=needs_compiler),
    ],
)
def test_batch_mates_may_round_otherwise_only_where_the_engine_says_so(
    kind: type, detail: str, examine: Examine
) -> None:
    subject = examine(kind)
    (canary,) = [canary for canary in canaries_of(subject) if canary.name == "batch-mates change nothing"]

    assert canary.run(subject) == CanaryResult(canary.name, True, detail)


@pytest.mark.slow
def test_the_memory_canary_takes_no_longer_than_it_may(examine: Examine) -> None:
    subject = examine(TorchEngine)
    finding = lifetime.memory_is_flat(subject, 1000, 2000, max_s=0.0)
    assert "over 20 swaps and 40 requests" in finding.detail


def test_a_lost_module_spares_the_others(examine: Examine) -> None:
    subject = examine(LosesModules)
    reaches = [canary.run(subject) for canary in canaries_of(subject) if canary.name.startswith("adapter reaches")]

    assert [result.name for result in reaches if not result.passed] == ["adapter reaches k_proj"]


def completion_of(supports: Sequence[Sequence[int]], ids: Sequence[int], forced: Sequence[bool]) -> Completion:
    offsets = np.concatenate([[0], np.cumsum([len(support) for support in supports])]).astype(np.int32)
    return Completion(
        prompt_ids=np.array([1], dtype=np.int32),
        completion_ids=np.array(ids, dtype=np.int32),
        completion_mask=~np.array(forced),
        sampling_logprobs=np.zeros(len(ids), dtype=np.float32),
        policy_version=0,
        temperature=1.0,
        finish_reason="stop",
        allowed_ids=RaggedIds(np.concatenate([np.array(each, dtype=np.int32) for each in supports]), offsets),
    )


@pytest.mark.parametrize(
    ("options", "support", "is_sound"),
    [
        ({"top_k": 2}, [3, 4], True),
        ({"top_k": 2}, [2, 3, 4], False),
        ({"top_k": 2}, [4], False),
        ({"min_p": 0.3}, [3, 4], True),
        ({"min_p": 0.2}, [3, 4], False),
        ({"top_p": 0.55}, [3, 4], True),
        ({"top_p": 0.45}, [3, 4], False),
        ({"top_p": 0.5}, [3, 4], True),  # at the limit: either will do
        ({"top_p": 0.5}, [4], True),
        ({"top_p": 0.93}, [0, 2, 3, 4], True),  # ids 0 and 1 tie for the last place
        ({"top_p": 0.93}, [1, 2, 3, 4], True),
        ({"top_p": 0.93}, [0, 1, 3, 4], False),
        ({"top_k": 3, "top_p": 0.55}, [4], True),
        ({"top_k": 3, "top_p": 0.55}, [3, 4], False),
    ],
)
def test_supports_are_checked_against_the_sampling_parameters(
    options: dict[str, Any], support: list[int], is_sound: bool
) -> None:
    """Probabilities of the five ids: 0.05, 0.05, 0.15, 0.25, 0.5."""
    logits = np.log([[0.05, 0.05, 0.15, 0.25, 0.5]])
    request = GenerationRequest(np.array([1], dtype=np.int32), SamplingParams(seed=0, **options))

    problem = support_problem(logits, request, completion_of([support], [4], [False]))

    assert (problem is None) == is_sound


def test_supports_are_checked_against_the_constraint() -> None:
    logits = np.zeros((2, 5))
    constraint = LineConstraint((((1, 2), (3, 2)),))
    request = GenerationRequest(np.array([1], dtype=np.int32), SamplingParams(seed=0), constraint)

    assert support_problem(logits, request, completion_of([[1, 3], [2]], [1, 2], [False, True])) is None
    for broken, match in [
        (completion_of([[1, 3], [2]], [1, 2], [False, False]), "token 1: forced"),
        (completion_of([[1, 3], [2]], [4, 2], [False, True]), "token 0: 4 is not"),
        (completion_of([[1, 2, 3], [2]], [1, 2], [False, True]), "token 0: its 3 allowed_ids"),
        (replace(completion_of([[1, 3]], [1, 2], [False, True]), allowed_ids=None), "no allowed_ids"),
    ]:
        assert match in (support_problem(logits, request, broken) or "")


def test_log_probabilities_tell_equal_tokens_apart() -> None:
    one = completion_of([[1]], [1], [False])
    other = replace(one, sampling_logprobs=one.sampling_logprobs + np.float32(1e-3))

    assert difference([one], [one]) is None
    assert "log-probabilities 1.0e-03 apart" in (difference([one], [other]) or "")


def test_a_model_that_takes_no_adapter_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gpt2", vocab_size=384, n_embd=16, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    policy = load_policy(ModelConfig(name=str(tmp_path / "gpt2"), device="cpu"), any_architecture=True)
    store = AdapterStore(tmp_path / "adapters")
    engine = PlainEngine(policy, tokenizer.stop_ids, LoRACache(store, 1 << 20, 3), RUN)

    with pytest.raises(ModelError, match="no linear modules"):
        Subject(engine, store, RUN, policy, tokenizer)


@pytest.mark.parametrize(("stop_ids", "passed"), [(1, False), (2, True)])
def test_an_engine_that_knows_one_of_several_stop_ids_is_seen(
    stop_ids: int, passed: bool, model_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    store = AdapterStore(tmp_path / "adapters")

    def subject_of(num_stop_ids: int | None) -> Subject:
        policies = [load_policy(ModelConfig(name=str(folder), device="cpu")) for _ in range(2)]
        tokenizer = load_tokenizer(str(folder))
        engine = TorchEngine(policies[0], tokenizer.stop_ids[:num_stop_ids], LoRACache(store, 1 << 20, 3), RUN)
        return Subject(engine, store, RUN, policies[1], tokenizer)

    subject = subject_of(None)
    drawn = subject.engine.generate([subject.request(0, max_tokens=24, top_k=1)])[0].completion_ids.tolist()
    edit_json(folder / "generation_config.json", eos_token_id=[0, drawn[7]])

    finding = exactness.greedy_is_generate(subject_of(stop_ids))

    assert finding.passed == passed, finding.detail
