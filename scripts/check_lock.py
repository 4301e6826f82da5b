"""Check that requirements.lock is what a fresh resolution of pyproject.toml gives; ``--write`` makes it so.

The file has the default dependencies and the dev group for every supported platform and Python: versions and sha256
hashes, no hosts. The resolution starts from nothing in a temporary folder, covers every extra, and is pinned in time by
``[tool.uv] exclude-newer``.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
LOCK = PROJECT_FOLDER / "requirements.lock"
HEADER = "# Written by scripts/check_lock.py --write. Do not edit.\n"
EXPORT = ["--frozen", "--format", "requirements.txt", "--all-groups", "--no-emit-project", "--no-header"]
MAX_DIFF_LINES = 20


def fresh_lock() -> str:
    """The content that requirements.lock should have. Ends the program when uv is absent or finds no resolution."""
    if shutil.which("uv") is None:
        raise SystemExit("requirements.lock: uv is not installed; pip install uv")
    with tempfile.TemporaryDirectory(prefix="grpo-lock-") as folder:
        shutil.copy(PROJECT_FOLDER / "pyproject.toml", folder)
        _uv("lock", folder)
        return HEADER + _uv("export", folder, *EXPORT, "--no-annotate")


def _uv(command: str, folder: str, *arguments: str) -> str:
    finished = subprocess.run(
        ["uv", command, "--quiet", "--project", folder, *arguments], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(f"requirements.lock: uv {command} failed: {finished.stderr.strip()}")
    return finished.stdout


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="check that requirements.lock equals a fresh resolution")
    parser.add_argument("--write", action="store_true", help="write requirements.lock instead")
    write = parser.parse_args(arguments).write
    fresh = fresh_lock()
    if write:
        LOCK.write_text(fresh, encoding="utf-8")
        return 0
    stored = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    if stored == fresh:
        print("requirements.lock is up to date")
        return 0
    diff = difflib.unified_diff(stored.splitlines(), fresh.splitlines(), "requirements.lock", "fresh", lineterm="")
    print("\n".join(itertools.islice(diff, MAX_DIFF_LINES)))
    print("requirements.lock is not what pyproject.toml resolves to; run: python scripts/check_lock.py --write")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
