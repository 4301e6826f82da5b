"""Disks that are full, read-only or broken from a random write on: nothing is torn, and the run goes on afterwards."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.crash_study.runs import Case, finish, last_weights, next_arguments
from grpo_core.commands.parser import USER_ERROR_EXIT_CODE

SHIM = Path(__file__).with_name("faulty_disk.c")
FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}


@dataclass(frozen=True, slots=True)
class Disks:
    """``num_faults`` runs on a disk with this fault: ``num_lines`` ended with one line, the others trained on."""

    num_faults: int
    num_lines: int


def study_disks(case: Case, fault: str, num_faults: int, model: Path, folder: Path, seed: int) -> Disks:
    """Let a random write fail, and those after it where the fault stays; then let the run go on on a sound disk.

    Raises:
        AssertionError: the run ends with more than one line, or does not end as the uninterrupted one.
    """
    assert case.is_deterministic
    rng = random.Random(f"{fault} {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    shim = folder / "faulty_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM), "-ldl"], check=True)
    finish(case, model, folder / "whole")
    whole = last_weights(folder / "whole")
    num_writes = _count_writes(case, model, folder / "counted", shim)
    num_lines = 0
    for number in range(num_faults):
        hurt = folder / f"hurt-{number}"
        num_lines += _fails(case, model, hurt, shim, rng.randint(1, num_writes), FAULTS[fault])
        finish(case, model, hurt)
        assert last_weights(hurt) == whole, f"{hurt}: its weights differ from those of the uninterrupted run"
        shutil.rmtree(hurt)
    return Disks(num_faults, num_lines)


def _count_writes(case: Case, model: Path, folder: Path, shim: Path) -> int:
    count = shim.with_name("count")
    ran = _run(case, model, folder, shim, {"GRPO_FAULT_COUNT": str(count)})
    assert ran.returncode == 0, ran.stderr
    return int(count.read_text())


def _fails(case: Case, model: Path, folder: Path, shim: Path, at: int, number: int) -> bool:
    """Whether the fault ended the run; then with one line."""
    ran = _run(case, model, folder, shim, {"GRPO_FAULT_AT": str(at), "GRPO_FAULT_ERRNO": str(number)})
    where = f"{errno.errorcode[number]} at write {at}"
    assert "Traceback" not in ran.stderr, f"{where}: {ran.stderr[-3000:]}"
    assert ran.returncode in (0, USER_ERROR_EXIT_CODE), f"{where}: exit code {ran.returncode}: {ran.stderr[-2000:]}"
    if ran.returncode == 0:
        return False
    errors = [line for line in ran.stderr.splitlines() if line.startswith("grpo: error: ")]
    assert len(errors) == 1, f"{where}: {ran.stderr[-2000:]}"
    return True


def _run(case: Case, model: Path, folder: Path, shim: Path, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    environment = {**os.environ, "GRPO_HOME": str(folder), "LD_PRELOAD": str(shim), "GRPO_FAULT_ROOT": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "grpo_core.cli", *next_arguments(case, model, folder)],
        env={**environment, **more},
        capture_output=True,
        text=True,
        check=False,
    )
