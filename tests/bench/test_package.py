"""bench/ is a package with two names: what goes into the wheel needs nothing that stays out of it."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT_FOLDER = Path(__file__).resolve().parents[2]
WHEEL = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
    "wheel"
]


def packed() -> set[Path]:
    """The files of bench/ that go into the wheel."""
    named = [path for pattern in WHEEL["include"] for path in PROJECT_FOLDER.glob(pattern.removeprefix("/"))]
    files = {file for path in named for file in ([path] if path.is_file() else path.rglob("*.py"))}
    return {file for file in files if file.is_relative_to(PROJECT_FOLDER / "bench")}


def relative_imports(path: Path) -> Iterator[Path]:
    """The files that ``path`` imports by relative names."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*filter(None, [(node.module or "").replace(".", "/")]))
            found = [base / f"{alias.name}.py" for alias in node.names]
            yield from (file for file in (base.with_suffix(".py"), *found) if file.is_file())


def test_the_phases_are_packed_with_all_that_they_import() -> None:
    files = packed()

    assert set((PROJECT_FOLDER / "bench").glob("test_phase*.py")) < files
    assert PROJECT_FOLDER / "bench/thresholds.toml" in files
    assert {file for path in files if path.suffix == ".py" for file in relative_imports(path)} < files


def test_they_do_not_name_the_package() -> None:
    """Its name is ``bench`` here and ``pytest_grpo.bench`` in the wheel."""
    found = []
    for path in packed():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))) if path.suffix == ".py" else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            bad = [name for name in names if name.startswith("bench.") or (is_import and name == "bench")]
            found += [f"{path.name}: {name}" for name in bad]

    assert found == []


def test_a_checkout_has_the_packages_second_name() -> None:
    """An editable install finds ``pytest_grpo.bench`` by it."""
    assert WHEEL["sources"] == {"bench": "pytest_grpo/bench"}
    assert (PROJECT_FOLDER / "pytest_grpo/bench").samefile(PROJECT_FOLDER / "bench")
