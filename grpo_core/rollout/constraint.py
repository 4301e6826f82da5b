"""Constrain a completion to legal lines: a token trie per segment, walked one token at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from grpo_core.errors import ConstraintError

Line = tuple[int, ...]
Trie = dict[int, "Trie"]


def build_trie(lines: Iterable[Line]) -> Trie:
    """The trie of tokenised ``lines``; a leaf is an empty dict.

    Raises:
        ConstraintError: no lines, an empty line, or one that is the beginning of another: then no token tells
            whether the shorter one has ended.
    """
    root: Trie = {}
    for line in sorted(set(lines), key=len):
        if not line:
            raise ConstraintError("constraint with an empty line; give every line at least one token")
        node = root
        for depth, token in enumerate(line, start=1):
            is_new = token not in node
            node = node.setdefault(token, {})
            if not node and not is_new:  # a leaf: a shorter line ends here
                raise ConstraintError(f"constraint line {line[:depth]} begins another one; end every line alike")
    if not root:
        raise ConstraintError("constraint segment without lines: nothing could follow; give at least one line")
    return root


@dataclass(frozen=True)
class LineConstraint:
    """A completion is one line of each segment, in order, and ends with the last one.

    With ``distinct`` a line that was chosen is not offered again by later segments.
    """

    segments: tuple[tuple[Line, ...], ...]
    distinct: bool = False
    tries: tuple[Trie, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.segments:
            raise ConstraintError("constraint without segments: nothing could be generated; give at least one")
        object.__setattr__(self, "tries", tuple(build_trie(lines) for lines in self.segments))

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest completion that the constraint allows."""
        return sum(max(map(len, lines)) for lines in self.segments)


class ConstraintCursor:
    """Where one completion stands in its constraint."""

    def __init__(self, constraint: LineConstraint) -> None:
        self._constraint = constraint
        self._segment = 0
        self._line: list[int] = []
        self._chosen: set[Line] = set()
        self._node = constraint.tries[0]

    @property
    def finished(self) -> bool:
        return self._segment == len(self._constraint.segments)

    def allowed(self) -> Sequence[int]:
        """Ids that may come next, at least one unless ``finished``."""
        return tuple(self._node)

    def advance(self, token: int) -> None:
        """Take ``token``, which ``allowed`` named."""
        self._node = self._node[token]
        self._line.append(token)
        if not self._node:
            self._end_line()

    def _end_line(self) -> None:
        self._chosen.add(tuple(self._line))
        self._line = []
        self._segment += 1
        if self.finished:
            return
        if self._constraint.distinct:
            lines = [line for line in self._constraint.segments[self._segment] if line not in self._chosen]
            self._node = build_trie(lines)
        else:
            self._node = self._constraint.tries[self._segment]
