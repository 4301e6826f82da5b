"""For tests of environments: a uv that installs nothing, and the real one where an index answers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

FAKE_UV = """#!/bin/sh
echo "$*" >> {log}
if [ "$1 $2" = "pip compile" ]; then cat {resolved} > resolved.txt; fi
if [ "$1" = venv ]; then
    mkdir -p "$2/bin"
    printf '#!/bin/sh\\n' > "$2/bin/python"
    chmod +x "$2/bin/python"
fi
if [ "$1 $2" = "pip install" ]; then
    {then}
fi
"""


@dataclass(frozen=True, slots=True)
class FakeUv:
    """Writes its calls down; resolves to what ``resolved`` has; the Python of its environments does nothing."""

    program: Path
    log: Path
    resolved: Path

    def then(self, command: str) -> None:
        """From now on the install step runs this command."""
        text = FAKE_UV.format(log=self.log, resolved=self.resolved, then=command)
        written = self.program.with_suffix(".new")  # one that runs goes on with the old text
        written.write_text(text)
        written.chmod(0o700)
        written.replace(self.program)

    @property
    def num_installs(self) -> int:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.startswith("pip install") for line in lines)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments are kept."""
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "environments"


@pytest.fixture
def fake_uv(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    """On the PATH of this process and of those that it starts."""
    folder = tmp_path / "programs"
    folder.mkdir()
    fake = FakeUv(folder / "uv", tmp_path / "uv.log", tmp_path / "uv.resolved")
    fake.resolved.write_text("")
    fake.then("true")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return fake


@pytest.fixture(scope="session")
def real_uv() -> None:
    """Skips where there is no uv, or no index that it reaches."""
    command = ["uv", "pip", "compile", "--quiet", "-"]
    if (
        shutil.which("uv") is None
        or subprocess.run(command, input="iniconfig==2.0.0", text=True, capture_output=True).returncode
    ):
        pytest.skip("needs uv and a package index")
