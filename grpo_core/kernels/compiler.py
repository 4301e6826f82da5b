"""Builds the project's C kernels with the machine's own compiler, once per machine, and loads them.

Without a compiler the callers fall back to torch, and one warning says that this is slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from grpo_core.errors import HomeError
from grpo_core.home import cache_folder, make_folder
from grpo_core.kernels.library import find_library, keep_library

FOLDER = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-fschedule-insns", "-march=native", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("cc", "gcc", "clang")
COMPILE_TIMEOUT_S = 120

logger = logging.getLogger(__name__)


@functools.cache
def load_kernels(source: Path, *flags: str) -> ctypes.CDLL | None:
    """The compiled kernels of the C file ``source``, built with ``flags`` besides ``FLAGS``. None if that fails."""
    assert source.is_file(), f"{source} has moved: torch would silently compute it, more slowly"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        return _library(source, (*FLAGS, *flags))
    except (OSError, HomeError, _BuildError, subprocess.TimeoutExpired) as error:
        logger.warning(
            "%s: falling back to torch, which is slower on this CPU than compiled code: %s", source.stem, error
        )
        return None


class _BuildError(Exception):
    pass


def _library(source: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """The library of ``source`` for this processor. It needs a compiler, and a cache that it can write, only to build.

    One process builds, others wait for it. A library that is damaged, or that others could have changed, is built anew.
    """
    headers = sorted({*FOLDER.glob("*.h"), *source.parent.glob("*.h")})
    text = b"".join(path.read_bytes() for path in (source, *headers))
    described = "\n".join((*flags, os.environ.get("CC", ""), _processor()))
    folder = cache_folder() / "kernels"
    name = f"{source.stem}-{hashlib.sha256(text + described.encode()).hexdigest()[:16]}"
    if (library := find_library(folder, name)) is not None:
        return library
    with FileLock(make_folder(folder, "GRPO_CACHE") / f"{name}.lock"):
        if (library := find_library(folder, name)) is not None:
            return library
        keep_library(folder, name, _build(source, flags))
    if (library := find_library(folder, name)) is None:
        raise _BuildError(f"what {folder} holds cannot be loaded; delete {folder / name}-*.so")
    return library


def _compilers() -> list[list[str]]:
    """The commands to try, the first one first. ``CC`` may have arguments, as in ``gcc -O2``."""
    named = shlex.split(os.environ.get("CC", ""))
    if named and shutil.which(named[0]) is None:
        raise _BuildError(f"no compiler {named[0]!r}; correct CC, or unset it")
    found = [named] if named else [[path] for path in map(shutil.which, COMPILERS) if path is not None]
    if not found:
        raise _BuildError(f"no C compiler; install one ({', '.join(COMPILERS[1:])}), or set CC to its path")
    return found


def _processor() -> str:
    """What ``-march=native`` depends on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    said = ("model name", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in info if line.startswith(said)}))


def _build(source: Path, flags: Sequence[str]) -> bytes:
    """The content of the library."""
    failures: list[str] = []
    for compiler in _compilers():
        with tempfile.TemporaryDirectory(prefix="grpo-build-") as folder:
            built = Path(folder) / "library.so"
            command = [*compiler, *flags, f"-I{FOLDER}", str(source), "-o", str(built), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
            if done.returncode == 0:
                return built.read_bytes()
        failures.append(f"{compiler[0]}: {(done.stderr.strip().splitlines() or ['no output'])[0]}")
    raise _BuildError("; ".join(failures))
