"""The phases that come with the package, ``pytest_grpo.bench``: ``pytest --pyargs pytest_grpo.bench --phase 3``.

Their node ids begin with ``pytest_grpo/bench/`` wherever the package is installed, so that the results of two machines
are about the same tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PACKAGE = "pytest_grpo.bench"
NODE_IDS = "pytest_grpo/bench/"
_FOLDER = Path(__file__).parent / "bench"
THRESHOLDS = _FOLDER / "thresholds.toml"


def is_packaged(nodeid: str) -> bool:
    """Whether the test ``nodeid`` is one of the package's."""
    return nodeid.startswith(NODE_IDS)


def node_id_of(file: Path) -> str:
    """The node id of ``file``, a file of the package's tests."""
    return f"{NODE_IDS}{file.resolve().relative_to(_FOLDER.resolve()).as_posix()}"


def file_arguments(files: Iterable[str]) -> list[str]:
    """pytest's arguments for ``files``, the parts of node ids before ``::``, in their order without repetition."""
    named = {_module_of(file) if is_packaged(file) else file: None for file in files}
    return ["--pyargs", *named] if any(map(is_package_argument, named)) else list(named)


def is_package_argument(argument: str) -> bool:
    """Whether ``argument``, for ``--pyargs``, names the package or a module of it."""
    return f"{argument.partition('::')[0]}.".startswith(f"{PACKAGE}.")


def file_of_module(name: str) -> Path:
    """Where the file of ``name``, e.g. ``pytest_grpo.bench.test_phase3_trainer``, would be."""
    return _FOLDER.joinpath(*name.split(".")[2:]).with_suffix(".py")


def _module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")
