"""The frames of a ``.wandb`` file: the log format of LevelDB with a header of W&B's.

wandb 0.31 has no reader for Python any more, only the messages that the frames hold. A file is blocks of 32 KiB of
chunks; a chunk is a CRC-32, a length, a type and data; a message is one chunk, or a first, middle ones and a last. The
file's header is 7 bytes of the first block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

MAGIC = b":W&B"
_BLOCK_BYTES = 32 * 1024
_FILE_HEADER_BYTES = 7
_CHUNK_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class CutOffError(Exception):
    """The file ends within a message, or goes on with something else than W&B wrote."""


def messages(content: bytes) -> Iterator[bytes]:
    """The messages in order.

    Raises:
        CutOffError: after the last whole message, when the file does not end there.
    """
    place, message = _FILE_HEADER_BYTES, b""
    while place < len(content):
        left = _BLOCK_BYTES - place % _BLOCK_BYTES
        if left < _CHUNK_HEADER.size:
            place += left  # the rest of a block that is too short for a header is padding
            continue
        kind, data = _chunk(content, place)
        place += _CHUNK_HEADER.size + len(data)
        message = data if kind in (_FULL, _FIRST) else message + data
        if kind in (_FULL, _LAST):
            yield message
            message = b""
    if message:
        raise CutOffError


def _chunk(content: bytes, place: int) -> tuple[int, bytes]:
    """The type and the data of the chunk at ``place``."""
    start = place + _CHUNK_HEADER.size
    if start > len(content):
        raise CutOffError
    crc, num_bytes, kind = _CHUNK_HEADER.unpack_from(content, place)
    data = content[start : start + num_bytes]
    if len(data) < num_bytes or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
        raise CutOffError
    if zlib.crc32(data, zlib.crc32(bytes([kind]))) != crc:
        raise CutOffError
    return kind, data
