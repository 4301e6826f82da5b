"""The program uv: makes an environment, or says in one line why it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_MEANT_FOR_OTHERS = ("VIRTUAL_ENV", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT")
_DRAWING = re.compile(r"[^\x00-\x7f]")
_MAX_CHARACTERS = 400
_OLDER_INDEXES = tuple(f"{kind}-url" for kind in ("index", "extra-index"))
"""Settings from before ``[[tool.uv.index]]``: one address, and a list of them."""


@dataclass(frozen=True, slots=True)
class Uv:
    """uv at ``program``. Lines about it begin with ``purpose``."""

    program: str
    purpose: str

    @classmethod
    def find(cls, purpose: str) -> Uv:
        """Raises pytest.UsageError when there is none."""
        program = shutil.which("uv")
        if program is None:
            raise pytest.UsageError(f"{purpose}: uv, which makes environments, is not installed; pip install uv")
        return cls(program, purpose)

    def make(
        self,
        folder: Path,
        required: Sequence[str],
        preferred: Sequence[str],
        overrides: Sequence[str],
        index_options: Sequence[str],
    ) -> list[str]:
        """Make ``folder`` an environment of this Python, and return its packages as ``name==version``.

        Raises:
            pytest.UsageError: a package is unknown or cannot be fetched, or the requirements contradict each other.
        """
        with tempfile.TemporaryDirectory(prefix="grpo-environment-") as name:  # no project's settings reach uv there
            inputs = {"required.txt": required, "resolved.txt": preferred, "overrides.txt": overrides}
            for file, lines in inputs.items():
                (Path(name) / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            resolve = ["--override", "overrides.txt", "--output-file", "resolved.txt", "--no-header", "--no-annotate"]
            here = ["--python", sys.executable]
            self._run(Path(name), "pip", "compile", "required.txt", *resolve, *here, *index_options)
            self._run(Path(name), "venv", str(folder), *here)
            there = ["--python", str(folder / "bin" / "python"), "--no-deps"]
            self._run(Path(name), "pip", "install", "--requirements", "resolved.txt", *there, *index_options)
            return (Path(name) / "resolved.txt").read_text(encoding="utf-8").splitlines()

    def check_imports(self, folder: Path, modules: str) -> None:
        """Raises pytest.UsageError when one of ``modules``, which this plugin needs, cannot be imported there."""
        python = folder / "bin" / "python"
        done = subprocess.run([python, "-Ic", f"import {modules}"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise pytest.UsageError(f"{self.purpose}: pytest-grpo cannot run in it: {reason}")

    def _run(self, folder: Path, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _MEANT_FOR_OTHERS}
        command = [self.program, *arguments, "--quiet", "--no-python-downloads", "--color=never"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise pytest.UsageError(f"{self.purpose}: {_one_line(done.stderr) or f'uv ended with {done.returncode}'}")


def project_settings(folders: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Where the project finds packages, as options for uv, and its override-dependencies.

    They are those of the first of ``folders`` that has settings of uv.
    """
    for folder in folders:
        settings = _settings_of(folder)
        if settings:
            return list(_index_options(settings, folder)), settings.get("override-dependencies", [])
    return [], []


def _settings_of(folder: Path) -> dict[str, Any]:
    try:
        if (folder / "uv.toml").is_file():
            return tomllib.loads((folder / "uv.toml").read_text(encoding="utf-8"))
        if (folder / "pyproject.toml").is_file():
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
            return project.get("tool", {}).get("uv", {})
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{folder}: the settings of uv cannot be read: {error}") from error
    return {}


def _index_options(settings: dict[str, Any], folder: Path) -> Iterator[str]:
    for index in settings.get("index", []):
        if not index.get("explicit", False):
            yield f"--{'default-index' if index.get('default', False) else 'index'}={index['url']}"
    for name in _OLDER_INDEXES:
        given = settings.get(name, [])
        yield from (f"--{name}={url}" for url in ([given] if isinstance(given, str) else given))
    if "index-strategy" in settings:
        yield f"--index-strategy={settings['index-strategy']}"
    for place in settings.get("find-links", []):
        yield f"--find-links={folder / place if (folder / place).exists() else place}"


def _one_line(stderr: str) -> str:
    """What uv says, without its drawing and its hints."""
    line = " ".join(_DRAWING.sub(" ", stderr.partition("\nhint:")[0]).split()).removeprefix("error: ")
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}..."
