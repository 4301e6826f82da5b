"""Whether an expression may explode: cheap to say, and sure where it says no."""

from __future__ import annotations

import re

_ATOM = re.compile(r"\\[pP](?:\{[^}]*\}|.)|\\x\{[^}]*\}|\\x..|\\.|.", re.DOTALL)
_QUANTIFIER = re.compile(r"(?:\*|\+|\?|\{(\d+)(,?)(\d*)\})[?+]?")
_WIDE = 400  # states of a class of Unicode letters, about
_BROAD = 12  # of one that excludes a few characters
_SURE_STATES = 8000


def may_explode(pattern: str) -> bool:
    """Whether the automaton may have many more states than ``pattern`` has characters.

    It may where counts multiply, and where a count or more than a few characters follow an unbounded repetition in the
    same expression: after ``(a|b)*a`` the automaton of ``(a|b){20}`` remembers 20 characters.
    """
    size, is_unbounded, is_counted = _size(pattern)
    return size > _SURE_STATES or (is_unbounded and (is_counted or size > 200))


def _size(pattern: str) -> tuple[int, bool, bool]:
    """States with all counts written out, whether a repetition is unbounded, and whether there is a count."""
    is_unbounded = is_counted = False
    stack: list[list[int]] = [[0, 0]]  # of each open bracket: its states so far, and those of its last part
    place = 0
    while place < len(pattern):
        match = _QUANTIFIER.match(pattern, place)
        if match and stack[-1][1]:
            text = match[0]
            most = int(match[3] or match[1]) if text[0] == "{" and (match[3] or not match[2]) else 1
            least = int(match[1]) if text[0] == "{" else 1
            is_unbounded |= text[0] in "*+" or (text[0] == "{" and bool(match[2]) and not match[3])
            is_counted |= text[0] == "{"
            stack[-1][0] += stack[-1][1] * (max(most, least, 1) - 1)
            stack[-1][1] *= max(most, least, 1)
            place = match.end()
            continue
        character = pattern[place]
        if character == "(":
            stack.append([0, 0])
            place += 1
        elif character == ")" and len(stack) > 1:
            inner, _ = stack.pop()
            stack[-1][0] += inner
            stack[-1][1] = inner
            place += 1
        elif character == "[":
            end = _end_of_class(pattern, place)
            _add(stack[-1], _weight(pattern[place:end]))
            place = end
        else:
            atom = _ATOM.match(pattern, place)
            assert atom is not None
            _add(stack[-1], _weight(atom[0]))
            place = atom.end()
    return sum(states for states, _ in stack), is_unbounded, is_counted


def _add(bracket: list[int], states: int) -> None:
    bracket[0] += states
    bracket[1] = states


def _weight(text: str) -> int:
    if re.search(r"\\[wWpPdDsSbB]|\[:", text):
        return _WIDE
    is_broad = text == "." or text.startswith("[^") or not text.isascii()
    return _BROAD if is_broad else 1


def _end_of_class(pattern: str, start: int) -> int:
    """The place after the bracket that closes the class at ``start``; Rust's classes may be nested."""
    depth, place = 0, start
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            place += 1
        elif character == "[":
            depth += 1
            if pattern[place + 1 : place + 2] == "^":
                place += 1
            if pattern[place + 1 : place + 2] == "]":
                place += 1
        elif character == "]":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return len(pattern)
