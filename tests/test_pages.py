"""Every console line of README and pages is run, or it is written down why not; and its options exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_core.cli import _parser, main
from grpo_core.commands.command_line.options import config_from_flags
from tests.page_lines import HOW, PAGES, PROJECT_FOLDER, Run, RunBy, console_lines

LINES = list(dict.fromkeys(line for page in PAGES for line in console_lines(page)))
RUNNER = re.compile(r"^(?:\w+=\S+ )*(?:uv run )?(?:--isolated )?(?:--(?:extra|group) \S+ )*")
"""What stands before the program: variables, and uv with its options."""


def words(line: str) -> list[str]:
    return shlex.split(RUNNER.sub("", line))


def lines_of(program: str) -> list[str]:
    return [line for line in LINES if words(line)[0] == program]


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_page_is_run_or_says_why_not(page: str) -> None:
    assert [line for line in console_lines(page) if line not in HOW] == [], "add it to tests/page_lines.py"


def test_no_line_is_listed_that_no_page_shows() -> None:
    assert sorted(set(HOW) - set(LINES)) == []


@pytest.mark.parametrize("node", sorted({how.node for how in HOW.values() if isinstance(how, RunBy)}))
def test_the_test_that_runs_a_line_is_there(node: str) -> None:
    file, _, name = node.partition("::")
    tree = ast.parse((PROJECT_FOLDER / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has what the lines name: the ``run.toml`` of docs/configuration.md."""
    page = (PROJECT_FOLDER / "docs" / "configuration.md").read_text(encoding="utf-8")
    shown = re.search(r"`run\.toml`:\n\n```toml\n(.*?)```", page, flags=re.DOTALL)
    assert shown is not None
    (tmp_path / "run.toml").write_text(shown[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", lines_of("grpo"))
def test_the_command_takes_the_options(line: str) -> None:
    flags = _parser().parse_args(words(line)[1:])
    if "set" in vars(flags):
        config_from_flags(flags, {}, "run")


def test_pytest_takes_the_options() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=PROJECT_FOLDER, capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown.stdout))
    given = {word.partition("=")[0] for line in lines_of("pytest") for word in words(line) if word.startswith("-")}
    assert given - known == set()


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES if isinstance(HOW.get(line), Run)])
def test_the_line_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: str) -> None:
    how = HOW[line]
    assert isinstance(how, Run)
    for name in ("my-model", "my-mistral"):
        (tmp_path / name).symlink_to(model_folder)
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    program, *arguments = [*words(line), *how.more.split()]
    if program == "grpo":
        assert main(arguments) == 0
    else:
        assert program == "python"
        subprocess.run([sys.executable, *arguments], check=True)
