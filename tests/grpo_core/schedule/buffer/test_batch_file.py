from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from grpo_core.errors import StoredBatchError
from grpo_core.schedule.buffer import batch_file
from grpo_core.schedule.buffer.batch_file import read_batch, write_batch
from grpo_core.types import Batch, Completion, Group, RaggedIds, RolloutStats, Trajectory

FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def assert_same(left: Any, right: Any) -> None:
    """Equal to the last bit, in every field, with the same types."""
    assert type(left) is type(right)
    if is_dataclass(left):
        for field in fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, RaggedIds):
        assert_same((left.ids, left.offsets), (right.ids, right.offsets))
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for ours, theirs in zip(left, right, strict=True):
            assert_same(ours, theirs)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()
    else:
        assert repr(left) == repr(right)  # also NaN and -0.0


def arrays(dtype: type, size: int) -> st.SearchStrategy[Any]:
    return npst.arrays(dtype, size)


@st.composite
def ragged_ids(draw: st.DrawFn, num_tokens: int) -> RaggedIds:
    lengths = draw(st.lists(st.integers(0, 3), min_size=num_tokens, max_size=num_tokens))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return RaggedIds(draw(arrays(np.int32, int(offsets[-1]))), offsets)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    num_tokens = draw(st.integers(0, 4))
    return Completion(
        prompt_ids=draw(arrays(np.int32, draw(st.integers(0, 4)))),
        completion_ids=draw(arrays(np.int32, num_tokens)),
        completion_mask=draw(arrays(np.bool_, num_tokens)),
        sampling_logprobs=draw(arrays(np.float32, num_tokens)),
        policy_version=draw(st.integers(0, 2**40)),
        temperature=draw(FLOAT),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        allowed_ids=draw(st.none() | ragged_ids(num_tokens)),
        ref_logprobs=draw(st.none() | arrays(np.float32, num_tokens)),
    )


def tuples(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, max_size=3).map(tuple)


TRAJECTORIES = st.builds(Trajectory, st.text(), st.text(), tuples(completions()), FLOAT, FLOAT)
STATS = st.builds(RolloutStats, FLOAT, *[st.integers(0, 2**40)] * 10, FLOAT)
BATCHES = st.builds(
    Batch, st.integers(0), st.integers(0), tuples(st.builds(Group, st.text(), tuples(TRAJECTORIES))), STATS
)


def make_batch() -> Batch:
    turn = Completion(
        prompt_ids=np.array([5, 6, 7], np.int32),
        completion_ids=np.array([8, 9], np.int32),
        completion_mask=np.array([True, False]),
        sampling_logprobs=np.array([-0.5, 0.0], np.float32),
        policy_version=3,
        temperature=0.7,
        finish_reason="stop",
        allowed_ids=RaggedIds(np.array([8, 1, 9], np.int32), np.array([0, 2, 3], np.int32)),
        ref_logprobs=np.array([-0.25, 0.0], np.float32),
    )
    free_turn = replace(turn, allowed_ids=None, ref_logprobs=None, finish_reason="length")
    trajectories = (Trajectory("g", "ENGLAND", (turn, free_turn), 1.5, -0.25), Trajectory("g", "ENGLAND", (), -1.0))
    return Batch(4, 3, (Group("g", trajectories), Group("none", ())), RolloutStats(1.25, 10, 9, 8, 2, 1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=BATCHES)
def test_every_batch_comes_back_bit_for_bit(tmp_path: Path, batch: Batch) -> None:
    path = write_batch(tmp_path / "batch.arrow", batch)
    assert_same(read_batch(path), batch)
    assert [entry.name for entry in tmp_path.iterdir()] == ["batch.arrow"]


def test_torch_can_wrap_the_arrays(tmp_path: Path) -> None:
    turn = read_batch(write_batch(tmp_path / "b", make_batch())).groups[0].trajectories[0].turns[0]
    assert torch.from_numpy(turn.completion_ids).tolist() == [8, 9]
    assert torch.from_numpy(turn.completion_mask).tolist() == [True, False]
    assert turn.allowed_ids is not None
    assert torch.from_numpy(turn.allowed_ids[0]).tolist() == [8, 1]


def test_it_is_a_plain_arrow_file_with_a_row_per_turn(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "batch.arrow", make_batch())
    with pa.ipc.open_file(path) as reader:
        table = reader.read_all()
    assert table.num_rows == 2
    assert table["completion_ids"].to_pylist() == [[8, 9], [8, 9]]
    assert table["allowed_ids"].to_pylist() == [[8, 1, 9], None]
    assert table.schema.metadata[b"format"] == b"3"


def test_arrays_of_another_type_are_not_silently_converted(tmp_path: Path) -> None:
    batch = make_batch()
    turn = replace(batch.groups[0].trajectories[0].turns[0], prompt_ids=np.array([1.5]))
    wrong = replace(batch, groups=(Group("g", (Trajectory("g", "a", (turn,), 0.0),)),))
    with pytest.raises(AssertionError, match="would lose precision"):
        write_batch(tmp_path / "batch.arrow", wrong)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_batch(tmp_path_factory.mktemp("damage") / "batch.arrow", make_batch())
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1), "position")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(content)
    with pytest.raises(StoredBatchError) as caught:
        read_batch(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(batch_file, "FORMAT", 4)
        path = write_batch(tmp_path / "batch.arrow", make_batch())
        assert_same(read_batch(path), make_batch())
    with pytest.raises(StoredBatchError, match="format '4', but this version reads format 3"):
        read_batch(path)


def test_an_arrow_file_of_something_else_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    schema = pa.schema([("prompt_ids", pa.int32())])
    with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(schema.empty_table())
    with pytest.raises(StoredBatchError, match="not a stored batch"):
        read_batch(tmp_path / "other.arrow")
    with pytest.raises(StoredBatchError, match="No such file"):
        read_batch(tmp_path / "missing.arrow")
