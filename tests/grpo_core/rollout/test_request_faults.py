"""A fault at any call that an engine makes for one request ends that request, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.errors import ConstraintError, GrpoError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.plain_engine import engine as plain
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams, run_requests
from grpo_core.rollout.sequence import SequenceState
from grpo_core.rollout.torch_engine import engine as torch_engine
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.rollout.torch_engine.scoring import ReferenceScorer
from grpo_core.rollout.torch_engine.weights.versions import Versions
from grpo_core.types import Adapter, Completion

Engine = TorchEngine | PlainEngine
LINES = ((11, 12, 7), (11, 15, 7), (21, 22, 7))


@pytest.fixture(params=[TorchEngine, PlainEngine])
def engine(
    request: pytest.FixtureRequest, policy: Policy, make_adapter: Callable[..., Adapter], tmp_path: Path
) -> Engine:
    store = AdapterStore(tmp_path)
    for number in (1, 2):
        store.publish(make_adapter(policy, number=number, seed=number, std=0.2))
    return request.param(policy, (0,), LoRACache(store, 1 << 20, 2), "run")


def asking(seed: int, *, version: int = 1, constrained: bool = True) -> GenerationRequest:
    ids = np.random.default_rng(seed).integers(1, 300, 20, dtype=np.int32)
    constraint = LineConstraint((LINES, LINES)) if constrained else None
    return GenerationRequest(ids, SamplingParams(seed, max_tokens=8), constraint, True, version)


BAD = asking(7, version=2)


@dataclass(frozen=True)
class Call:
    """One that an engine makes for one request: where it is, and whether its arguments are those of ``BAD``."""

    owner: Any
    name: str
    is_bad: Callable[..., bool]
    engines: tuple[type, ...] = (TorchEngine, PlainEngine)


def of_sequence(sequence: SequenceState, *_: Any, **__: Any) -> bool:
    return sequence.request is BAD


def of_prompt(_: Any, __: Any, prompt_ids: Any) -> bool:
    return prompt_ids is BAD.prompt_ids


CALLS = (
    Call(torch_engine, "check_request", lambda request, *_: request is BAD, (TorchEngine,)),
    Call(plain, "check_request", lambda request, *_: request is BAD, (PlainEngine,)),
    Call(SequenceState, "__post_init__", of_sequence),
    Call(Versions, "hold", lambda _, number: number == 2, (TorchEngine,)),
    Call(LoRACache, "get", lambda _, version: version.number == 2, (PlainEngine,)),
    Call(PrefixCache, "split_bytes", of_prompt, (TorchEngine,)),
    Call(PrefixCache, "acquire", of_prompt, (TorchEngine,)),
    Call(SequenceState, "take_forced", of_sequence),
    Call(SequenceState, "take", of_sequence),
    Call(SequenceState, "completion", of_sequence),
    Call(ReferenceScorer, "_logprobs", lambda _, sequence, *__: sequence.request is BAD, (TorchEngine,)),
    Call(PlainEngine, "_score", lambda _, completion: completion.prompt_ids is BAD.prompt_ids, (PlainEngine,)),
)


@pytest.mark.parametrize("error", [RuntimeError("broken\nwith a second line"), MemoryError(), KeyError("x")])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.owner.__name__}.{call.name}")
def test_a_fault_ends_its_own_request_only(
    call: Call, error: Exception, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(engine, call.engines):
        pytest.skip("the other engine makes this call")
    good = [asking(seed, version=seed % 2) for seed in range(4)]
    expected = engine.generate(good)
    before = engine.counters
    original = getattr(call.owner, call.name)
    num_faults = 0

    def faulty(*arguments: Any, **options: Any) -> Any:
        nonlocal num_faults
        if call.is_bad(*arguments, **options):
            num_faults += 1
            raise error
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(call.owner, call.name, faulty)
        results = run_requests(engine, [good[0], good[1], BAD, good[2], good[3]])

    failed = results.pop(2)
    assert num_faults
    assert isinstance(failed, GrpoError)
    assert "\n" not in str(failed)
    for result, completion in zip(results, expected, strict=True):
        assert isinstance(result, Completion)
        assert result.completion_ids.tolist() == completion.completion_ids.tolist()
        assert result.ref_logprobs is not None
        assert completion.ref_logprobs is not None
        assert result.ref_logprobs.tolist() == pytest.approx(completion.ref_logprobs.tolist(), abs=2e-5)
    assert (engine.counters - before).num_failed == 1
    assert_nothing_is_held(engine)
    (again,) = run_requests(engine, [BAD])  # and the engine still serves it
    assert isinstance(again, Completion)


def assert_nothing_is_held(engine: Engine) -> None:
    assert run_requests(engine, []) == []
    if isinstance(engine, TorchEngine):
        assert engine.num_under_way == 0
        assert not engine._versions._num_holds
        assert not engine._requests._num_siblings
        roots = list(engine._prefixes._roots.values())
        while roots:
            node = roots.pop()
            assert node.num_users == 0
            roots.extend(node.children.values())


@dataclass(frozen=True)
class Names:
    """A constraint of a user's, and its cursor: ``ids`` may come next, whatever came before."""

    ids: Any
    finished: bool = False
    max_tokens: int = 8

    def start(self) -> Names:
        return self

    def allowed(self) -> Any:
        return self.ids

    def advance(self, token: int) -> None:
        pass


@pytest.mark.parametrize("kind", [list, tuple, lambda ids: np.array(ids, dtype=np.int32)])
@pytest.mark.parametrize("ids", [[7, 10**6, 9], [7, -5, 9], [9, 7], [7, 7], [-1, 7], [7, 10**6], []])
def test_a_constraint_that_names_what_it_may_not_ends_its_own_request_only(
    ids: list[int], kind: Callable[[list[int]], Any], engine: Engine
) -> None:
    good = asking(1, constrained=False)
    (expected,) = engine.generate([good])

    first, failed = run_requests(engine, [good, replace(asking(7), constraint=Names(kind(ids)))])

    assert isinstance(failed, ConstraintError)
    assert "\n" not in str(failed)
    assert isinstance(first, Completion)
    assert first.completion_ids.tolist() == expected.completion_ids.tolist()
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("ids", [range(7, 9), (7, 8), [np.int64(7), np.int64(8)], np.array([7, 8], dtype=np.uint8)])
def test_ids_may_be_any_sequence(ids: Any, engine: Engine) -> None:
    (completion,) = engine.generate([replace(asking(7), constraint=Names(ids))])
    assert set(completion.completion_ids.tolist()) == {7, 8}


@pytest.mark.parametrize("ids", [["7", "9"], [None, 7], 5])
def test_a_constraint_that_names_no_ids_ends_its_own_request_only(ids: Any, engine: Engine) -> None:
    good = asking(1, constrained=False)
    (expected,) = engine.generate([good])

    first, failed = run_requests(engine, [good, replace(asking(7), constraint=Names(ids))])

    assert isinstance(failed, ConstraintError)
    assert isinstance(first, Completion)
    assert first.completion_ids.tolist() == expected.completion_ids.tolist()


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt_ids": [1, 2, 3]},
        {"prompt_ids": np.array([[1, 2], [3, 4]], dtype=np.int32)},
        {"prompt_ids": np.array([1.0, 2.0])},
        {"sampling": SamplingParams(1.5, max_tokens=4)},  # pyright: ignore[reportArgumentType]
        {"sampling": SamplingParams(-1, max_tokens=4)},
        {"sampling": SamplingParams(0, temperature="warm", max_tokens=4)},  # pyright: ignore[reportArgumentType]
        {"sampling": SamplingParams(0, max_tokens=None)},  # pyright: ignore[reportArgumentType]
        {"sampling": SamplingParams(0, stop_ids=5, max_tokens=4)},  # pyright: ignore[reportArgumentType]
        {"sampling": None},
        {"constraint": "a line"},
        {"policy_version": "two"},
        {"policy_version": -1},
    ],
)
def test_a_request_that_makes_no_sense_ends_with_its_own_error(changed: dict[str, Any], engine: Engine) -> None:
    fields = {"prompt_ids": BAD.prompt_ids, "sampling": SamplingParams(0, max_tokens=4), **changed}
    good = asking(1, constrained=False)
    (expected,) = engine.generate([good])

    first, failed, second = run_requests(engine, [good, GenerationRequest(**fields), good])

    assert isinstance(failed, GrpoError)
    assert "\n" not in str(failed)
    for result in (first, second):
        assert isinstance(result, Completion)
        assert result.completion_ids.tolist() == expected.completion_ids.tolist()
    assert_nothing_is_held(engine)
