"""What became of requests."""

from __future__ import annotations

import numpy as np

from grpo_core.errors import GrpoError
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Completion


def assert_same(one: Completion, other: Completion, tolerance: float = 2e-5) -> None:
    """Log-probabilities within ``tolerance`` nats, all else equal."""
    assert one.completion_ids.tolist() == other.completion_ids.tolist()
    assert one.completion_mask.tolist() == other.completion_mask.tolist()
    assert (one.finish_reason, one.policy_version) == (other.finish_reason, other.policy_version)
    assert np.allclose(one.sampling_logprobs, other.sampling_logprobs, atol=tolerance, rtol=0)
    assert (one.allowed_ids is None) == (other.allowed_ids is None)
    if one.allowed_ids is not None and other.allowed_ids is not None:
        assert one.allowed_ids.ids.tolist() == other.allowed_ids.ids.tolist()
        assert one.allowed_ids.offsets.tolist() == other.allowed_ids.offsets.tolist()
    assert (one.ref_logprobs is None) == (other.ref_logprobs is None)
    if one.ref_logprobs is not None and other.ref_logprobs is not None:
        assert np.allclose(one.ref_logprobs, other.ref_logprobs, atol=tolerance, rtol=0)


def finish(engine: TorchEngine) -> dict[int, Completion | GrpoError]:
    """By ticket, when nothing is under way any more."""
    results: dict[int, Completion | GrpoError] = {}
    for _ in range(500):
        outcomes = engine.step()
        results |= {outcome.ticket: outcome.result for outcome in outcomes}
        if not outcomes and not engine.num_under_way:
            return results
    raise AssertionError("the engine does not come to an end")


def completion_of(result: Completion | GrpoError) -> Completion:
    assert isinstance(result, Completion), result
    return result
