"""Text as bytes that may begin or end within a character, and what normalisation leaves as it is."""

from __future__ import annotations

import unicodedata


def unfinished(content: bytes) -> bytes:
    """The bytes at the end of ``content`` that begin a character and do not complete it."""
    for num in range(1, min(4, len(content) + 1)):
        byte = content[-num]
        if byte & 0xC0 != 0x80:
            wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return content[-num:] if num < wanted else b""
    return b""


def num_continuing(content: bytes) -> int:
    """The bytes at the start of ``content`` that belong to a character before it."""
    return next((place for place, byte in enumerate(content) if byte & 0xC0 != 0x80), len(content))


def whole(content: bytes) -> str | None:
    """The text of ``content``; None where it does not begin and end with whole characters."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def is_stable(text: str) -> bool:
    """Whether NFC keeps ``text`` whatever stands before it."""
    if text.isascii():
        return True
    first = text[:1]
    is_free = unicodedata.combining(first) == 0 and unicodedata.is_normalized("NFC", "a" + first)
    return is_free and unicodedata.is_normalized("NFC", text) and not _may_compose(first)


def _may_compose(character: str) -> bool:
    """Hangul vowels and trailing consonants, which join the syllable before them."""
    return "\u1160" <= character <= "\u11ff"
