"""Protobuf's wire format, for the messages of which a request has hundreds: spans and points of gauges.

An object of the package for each of them and for each of its attributes takes twenty times as long, and holds the
interpreter meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from grpo_core.telemetry.otel.attributes import Value, attributes

_BYTES_OF_A_LENGTH = 2  # a wire type
_LONGEST_IN_ONE_BYTE = 127


def part(field: int, content: bytes) -> bytes:
    """A field below 16 of a message: another message, text, or bytes."""
    return b"%c%b%b" % (field << 3 | _BYTES_OF_A_LENGTH, varint(len(content)), content)


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first. ``number`` is not negative."""
    if number <= _LONGEST_IN_ONE_BYTE:
        return b"%c" % number
    found = bytearray()
    while number > _LONGEST_IN_ONE_BYTE:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def encoded_attributes(field: int, values: Mapping[str, Value]) -> bytes:
    """``values`` as the attributes of a message, which has them in ``field``."""
    return b"".join([part(field, pair.SerializeToString()) for pair in attributes(values)])


def request(resource: Message, scope: Message, items: Iterable[bytes]) -> bytes:
    """An export request for traces or for metrics: OTLP has the same fields in both. ``items``: encoded messages."""
    scoped = part(1, scope.SerializeToString()) + b"".join([part(2, item) for item in items])
    return part(1, part(1, resource.SerializeToString()) + part(2, scoped))
