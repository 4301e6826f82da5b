"""The errors of a request that does not fit into the engine's memory."""

from __future__ import annotations

from grpo_core.errors import CapacityError
from grpo_core.rollout.sequence import SequenceState


def too_large(sequence: SequenceState, needed_bytes: int, max_bytes: int) -> CapacityError:
    """It would not fit if it were alone."""
    return CapacityError(
        f"prompt of {len(sequence.request.prompt_ids)} tokens and up to {sequence.budget} to generate take "
        f"{needed_bytes} bytes of keys and values, the engine has {max_bytes}; shorten the request or raise "
        "rollout.max_kv_bytes"
    )


def no_room(sequence: SequenceState, doing: str) -> CapacityError:
    """It has begun, and does not fit although it is alone."""
    return CapacityError(
        f"prompt of {len(sequence.request.prompt_ids)} tokens and {len(sequence.tokens)} generated: {doing} takes more "
        "keys and values than the engine has; raise rollout.max_kv_bytes, or shorten the request"
    )


def out_of_memory(sequence: SequenceState, doing: str, cause: Exception) -> CapacityError:
    """The device has refused memory."""
    error = CapacityError(
        f"prompt of {len(sequence.request.prompt_ids)} tokens and {len(sequence.tokens)} generated: out of memory "
        f"while {doing}; lower rollout.max_kv_bytes or rollout.max_batch_sequences, or shorten the request"
    )
    error.__cause__ = cause
    return error
