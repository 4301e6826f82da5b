"""Disks that are full, read-only or broken from a random write on: nothing is torn, and the run goes on afterwards.

``python -m bench.crash_study.disks`` is what ``study_disks`` starts with the faulty disk preloaded.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.crash_study.runs import CASES, Case, finish, grpo, last_weights, next_arguments, start, wait
from grpo_core.commands.command_line.parser import USER_ERROR_EXIT_CODE

SHIM = Path(__file__).with_name("faulty_disk.c")
FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}


@dataclass(frozen=True, slots=True)
class Disks:
    """``num_faults`` runs on a disk with this fault: ``num_lines`` ended with one line, the others trained on."""

    num_faults: int
    num_lines: int


def study_disks(num_faults: int, model: Path, folder: Path, seed: int) -> Mapping[str, Disks]:
    """For each of ``FAULTS`` let a random write fail, ``num_faults`` times; then the run goes on on a sound disk.

    Raises:
        AssertionError: a run ends with more than one line, or does not end as the uninterrupted one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shim = folder / "faulty_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM), "-ldl"], check=True)
    arguments = [str(num_faults), str(model), str(folder), str(seed)]
    ran = subprocess.run(
        [sys.executable, "-m", "bench.crash_study.disks", *arguments],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.strip().splitlines()[-1]
    return {fault: Disks(**fields) for fault, fields in json.loads(ran.stdout.splitlines()[-1]).items()}


def _study(case: Case, num_faults: int, model: Path, folder: Path, seed: int) -> dict[str, Disks]:
    finish(case, model, folder / "whole")
    whole = last_weights(folder / "whole")
    num_writes = _count_writes(case, model, folder / "counted")
    found: dict[str, Disks] = {}
    for fault, number in FAULTS.items():
        rng = random.Random(f"{fault} {seed}")
        num_lines = 0
        for place in range(num_faults):
            hurt = folder / f"{fault}-{place}"
            num_lines += _is_ended(case, model, hurt, rng.randint(1, num_writes), number)
            finish(case, model, hurt)
            assert last_weights(hurt) == whole, f"{hurt}: its weights differ from those of the uninterrupted run"
            shutil.rmtree(hurt)
        found[fault] = Disks(num_faults, num_lines)
    return found


def _count_writes(case: Case, model: Path, folder: Path) -> int:
    count = folder.with_name("count")

    def run() -> int:
        code = grpo(case.arguments(model))()
        count.write_text(str(ctypes.CDLL(None).grpo_num_calls()))
        return code

    assert wait(start(_on_faulty_disk(run, folder, 0, 0), folder)) == 0, (folder / "output").read_text()[-2000:]
    return int(count.read_text())


def _is_ended(case: Case, model: Path, folder: Path, at: int, number: int) -> bool:
    """Whether the fault ended the run; then with one line."""
    code = wait(start(_on_faulty_disk(grpo(next_arguments(case, model, folder)), folder, at, number), folder))
    said = (folder / "output").read_text()
    where = f"{errno.errorcode[number]} at write {at}"
    assert "Traceback" not in said, f"{where}: {' / '.join(said.strip().splitlines()[-6:])}"
    assert code in (0, USER_ERROR_EXIT_CODE), f"{where}: exit code {code}: {said[-500:]!r}"
    errors = [line for line in said.splitlines() if line.startswith("grpo: error: ")]
    assert len(errors) == (code != 0), f"{where}: {errors}"
    return code != 0


def _on_faulty_disk(work: Callable[[], int], folder: Path, at: int, number: int) -> Callable[[], int]:
    """``work``, in a process whose ``at``-th write below ``folder/data`` fails; 0 for none."""

    def run() -> int:
        ctypes.CDLL(None).grpo_fault(os.fsencode(folder / "data"), ctypes.c_long(at), ctypes.c_long(number))
        return work()

    return run


def _main(num_faults: str, model: str, folder: str, seed: str) -> None:
    from bench.crash_study.runs import import_all

    import_all()
    found = _study(CASES[0], int(num_faults), Path(model), Path(folder), int(seed))
    print(json.dumps({fault: asdict(disks) for fault, disks in found.items()}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
