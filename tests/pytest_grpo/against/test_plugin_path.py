from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_grpo.against import plugin_path
from pytest_grpo.against.plugin_path import environment_with_plugin
from pytest_grpo.sides.interpreter import this_python


@pytest.mark.parametrize(("is_installed", "named"), [(True, None), (False, "pytest_grpo.plugin")])
def test_a_python_without_the_plugin_is_told_to_load_it(
    is_installed: bool, named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that was made for a commit has its packages and no plugin."""
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.setattr(plugin_path, "has_plugin", lambda python: is_installed)
    environment = environment_with_plugin(Path("/another/python"), tmp_path, ["/a/tree"])
    assert environment.get("PYTEST_PLUGINS") == named
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "plugin"), "/a/tree"]


def test_this_python_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_path, "has_plugin", lambda python: pytest.fail("it was asked"))
    assert "PYTHONPATH" in environment_with_plugin(this_python(), tmp_path, [])
