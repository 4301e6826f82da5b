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
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from grpo_core.errors import HomeError
from grpo_core.home import cache_folder, make_folder

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
        return ctypes.CDLL(str(_library(source, (*FLAGS, *flags))))
    except (OSError, HomeError, _BuildError, subprocess.TimeoutExpired) as error:
        logger.warning(
            "%s: falling back to torch, which is slower on this CPU than compiled code: %s", source.stem, error
        )
        return None


class _BuildError(Exception):
    pass


def _library(source: Path, flags: Sequence[str]) -> Path:
    """The library built from ``source`` for this processor. One process builds, others wait for it."""
    headers = sorted({*FOLDER.glob("*.h"), *source.parent.glob("*.h")})
    text = b"".join(path.read_bytes() for path in (source, *headers))
    compilers = list(_compilers())
    if not compilers:
        raise _BuildError(f"no C compiler; install one ({', '.join(COMPILERS[1:])}), or set CC to its path")
    described = "\n".join((*flags, *compilers, _processor()))
    key = hashlib.sha256(text + described.encode()).hexdigest()[:16]
    library = make_folder(cache_folder() / "kernels") / f"{source.stem}-{key}.so"
    if not library.exists():
        with FileLock(library.with_suffix(".lock")):
            if not library.exists():
                _build(compilers, source, flags, library)
    return library


def _compilers() -> Iterator[str]:
    named = os.environ.get("CC")
    for name in (named,) if named else COMPILERS:
        path = shutil.which(name)
        if path is not None:
            yield path


def _processor() -> str:
    """What ``-march=native`` depends on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    said = ("model name", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in info if line.startswith(said)}))


def _build(compilers: list[str], source: Path, flags: Sequence[str], library: Path) -> None:
    failures: list[str] = []
    for compiler in compilers:
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            command = [compiler, *flags, f"-I{FOLDER}", str(source), "-o", str(built), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
            if done.returncode == 0:
                built.replace(library)
                return
        failures.append(f"{compiler}: {(done.stderr.strip().splitlines() or ['no output'])[0]}")
    raise _BuildError("; ".join(failures))
