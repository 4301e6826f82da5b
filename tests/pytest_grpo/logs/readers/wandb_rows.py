"""A ``.wandb`` file with the rows that a test makes up, as ``wandb.log`` would write them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

BLOCK_BYTES = 32 * 1024
CHUNK_HEADER_BYTES = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def wandb_bytes(rows: Sequence[Mapping[str, object]], *, is_typed: bool = False) -> bytes:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

    messages = [Record(num=1).SerializeToString()]
    for number, row in enumerate(rows):
        record = Record(num=number + 2)
        for name, value in {"_step": number, **row}.items():
            item = record.history.item.add(nested_key=[name])
            if is_typed and isinstance(value, int):
                item.integer = value
            elif is_typed and isinstance(value, float):
                item.number = value
            else:
                item.value_json = json.dumps(value)
        messages.append(record.SerializeToString())
    return framed(messages)


def framed(messages: Sequence[bytes]) -> bytes:
    content = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for message in messages:
        is_first = True
        while True:
            left = BLOCK_BYTES - len(content) % BLOCK_BYTES
            if left < CHUNK_HEADER_BYTES:
                content += bytes(left)
                continue
            part, message = message[: left - CHUNK_HEADER_BYTES], message[left - CHUNK_HEADER_BYTES :]
            kind = (FIRST if message else FULL) if is_first else (MIDDLE if message else LAST)
            content += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            is_first = False
            if not message:
                break
    return bytes(content)


def write_rows(file: Path, rows: Sequence[Mapping[str, object]], *, is_typed: bool = False) -> Path:
    file.write_bytes(wandb_bytes(rows, is_typed=is_typed))
    return file
