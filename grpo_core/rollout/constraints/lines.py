"""Constrained decoding: the protocol of a constraint, which says what tokens may come next, and the one for lines.

Lines are a token trie per segment, walked one token at a time; ``regex`` has the constraint of regular expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grpo_core.errors import ConstraintError
from grpo_core.types import Int32

Line = tuple[int, ...]


class ConstraintCursor(Protocol):
    """The state of one completion in its constraint."""

    @property
    def finished(self) -> bool:
        """Nothing may follow: the completion is complete."""
        ...

    def allowed(self) -> Sequence[int] | Int32:
        """Ids that may come next, ascending, at least one unless ``finished``. One alone is forced."""
        ...

    def advance(self, token: int) -> None:
        """Take ``token``, which ``allowed`` named. Raises KeyError for any other."""
        ...


class Constraint(Protocol):
    """Which completions may be drawn. Immutable, hashable, shared by requests; each starts a cursor of its own."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens of the longest completion; None when completions are unbounded."""
        ...

    def start(self) -> ConstraintCursor:
        """A cursor at the beginning of a completion."""
        ...


class TrieNode:
    """A node of the trie: the tokens that may follow a common prefix of lines. A leaf ends a line."""

    __slots__ = ("_ids", "children")

    def __init__(self, children: dict[int, TrieNode] | None = None) -> None:
        self.children: dict[int, TrieNode] = {} if children is None else children
        self._ids: Line | None = None

    @property
    def ids(self) -> Line:
        """The tokens of the children, ascending. Cached: the trie must not grow afterwards."""
        if self._ids is None:
            self._ids = tuple(sorted(self.children))
        return self._ids

    def follow(self, token: int) -> TrieNode:
        """The child of ``token``. Raises KeyError when there is none."""
        return self.children[token]

    def without(self, line: Line) -> TrieNode | None:
        """A trie without ``line`` that shares all other nodes with this one; None when it would be empty."""
        path: list[TrieNode] = [self]
        for token in line:
            child = path[-1].children.get(token)
            if child is None:
                return self
            path.append(child)
        kept: TrieNode | None = None
        for node, token in zip(reversed(path[:-1]), reversed(line), strict=True):
            children = node.children.copy()
            if kept is None:
                del children[token]
            else:
                children[token] = kept
            kept = TrieNode(children) if children else None
        return kept


def build_trie(lines: Iterable[Line]) -> TrieNode:
    """The trie of tokenised ``lines``.

    Raises:
        ConstraintError: no lines, an empty line, or one that is a prefix of another: then no token tells whether the
            shorter one has ended.
    """
    root = TrieNode()
    for line in sorted(set(lines), key=len):
        if not line:
            raise ConstraintError("constraint with an empty line; give every line at least one token")
        node = root
        for depth, token in enumerate(line, start=1):
            is_new = token not in node.children
            node = node.children.setdefault(token, TrieNode())
            if not node.children and not is_new:  # a leaf: a shorter line ends here
                raise ConstraintError(f"constraint line {line[:depth]} begins another one; end every line alike")
    if not root.children:
        raise ConstraintError("constraint segment without lines: nothing could follow; give at least one line")
    return root


@dataclass(frozen=True)
class LineConstraint:
    """A completion is one line of each segment, in order, and ends with the last one.

    With ``distinct`` a line that was chosen is not offered again by later segments. Lines that end with a line break
    keep their tokens when they are joined, so that a completion is the tokenizer's own tokenization of its text.
    """

    segments: tuple[tuple[Line, ...], ...]
    distinct: bool = False
    tries: tuple[TrieNode, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.segments:
            raise ConstraintError("constraint without segments: nothing could be generated; give at least one")
        tries = {lines: build_trie(lines) for lines in dict.fromkeys(self.segments)}  # equal segments share one
        object.__setattr__(self, "tries", tuple(tries[lines] for lines in self.segments))

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest completion that the constraint allows."""
        return sum(max(map(len, lines)) for lines in self.segments)

    def start(self) -> LineCursor:
        """A cursor at the beginning of a completion."""
        return LineCursor(self)


class LineCursor:
    """The state of one completion in its lines."""

    def __init__(self, constraint: LineConstraint) -> None:
        self._constraint = constraint
        self._segment = 0
        self._line: list[int] = []
        self._chosen: list[Line] = []
        self._root = self._node = constraint.tries[0]  # of the segment, without lines that were chosen

    @property
    def finished(self) -> bool:
        return self._segment == len(self._constraint.segments)

    def allowed(self) -> Sequence[int]:
        """Ids that may come next, ascending, at least one unless ``finished``."""
        return self._node.ids

    def advance(self, token: int) -> None:
        """Take ``token``, which ``allowed`` named.

        Raises:
            KeyError: ``allowed`` did not name it.
            ConstraintError: the next segment has no line left that was not chosen before.
        """
        self._node = self._node.children[token]
        self._line.append(token)
        if not self._node.children:
            self._end_line()

    def _end_line(self) -> None:
        self._chosen.append(tuple(self._line))
        self._line = []
        last, self._segment = self._segment, self._segment + 1
        if self.finished:
            return
        tries = self._constraint.tries
        if not self._constraint.distinct:
            self._root = tries[self._segment]
        elif tries[self._segment] is tries[last]:  # the usual case: one removal per line
            self._root = _remove(self._root, self._chosen[-1:])
        else:
            self._root = _remove(tries[self._segment], self._chosen)
        self._node = self._root


def _remove(root: TrieNode, lines: Sequence[Line]) -> TrieNode:
    for line in lines:
        left = root.without(line)
        if left is None:
            raise ConstraintError(
                "constraint segment without lines that earlier segments left; "
                "give a distinct constraint more lines than segments, or fewer segments"
            )
        root = left
    return root
