"""One vLLM for several engines, which see nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grpo_core.errors import EngineError
from grpo_core.rollout.vllm_engine.kept import kept
from grpo_core.types import Adapter
from tests.child_processes import children_with
from tests.grpo_core.rollout.vllm_engine.bench import HAS_VLLM, Bench
from tests.grpo_core.rollout.vllm_engine.logprobs import error_of
from tests.grpo_core.rollout.vllm_engine.sampling_requests import prompt, request

if TYPE_CHECKING:
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not HAS_VLLM, reason="no vllm")]
MakeAdapter = Callable[..., Adapter]
OpenEngine = Callable[..., Bench]


@pytest.fixture(scope="module")
def open_engine(vllm_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenEngine:
    """An engine of the same settings, over an empty store of its own."""
    from grpo_core.config import ModelConfig
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import load_policy
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    policy = load_policy(ModelConfig(name=str(vllm_model_folder), device="cpu"))
    tokenizer = load_tokenizer(str(vllm_model_folder))

    def open_engine(max_lora_rank: int = 8) -> Bench:
        store = AdapterStore(tmp_path_factory.mktemp("adapters"))
        cache = LoRACache(store, max_bytes=1 << 30, max_adapters=8)
        engine = VllmEngine(
            str(vllm_model_folder),
            tokenizer.stop_ids,
            cache,
            store,
            "run",
            fingerprint=policy.fingerprint,
            max_lora_rank=max_lora_rank,
            max_batch_sequences=32,
            kv_cache_bytes=2 << 20,
        )
        return Bench(engine, policy, tokenizer, store, cache, vllm_model_folder)

    return open_engine


def process_of(engine: VllmEngine) -> int:
    client: Any = engine._client
    (process,) = client._llm.engine_core.resources.engine_manager.processes
    return process.pid


def test_engines_of_the_same_settings_share_a_vllm_and_nothing_else(
    open_engine: OpenEngine, make_adapter: MakeAdapter, plain_logprobs: Any
) -> None:
    with kept().on():
        first = open_engine()
        first.publish_and_use(make_adapter(first.policy, seed=1, std=0.2))
        first.engine.generate([request(prompt(0, 100), seed=3)])
        first.engine.submit(request(prompt(0, 100), ignore_stop=True, max_tokens=1800))  # still runs when it is closed
        pid = process_of(first.engine)
        first.engine.close()
        first.engine.close()

        second = open_engine()
        assert process_of(second.engine) == pid
        assert second.loaded_ids() == set()
        adapter = make_adapter(second.policy, seed=2, std=0.2)  # another one, under the same name
        second.publish_and_use(adapter)
        (completion,) = second.engine.generate([request(prompt(0, 100), seed=3)])
        assert error_of(second.peft(adapter), completion, plain_logprobs) < 1e-4
        counters = second.engine.counters
        assert (counters.num_requests, counters.num_cached_tokens, counters.num_prefill_tokens) == (1, 0, 100)
        assert counters.num_decode_rows == counters.num_decode_steps < len(completion.completion_ids)
        assert second.engine.step() == []
        second.engine.close()
    assert children_with("VLLM::Engine") == []


def test_other_settings_and_a_dead_vllm_start_a_new_one(open_engine: OpenEngine) -> None:
    asked = request(prompt(0, 20))
    with kept().on():
        first = open_engine().engine
        first.close()
        wider = open_engine(max_lora_rank=16).engine
        assert [child.pid for child in children_with("VLLM::Engine")] == [process_of(wider)]
        (before,) = wider.generate([asked])
        children_with("VLLM::Engine")[0].kill()
        with pytest.raises(EngineError, match="has died"):
            wider.generate([asked])
        wider.close()
        again = open_engine(max_lora_rank=16).engine
        (after,) = again.generate([asked])
        assert after.completion_ids.tolist() == before.completion_ids.tolist()
        beside = open_engine(max_lora_rank=16).engine  # at the same time
        assert {process_of(again), process_of(beside)} == {child.pid for child in children_with("VLLM::Engine")}
        again.close()
        beside.close()
        assert [child.pid for child in children_with("VLLM::Engine")] == [process_of(again)]
    assert children_with("VLLM::Engine") == []


def test_outside_of_the_block_each_engine_ends_its_own(open_engine: OpenEngine) -> None:
    with kept().on(), kept().on():
        pass
    engine = open_engine().engine
    assert len(children_with("VLLM::Engine")) == 1
    engine.close()
    assert children_with("VLLM::Engine") == []
