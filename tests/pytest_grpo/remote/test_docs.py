"""What docs/remote-phases.md says of options and secrets is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_grpo.remote.project_files import NO_SECRETS, SECRET_SUFFIXES, SECRET_WORDS, SECRETS

PROJECT_FOLDER = Path(__file__).resolve().parents[3]
PAGE = (PROJECT_FOLDER / "docs/remote-phases.md").read_text(encoding="utf-8")


def test_every_option_and_ini_value_of_the_page_exists_and_none_is_missing(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest("--help").stdout.str()
    in_help = set(re.findall(r"--modal[a-z-]*", shown))
    assert in_help == set(re.findall(r"--modal[a-z-]*", PAGE))
    assert set(re.findall(r"`(grpo_[a-z_]+)`", PAGE)) - {"grpo_core"} <= set(re.findall(r"\bgrpo_[a-z_]+", shown))


def test_every_secret_that_stays_here_is_listed() -> None:
    listed = set(re.findall(r"`([^`\n]+)`", PAGE))
    assert {*SECRETS, *NO_SECRETS, *SECRET_WORDS, *SECRET_SUFFIXES} <= listed
