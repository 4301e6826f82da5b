"""A part in a process of its own: its rows so far are kept when it fails, or takes too long.

``python -m bench.gpu_study.part NAME WORK FILE`` is that process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name

from bench.gpu_study.row import Row, Work
from grpo_core.errors import first_line

ROOT = Path(__file__).resolve().parents[2]
MAX_NOTE_LENGTH = 200


PARTS = {
    "machine": "bench.gpu_study.machine:measure_machine",
    "training": "bench.gpu_study.training:measure_training",
    "attention": "bench.gpu_study.attention:measure_attention",
    "decoding": "bench.gpu_study.decoding:measure_decoding",
    "vllm": "bench.gpu_study.decoding:measure_vllm",
    "swapping": "bench.gpu_study.swapping:measure_swapping",
    "phases": "bench.gpu_study.phases:judge_phases",
}
"""The function of each, in the order in which they run; ``machine`` writes the model of the others."""


def run_part(name: str, work: Work, limit_s: float) -> list[Row]:
    """The rows of part ``name``, and one that says why it did not end within ``limit_s`` seconds, if it did not."""
    rows, output = Path(work.folder) / f"{name}.jsonl", Path(work.folder) / f"{name}.log"
    rows.touch()
    command = [sys.executable, "-m", "bench.gpu_study.part", name, work.model_dump_json(), str(rows)]
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit_s)
            problem = f"exit code {code}: {_last_line(output)}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"it did not end within {limit_s:.0f} s"
        finally:
            _end_group(process)
    found = [Row.model_validate_json(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    return found + ([Row(name=name, value=None, note=problem)] if problem else [])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Also what the part has started, such as vLLM's processes."""
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:MAX_NOTE_LENGTH] if lines else "it said nothing"


def main(arguments: list[str]) -> int:
    """Write each row as soon as it is there. 1 with a line on stderr when the part fails."""
    name, text, file = arguments
    work = Work.model_validate_json(text)
    with Path(file).open("a", encoding="utf-8") as rows:
        try:
            for row in resolve_name(PARTS[name])(work):
                rows.write(row.model_dump_json() + "\n")
                rows.flush()
        except (ValueError, RuntimeError, OSError) as error:  # CUDA's are RuntimeErrors, out of memory among them
            print(f"{type(error).__name__}: {first_line(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
