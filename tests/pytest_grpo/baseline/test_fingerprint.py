from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pytest_grpo.baseline.fingerprint import Fingerprint, check_same, differing, take_fingerprint


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for arguments in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "a.py").write_text("a = 1\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "commit", "-qm", "one"], cwd=tmp_path, check=True)
    return tmp_path


def test_it_says_what_is_here(repository: Path) -> None:
    (repository / "untracked").touch()
    taken = take_fingerprint(repository, {"speed": ">= 2"})
    assert taken.torch == importlib.metadata.version("torch")
    assert taken.python == platform.python_version()
    assert taken.num_cores >= 1
    assert taken.cpu
    assert taken.gpus == ()
    assert taken.thresholds == {"speed": ">= 2"}
    assert len(taken.commit) == 40
    assert not taken.dirty
    (repository / "a.py").write_text("a = 2\n")
    assert take_fingerprint(repository, {}).dirty


def test_without_a_repository_or_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert take_fingerprint(tmp_path, {}).commit == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    taken = take_fingerprint(tmp_path, {})
    assert (taken.commit, taken.dirty, taken.describe_commit()) == ("", False, "no commit")


def test_equal_ones_do_not_differ_whatever_the_commit(tmp_path: Path) -> None:
    taken = take_fingerprint(tmp_path, {"speed": ">= 2"})
    assert differing(taken, replace(taken, commit="abc", dirty=True)) == []
    check_same("baseline 'main'", [])


@pytest.mark.parametrize("field", [f.name for f in fields(Fingerprint) if f.name not in ("commit", "dirty")])
def test_each_other_field_makes_two_incomparable(tmp_path: Path, field: str) -> None:
    taken = take_fingerprint(tmp_path, {"speed": ">= 2", "only here": "== 1"})
    values = {"num_cores": 999, "gpus": ("H100", "H100"), "thresholds": {"speed": ">= 3", "only there": "== 1"}}
    (difference,) = differing(replace(taken, **{field: values.get(field, "0.0")}), taken)
    shown = {"gpus": "gpus: H100, H100 / none", "thresholds": "threshold speed: >= 3 / >= 2"}
    assert difference.startswith(shown.get(field, f"{field}: {values.get(field, '0.0')} / "))
    with pytest.raises(pytest.UsageError, match=r"^baseline 'main': not comparable: .*; measure again here, or allow"):
        check_same("baseline 'main'", [difference])


def test_taking_it_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from pytest_grpo.baseline.fingerprint import take_fingerprint\n"
        "take_fingerprint(pathlib.Path(sys.argv[1]), {}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
