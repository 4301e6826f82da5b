"""A batch as one Arrow IPC file: a row per turn; groups, trajectories and statistics as JSON in the schema's metadata.

The metadata also holds a seal: the sha256 of the file with a blank seal in its place. It is checked before Arrow parses
anything, so damage anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grpo_core.errors import StoredBatchError, shown
from grpo_core.home import parse_json, write_atomic
from grpo_core.types import Batch, Completion, Group, RaggedIds, RewardFunctionStats, RolloutStats, Trajectory

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 3

_SEAL = re.compile(rb"grpo-batch-seal:[0-9a-f]{64}")
_BLANK_SEAL = b"grpo-batch-seal:" + b"0" * 64


def batch_file_name(index: int) -> str:
    """The file name of batch ``index`` in a buffer's folder."""
    return f"batch-{index:06d}.arrow"


def write_batch(path: Path, batch: Batch) -> Path:
    """Write ``batch`` to ``path``, atomically and without loss.

    Raises:
        HomeError: the folder cannot be written.
    """
    return write_atomic(path, encode_batch(batch))


def encode_batch(batch: Batch) -> bytes:
    """``batch`` as the content of its file, without loss."""
    import pyarrow as pa

    turns = [turn for group in batch.groups for trajectory in group.trajectories for turn in trajectory.turns]
    metadata = {"seal": _BLANK_SEAL, "format": str(FORMAT), "batch": json.dumps(_describe(batch))}
    columns = _turn_columns(turns)
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata=metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    content = sink.getvalue().to_pybytes()
    return content.replace(_BLANK_SEAL, _seal(content))


def read_batch(path: Path) -> Batch:
    """The batch that ``write_batch`` wrote to ``path``.

    Raises:
        StoredBatchError: the file is missing, damaged, not a batch, or of another format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoredBatchError(f"batch {path}: {error.strerror}; collect it again") from error
    return decode_batch(content, str(path))


def decode_batch(content: bytes, where: str) -> Batch:
    """The batch that ``encode_batch`` encoded. ``where`` names its source in an error.

    Raises:
        StoredBatchError: it is damaged, not a batch, or of another format.
    """
    import pyarrow as pa

    seal = _SEAL.search(content)
    if seal is None:
        raise StoredBatchError(f"batch {where}: not a stored batch, or damaged; delete it and collect the batch again")
    if _seal(content.replace(seal[0], _BLANK_SEAL)) != seal[0]:
        raise StoredBatchError(f"batch {where}: damaged (its sha256 does not match); delete it and collect it again")
    try:
        with pa.ipc.open_file(pa.BufferReader(content)) as reader:
            metadata = reader.schema.metadata
            stored = metadata[b"format"].decode(errors="replace")
            if stored != str(FORMAT):
                raise StoredBatchError(
                    f"batch {where}: format {shown(stored)}, but this version reads format {FORMAT}; "
                    "delete it and collect the batch again"
                )
            rows = reader.get_batch(0)
        rows.validate(full=True)  # the seal is no proof: its lengths could lead outside of the memory
        return _assemble(parse_json(metadata[b"batch"]), iter(_turns(rows)))
    except StoredBatchError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise StoredBatchError(
            f"batch {where}: not a stored batch ({type(error).__name__}); delete it and collect it again"
        ) from error


def _seal(blank_content: bytes) -> bytes:
    return b"grpo-batch-seal:" + hashlib.sha256(blank_content).hexdigest().encode()


def _describe(batch: Batch) -> dict[str, Any]:
    return {
        "index": batch.index,
        "policy_version": batch.policy_version,
        "stats": asdict(batch.stats),
        "groups": [
            {
                "group_id": group.group_id,
                "trajectories": [
                    {
                        "group_id": trajectory.group_id,
                        "agent": trajectory.agent,
                        "reward": float(trajectory.reward),
                        "overlong_penalty": float(trajectory.overlong_penalty),
                        "scores": dict(trajectory.scores),
                        "row": trajectory.row,
                        "num_turns": len(trajectory.turns),
                    }
                    for trajectory in group.trajectories
                ],
            }
            for group in batch.groups
        ],
    }


def _assemble(described: dict[str, Any], turns: Iterator[Completion]) -> Batch:
    def trajectory(fields: dict[str, Any]) -> Trajectory:
        own_turns = tuple(next(turns) for _ in range(fields["num_turns"]))
        earned = (fields["reward"], fields["overlong_penalty"])
        found = (fields.get("scores", {}), fields.get("row"))  # a file of an earlier version has none
        return Trajectory(fields["group_id"], fields["agent"], own_turns, *earned, *found)

    groups = tuple(
        Group(group["group_id"], tuple(trajectory(fields) for fields in group["trajectories"]))
        for group in described["groups"]
    )
    functions = tuple(RewardFunctionStats(**one) for one in described["stats"].pop("reward_functions", ()))
    stats = RolloutStats(**described["stats"], reward_functions=functions)
    return Batch(described["index"], described["policy_version"], groups, stats)


def _turn_columns(turns: list[Completion]) -> dict[str, pa.Array]:
    import pyarrow as pa

    def lists(arrays: list[Any], dtype: type[np.generic]) -> pa.Array:
        assert all(array is None or array.dtype == dtype for array in arrays), f"not {dtype}: would lose precision"
        return pa.array(arrays, pa.large_list(pa.from_numpy_dtype(dtype)))

    allowed = [turn.allowed_ids for turn in turns]
    return {
        "prompt_ids": lists([turn.prompt_ids for turn in turns], np.int32),
        "completion_ids": lists([turn.completion_ids for turn in turns], np.int32),
        "completion_mask": lists([turn.completion_mask for turn in turns], np.bool_),
        "sampling_logprobs": lists([turn.sampling_logprobs for turn in turns], np.float32),
        "ref_logprobs": lists([turn.ref_logprobs for turn in turns], np.float32),
        "allowed_ids": lists([None if ragged is None else ragged.ids for ragged in allowed], np.int32),
        "allowed_offsets": lists([None if ragged is None else ragged.offsets for ragged in allowed], np.int32),
        "policy_version": pa.array([turn.policy_version for turn in turns], pa.int64()),
        "temperature": pa.array([turn.temperature for turn in turns], pa.float64()),
        "finish_reason": pa.array([turn.finish_reason for turn in turns], pa.string()),
    }


def _turns(rows: pa.RecordBatch) -> list[Completion]:
    columns: dict[str, list[Any]] = {
        name: _arrays(column) if name not in {"policy_version", "temperature", "finish_reason"} else column.to_pylist()
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
    }
    allowed_ids = columns.pop("allowed_ids")
    allowed_offsets = columns.pop("allowed_offsets")
    return [
        Completion(
            **{name: column[row] for name, column in columns.items()},
            allowed_ids=None if allowed_ids[row] is None else RaggedIds(allowed_ids[row], allowed_offsets[row]),
        )
        for row in range(rows.num_rows)
    ]


def _arrays(column: pa.LargeListArray) -> list[NDArray[Any] | None]:
    """One array per row. Copies: the file's memory is read-only, and torch does not wrap that."""
    values = column.values.to_numpy(zero_copy_only=False).copy()
    offsets = column.offsets.to_numpy()
    is_valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [values[offsets[row] : offsets[row + 1]] if is_valid[row] else None for row in range(len(column))]
