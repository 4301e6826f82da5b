"""Ways to damage an input, and inputs of somebody who means harm. All are drawn from a seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**30,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "x",
    "x" * 10_000,
    "../../x",
    "/etc/passwd",
    "a/b",
    "\x00",
    "\ud800",
    "\n\n",
    "%s%s%n",
    [],
    {},
    [None],
    [[[[[[]]]]]],
    {"a": {"b": {"c": {}}}},
    list(range(1000)),
)


def damage(rng: random.Random, content: bytes) -> bytes:
    """``content`` with one to three faults of a disk, a network or an editor."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(_FAULTS)(rng, content)
    return content


def harm(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON ``value`` in which one to three parts are missing, doubled, or something that nobody expects."""
    changed = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        changed = _harm_once(rng, changed)
    return changed


def as_json(value: Any) -> bytes:
    """``value`` as JSON, NaN and half surrogates included."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _harm_once(rng: random.Random, value: Any) -> Any:
    """Walk to a random part and replace it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value, key=str))
        kind = rng.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2:
            value[str(rng.choice(("x", "", "__class__", key + "_")))] = rng.choice(HOSTILE)
        else:
            value[key] = _harm_once(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            del value[place]
        elif kind < 0.2:
            value.insert(place, copy.deepcopy(value[place]))
        else:
            value[place] = _harm_once(rng, value[place])
        return value
    return copy.deepcopy(rng.choice(HOSTILE))


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def _leave_out(rng: random.Random, content: bytes) -> bytes:
    start = rng.randint(0, len(content))
    return content[:start] + content[start + rng.randint(1, 64) :]


def _double(rng: random.Random, content: bytes) -> bytes:
    start = rng.randint(0, len(content))
    part = content[start : start + rng.randint(1, 256)]
    return content[:start] + part * rng.randint(2, 50) + content[start + len(part) :]


def _insert(rng: random.Random, content: bytes) -> bytes:
    start = rng.randint(0, len(content))
    return content[:start] + rng.choice(_STRANGE) + content[start:]


def _replace(rng: random.Random, content: bytes) -> bytes:
    return rng.choice((b"", rng.randbytes(rng.randint(1, 200)), b"[" * 50_000, b'{"a":' * 50_000, b"\x00" * 1000))


_STRANGE = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\r",
        b"\n",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"=",
        b"\\",
        b"#",
        b"\x1b[31m",
    ),
    *(b"NaN", b"1e999", b"-1", b"9" * 400, b"null", b"true", b"\xed\xa0\x80", "ä→".encode(), b"[" * 3000),
)
_FAULTS = (_flip, _flip, _cut, _leave_out, _double, _insert, _insert, _replace)
