"""What holds for completions under a constraint of two segments with the same lines, of which none is chosen twice."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_core.types import Completion


def assert_two_distinct_lines(
    completions: Sequence[Completion], lines: Sequence[tuple[int, ...]], last_id: int
) -> None:
    """Each completion is two different ``lines``, which end with ``last_id``, and says what it could choose from."""
    assert len({tuple(completion.completion_ids.tolist()) for completion in completions}) > 3
    for completion in completions:
        ids = tuple(completion.completion_ids.tolist())
        end = ids.index(last_id) + 1
        first, second = ids[:end], ids[end:]
        assert {first, second} <= set(lines)
        assert first != second
        expected = []
        for line, offered in ((first, lines), (second, tuple(item for item in lines if item != first))):
            for depth in range(len(line)):
                expected.append(sorted({item[depth] for item in offered if item[:depth] == line[:depth]}))
        assert completion.allowed_ids is not None
        assert [completion.allowed_ids[index].tolist() for index in range(len(ids))] == expected
        assert completion.completion_mask.tolist() == [len(allowed) > 1 for allowed in expected]
        assert (completion.sampling_logprobs[completion.completion_mask] < 0).all()
        assert (completion.sampling_logprobs[~completion.completion_mask] == 0).all()
        assert completion.finish_reason == "stop"
