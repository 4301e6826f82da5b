"""The transitions of an expression over bytes, by the library outlines-core; as a program, within limits.

The library has none: ``((a{1,99}){1,99}){1,99}`` fills the memory. So a pattern that may explode is compiled by
``python byte_index.py``, which ends when it needs too much. It takes the pattern from its standard input and writes the
transitions. It imports nothing of the project, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import resource
import signal
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outlines_core import Index

END = 0  # the byte that marks the end of a match; no completion contains it
MAX_BYTES, MAX_CPU_S = 100 << 20, 1.0
NOT_AN_EXPRESSION = 3  # exit code


def compile_index(pattern: str, *, is_python: bool) -> Index:
    """The index of ``pattern`` and ``END`` over a vocabulary of single bytes.

    Without the end marker the library prefers the first alternative, as a search does: 'a|ab' would not match 'ab'.

    Raises:
        ValueError: not a regular expression, or one of which a part matches nothing.
    """
    from outlines_core import Index, Vocabulary

    single_bytes = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
    if not is_python:  # a syntax that Python does not know, such as \p{L}; without our bracket, which it might close
        Index(pattern, single_bytes)
    return Index(f"(?:{pattern})\\x{END:02}", single_bytes)


def edges(index: Index) -> tuple[int, list[int], array[int]]:
    """The first state, the final ones, and the transitions: state, byte, state, end to end."""
    flat = array("q")
    for state, targets in index.get_transitions().items():
        for byte, target in targets.items():
            if byte < 256:
                flat.extend((state, byte, target))
    return index.get_initial_state(), list(index.get_final_states()), flat


def _limit() -> None:
    """From here on the process may use so much more memory and processor time."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
    statm = Path("/proc/self/statm")
    if statm.exists():
        most = int(statm.read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    import outlines_core  # noqa: F401  (before the limit)

    pattern, is_python = sys.stdin.buffer.read().decode(), sys.argv[1] == "python"
    _limit()
    try:
        first, finals, flat = edges(compile_index(pattern, is_python=is_python))
    except ValueError:
        sys.exit(NOT_AN_EXPRESSION)
    sys.stdout.buffer.write(array("q", [first, len(finals), *finals]).tobytes())
    sys.stdout.buffer.write(flat.tobytes())


if __name__ == "__main__":
    main()
