from __future__ import annotations

import pytest

from pytest_grpo.logs.readers.wandb_frames import CutOffError, messages
from tests.pytest_grpo.logs.readers.wandb_rows import BLOCK_BYTES, framed

SIZES = (0, 1, 100, BLOCK_BYTES - 30, 3 * BLOCK_BYTES, BLOCK_BYTES - 14, 5)
SENT = [bytes([number]) * size for number, size in enumerate(SIZES)]


def test_messages_of_any_size_are_read() -> None:
    assert list(messages(framed(SENT))) == SENT


@pytest.mark.parametrize("left_over", range(1, 9))
def test_a_block_may_end_with_less_than_a_header(left_over: int) -> None:
    sent = [b"x" * (BLOCK_BYTES - 7 - 7 - left_over), b"yy"]
    assert list(messages(framed(sent))) == sent


@pytest.mark.parametrize("num_bytes", [1, 4, 8, 12, BLOCK_BYTES + 5])
def test_a_file_that_is_cut_off_has_the_messages_before(num_bytes: int) -> None:
    found = messages(framed([*SENT, b"last" * 3 * BLOCK_BYTES])[:-num_bytes])
    assert [next(found) for _ in SENT] == SENT
    with pytest.raises(CutOffError):
        next(found)


def test_a_damaged_byte_ends_it() -> None:
    content = bytearray(framed([b"one", b"two", b"three"]))
    content[7 + 7 + 3 + 7] ^= 1  # of "two"
    found = messages(bytes(content))
    assert next(found) == b"one"
    with pytest.raises(CutOffError):
        next(found)


def test_a_file_of_a_header_only_has_none() -> None:
    assert list(messages(framed([]))) == []
