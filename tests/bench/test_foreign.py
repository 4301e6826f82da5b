"""Which gates judge grpo_core and which another system."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = """
from pytest_grpo import GrpoSystem

class Empty(GrpoSystem):
    name = "empty"

    def __init__(self, settings):
        pass
"""


def collected(pytester: pytest.Pytester, *options: str) -> list[str]:
    """The tests of the phases that a session with ``options`` would run, as ``file::test``."""
    result = pytester.runpytest_subprocess(
        *("--collect-only", "-q", "--phase", "all", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")),
        *("-p", "no:cacheprovider", *options, str(ROOT / "bench")),
    )
    assert result.ret == 0
    return [line for line in result.outlines if "::" in line]


@pytest.mark.slow
def test_a_foreign_system_has_gates_of_its_own(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(empty_system=SYSTEM)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    own = collected(pytester)
    foreign = collected(pytester, "--grpo-system", "empty_system:Empty")
    assert not [node for node in own if "/foreign/" in node]
    added, left_out = sorted({*foreign} - {*own}), sorted({*own} - {*foreign})
    assert all("/foreign/" in node for node in added)
    names = {node.partition("::")[2] for node in left_out}
    assert names == replaced()


def replaced() -> set[str]:
    """The tests that those of bench/foreign stand in for."""
    files = sorted((ROOT / "bench" / "foreign").glob("test_*.py"))
    return {name for file in files for name in re.findall(r'instead_of\("(\w+)"\)', file.read_text(encoding="utf-8"))}


def test_what_is_replaced_is_there_and_has_the_same_gates() -> None:
    sources = {file: file.read_text(encoding="utf-8") for file in sorted((ROOT / "bench").glob("test_phase*.py"))}
    defined = Counter(name for text in sources.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    assert {name: defined[name] for name in replaced()} == dict.fromkeys(replaced(), 1)
    checked = {
        metric
        for file in (ROOT / "bench" / "foreign").glob("test_*.py")
        for metric in re.findall(r'(?:check|grpo_threshold)\(\s*"(\w+)"', file.read_text(encoding="utf-8"))
    }
    known = tomllib.loads((ROOT / "bench" / "thresholds.toml").read_text(encoding="utf-8"))["cpu"]
    assert checked <= {metric for metrics in known.values() for metric in metrics}
