"""Slowdowns are planted where the product still has the function, and the study of them runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench.ab_quality import main
from bench.ab_study.bisection import bisect, planted_history
from bench.ab_study.runs import PROJECT
from bench.ab_study.slowdowns import SLOWDOWNS, Slowdown, add_unrelated_lines
from pytest_grpo.checkouts.git import git

PLACES = {slowdown.place: slowdown for slowdown in SLOWDOWNS}
in_a_repository = pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="needs this project's git repository")
by_place = pytest.mark.parametrize("slowdown", SLOWDOWNS, ids=list(PLACES))


def planted_module(slowdown: Slowdown, folder: Path) -> ModuleType:
    """The module of ``slowdown``, imported from a copy in which it is planted."""
    copy = folder / slowdown.file
    copy.parent.mkdir(parents=True)
    copy.write_text((PROJECT / slowdown.file).read_text(encoding="utf-8"), encoding="utf-8")
    slowdown.plant(folder, 0.1)
    spec = importlib.util.spec_from_file_location("planted_" + copy.stem, copy)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``torch.Tensor.backward`` and the imported modules are the old ones afterwards."""
    monkeypatch.setattr(torch.Tensor, "backward", torch.Tensor.backward)
    before = set(sys.modules)
    yield
    for name in {name for name in set(sys.modules) - before if name.startswith("planted_")}:
        del sys.modules[name]


@pytest.mark.slow
@by_place
@pytest.mark.usefixtures("as_it_was")
def test_the_function_of_each_slowdown_exists(slowdown: Slowdown, tmp_path: Path) -> None:
    module = planted_module(slowdown, tmp_path)
    owner: object = module
    for name in slowdown.owner.split("."):
        owner = vars(owner)[name]
    assert hasattr(vars(owner)[slowdown.function], "__wrapped__")


@pytest.mark.usefixtures("as_it_was")
def test_a_planted_function_takes_its_share_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", lambda tensor: time.sleep(0.01) or "the answer")
    module = planted_module(PLACES["backward"], tmp_path)
    start = time.perf_counter()
    assert module.torch.Tensor.backward(torch.zeros(1)) == "the answer"
    assert time.perf_counter() - start >= 0.011


@pytest.mark.slow
def test_each_slowdown_has_a_test_that_must_show_it() -> None:
    phases = ",".join(sorted({str(slowdown.phase) for slowdown in SLOWDOWNS}))
    command = [sys.executable, "-m", "pytest", "bench", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "--phase", phases], cwd=PROJECT, capture_output=True, text=True, check=True)
    for slowdown in SLOWDOWNS:
        found = [
            line for line in done.stdout.splitlines() if f"_phase{slowdown.phase}_" in line and slowdown.test in line
        ]
        assert len(found) == 1, slowdown.place


def test_an_unrelated_line_changes_every_file_of_the_product_and_nothing_else(tmp_path: Path) -> None:
    product, other = tmp_path / "grpo_core" / "a.py", tmp_path / "bench.py"
    product.parent.mkdir()
    for path in (product, other):
        path.write_text("VALUE = 1\n")
    add_unrelated_lines(tmp_path)
    assert product.read_text().startswith("VALUE = 1\n\n#")
    assert other.read_text() == "VALUE = 1\n"


@pytest.mark.slow
@in_a_repository
def test_a_history_hides_one_slowdown() -> None:
    with planted_history(PLACES["backward"], 0.1, num_commits=3, position=2) as history:
        commits = git(history.folder, "rev-list", "--reverse", f"{history.good}..{history.bad}", problem="").split()
        changed = [git(history.folder, "show", "--format=", commit, problem="") for commit in commits]
        assert history.good == git(PROJECT, "rev-parse", "HEAD", problem="")
        assert commits[1] == history.slow
        assert ["_planted" in text for text in changed] == [False, True, False]
    assert not history.folder.exists()


@pytest.mark.slow
@in_a_repository
def test_a_bisection_names_the_commit_or_says_why_not() -> None:
    """With two pairs nothing is proven: it says so, for the bad end, and names no commit."""
    swap = PLACES["adapter from disk"]
    with planted_history(swap, 0.1, num_commits=2, position=1) as history:
        result = bisect(history, swap, ["--grpo-pairs", "2,3", "--grpo-budget", "1"])
    assert result.found is None
    assert f"BAD {history.bad[:12]} cannot be compared with GOOD {history.good[:12]}" in "".join(result.lines)


@pytest.mark.slow
@in_a_repository
def test_the_table_has_the_row_of_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--grpo-pairs", "2,3", "--grpo-budget", "1"]
    assert main(["--slowdowns", "10", "--place", "adapter from disk", "--", *options]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("| adapter from disk | 10 % | `cold.loads_per_second` | ")
    assert "not measured" not in row


@pytest.mark.parametrize(
    "arguments", [["--same", "x"], ["--place", "nowhere"], ["--bisect", "-1"], ["--slowdowns", "0"]]
)
def test_a_mistake_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.count("\n") == 1
