"""``python -m bench.verdict_study.record FILE``: step times of this machine, alone and beside a busy process.

Each session is a process of its own. It times the same training step with one thread and with two, in pairs of random
order, and notes how many cores others used. Alone, it waits for quiet before the next pair, half a minute at most.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_grpo.measuring.machine.cpu_use import CpuUse
from pytest_grpo.measuring.machine.quiet import QuietGuard

NUM_SESSIONS = 10
NUM_PAIRS = 50
NUM_WARMUPS = 5
MAX_CORES_OF_OTHERS = 0.1
MAX_WAIT_S = 30.0
STEP = "forward and backward of two layers of 512 x 2048, 96 rows, float32"
SPIN = "while True: pass"


def record_session(rng: random.Random, max_wait_s: float) -> dict[str, list[float]]:
    """The seconds of each step by its threads, and the cores of others, pair by pair."""
    import torch

    up, down = (torch.randn(shape, requires_grad=True) for shape in ((512, 2048), (2048, 512)))
    rows = torch.randn(96, 512)

    def step_s(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        start = time.perf_counter()
        (rows @ up).relu().matmul(down).square().mean().backward()
        return time.perf_counter() - start

    guard = QuietGuard(MAX_CORES_OF_OTHERS, max_wait_s)
    for _ in range(NUM_WARMUPS):
        for num_threads in (1, 2):
            step_s(num_threads)
    times: dict[str, list[float]] = {"one_thread_s": [], "two_threads_s": [], "cores_of_others": []}
    for _ in range(NUM_PAIRS):
        guard.counts()
        guard.start_round()
        before = CpuUse.read()
        for num_threads in rng.sample((1, 2), 2):
            times["one_thread_s" if num_threads == 1 else "two_threads_s"].append(round(step_s(num_threads), 6))
        now = CpuUse.read()
        times["cores_of_others"].append(round((now.others_since(before) or 0.0) / (now.at_s - before.at_s), 2))
    return times


def record(path: Path) -> None:
    """Write the sessions of both kinds, in turn, so that the hour of the day affects both."""
    from grpo_core.hardware import cpu_name
    from grpo_core.home import write_atomic

    sessions = []
    for number in range(NUM_SESSIONS):
        for has_neighbour in (False, True):
            neighbour = subprocess.Popen([sys.executable, "-c", SPIN]) if has_neighbour else None
            try:
                command = [sys.executable, "-m", "bench.verdict_study.record", "--session", str(number)]
                command += [] if has_neighbour else ["--wait"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            finally:
                if neighbour is not None:
                    neighbour.kill()
                    neighbour.wait()
            sessions.append({"has_neighbour": has_neighbour} | json.loads(done.stdout))
    content = {"processor": cpu_name(), "num_cores": os.cpu_count(), "step": STEP, "sessions": sessions}
    write_atomic(path, (json.dumps(content) + "\n").encode())  # thousands of numbers: not one per line


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record step times of this machine.")
    parser.add_argument("file", nargs="?", type=Path, help="the JSON file to write")
    parser.add_argument("--session", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.session is not None:
        print(json.dumps(record_session(random.Random(options.session), MAX_WAIT_S * options.wait)))
    elif options.file is not None:
        record(options.file)
    else:
        parser.error("name the file to write, e.g. recorded.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
