"""The command-line options that benchmarks share: each is declared here once, and a mistake is one line on stderr."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from grpo_core.errors import GrpoError

Result = TypeVar("Result")


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake as one line, without the usage, and ends with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}\n")

    def run(self, measure: Callable[[argparse.Namespace], Result], options: argparse.Namespace) -> Result:
        """``measure(options)``; an error that names the user's input ends the program as a mistake does."""
        try:
            return measure(options)
        except GrpoError as error:
            self.error(str(error))


def add_arms(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """``--arms``: the first of ``names`` and any of the others."""
    parser.add_argument(
        "--arms", type=arms_of(names), default=names, metavar="NAME[,NAME]", help=f"of {_listed(names)}"
    )


def add_workload(
    parser: argparse.ArgumentParser, *, group_size: str, read_group_size: Callable[[str], int] | None = None
) -> None:
    """How much each arm does: ``--rounds``, ``--group-size`` (help text ``group_size``), token counts, ``--seed``."""
    add = parser.add_argument
    add("--rounds", type=positive, default=7, help="samples of each arm (default 7)")
    add("--group-size", type=read_group_size or positive, default=8, help=f"{group_size} (default 8)")
    add("--prompt-tokens", type=positive, default=944, help="length of each prompt (default 944)")
    add("--new-tokens", type=positive, default=64, help="length of each completion (default 64)")
    add("--seed", type=positive, default=1, help="seed of prompts and orders (default 1)")


def add_model(parser: argparse.ArgumentParser, shapes: Sequence[str] = ()) -> None:
    """``--model``; ``shapes`` are the names of models that the benchmark builds."""
    names = "".join(f"{name}, " for name in shapes)
    parser.add_argument("--model", default="tiny", help=f"{names}a preset, a model folder or a hub id (default tiny)")


def add_threads(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--threads", type=positive, default=default, help=f"CPU threads of each arm (default {default})"
    )


def add_neighbours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--neighbours",
        type=numbers_of(positive),
        default=(),
        metavar="N[,N]",
        help="also time the arms beside so many processes that burn a core each",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures to this file")


def add_markdown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", type=new_file, metavar="FILE", help="also write the tables to this file")


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 0")
    return int(text)


def above_zero(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are numbers above 0")
    return number


def numbers_of(read: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    """Reads comma-separated numbers, in the given order."""
    return lambda text: tuple(read(part) for part in text.split(","))


def arms_of(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads some of ``names``, the first among them, and puts them in their order."""

    def read(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        if not set(asked) <= set(names) or names[0] not in asked:
            raise argparse.ArgumentTypeError(
                f"{text!r}: allowed are {names[0]} and, with it, any of {_listed(names[1:])}"
            )
        return tuple(name for name in names if name in asked)

    return read


def new_file(text: str) -> Path:
    """A file to write, in a folder that exists."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: the folder {path.parent} does not exist; create it")
    return path


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
