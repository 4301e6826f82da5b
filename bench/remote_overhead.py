"""The overhead of running a phase on a worker, compared with a plain run on the same machine.

``python bench/remote_overhead.py --json overhead.json`` runs the same small suites in fresh processes, here and with
``--grpo-remote subprocess``, in random order. The overhead per test is the slope between a suite of one test and one of
many; the rest is the overhead per session. ``--place modal`` uses ``--modal`` instead; with
``python -m tests.modal_server`` the container shares this machine and its clock.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.reporting.figures import Figure, figure_table
from bench.reporting.options import OneLineParser, add_json, positive
from grpo_core.home import write_json

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PLACES = {"subprocess": "--grpo-remote=subprocess", "modal": "--modal"}
NUM_REPORTS = 500
REPORT_BYTES = 100_000

QUICK = (
    "import pytest\n@pytest.mark.phase2\n@pytest.mark.parametrize('number', range({num_tests}))\ndef test(number): pass"
)
FIRST = """
import time, pytest
pytestmark = pytest.mark.phase2
def test_first(): print("ended", time.time())
def test_second(): time.sleep(2)
"""
LARGE = """
import pytest
@pytest.mark.phase2
@pytest.mark.parametrize("number", range({num_reports}))
def test(number): print(str(number) + "x" * ({report_bytes} - len(str(number))))
"""
COUNTER = """
import pathlib, sys
def pytest_runtest_logreport(report):
    if report.when == "call" and not any("report-file" in word for word in sys.argv):
        with pathlib.Path("seen.txt").open("a") as file:
            file.write(f"{len(report.capstdout)}\\n")
"""


APP = f"""
import modal
from pathlib import Path
from grpo_core.cloud.images import project_image

image = project_image(Path({str(PROJECT_FOLDER)!r}), {{"PYTEST_PLUGINS": "pytest_grpo.plugin"}})
app = modal.App("remote-overhead", image=image)

@app.function(timeout=600, single_use_containers=True)
def run_pytest(request: str, files: bytes):
    from pytest_grpo.remote.worker import serve

    yield from serve(request, files, modal.current_function_call_id())

@app.function()
def record_pytest(request: str, files: bytes):
    raise NotImplementedError("nothing is detached here")
"""


def figure(values: Sequence[float], unit: str, at_most: float | None = None) -> Figure:
    """The median with minimum and maximum, since the values may be few, or below zero."""
    return Figure(median(values), min(values), max(values), len(values), unit, at_most=at_most)


def measure_replay(folder: Path, remote: str, num_tests: int, num_rounds: int, rng: random.Random) -> dict[str, Figure]:
    """The overhead per test and per session, round by round."""
    cells = [(number, place) for number in (1, num_tests) for place in ("", remote)]
    per_test: list[float] = []
    per_session: list[float] = []
    for number in (1, num_tests):
        _write(folder / str(number), QUICK.format(num_tests=number))
    for _ in range(num_rounds):
        seconds = {}
        for number, place in rng.sample(cells, len(cells)):
            start = time.perf_counter()
            _finish(_start(folder / str(number), *([place] if place else [])))
            seconds[number, place] = time.perf_counter() - start
        extra_s = {number: seconds[number, remote] - seconds[number, ""] for number in (1, num_tests)}
        per_session.append(extra_s[1] * 1000)
        per_test.append((extra_s[num_tests] - extra_s[1]) / (num_tests - 1) * 1000)
    return {
        "replay_overhead_per_test_ms": figure(per_test, "ms", at_most=30),
        "replay_overhead_per_session_ms": figure(per_session, "ms"),
    }


def measure_first_report(folder: Path, remote: str, num_rounds: int) -> dict[str, Figure]:
    """The delay from the end of a test on the worker to its line here, while the next test runs."""
    _write(folder, FIRST)
    waits = []
    for _ in range(num_rounds):
        process = _start(folder, remote, "-v", "-rP")
        assert process.stdout is not None
        line = ""
        while "test_first PASSED" not in line:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("remote_overhead: pytest ended before the first report")
        seen_s = time.time()
        ended = re.search(r"^ended ([\d.]+)", _finish(process), re.MULTILINE)
        assert ended is not None
        waits.append((seen_s - float(ended[1])) * 1000)
    return {"first_report_visible_ms": figure(waits, "ms", at_most=1000)}


def measure_loss(folder: Path, remote: str) -> dict[str, Figure]:
    """How many of 500 reports of 100 kB do not arrive complete."""
    _write(folder, LARGE.format(num_reports=NUM_REPORTS, report_bytes=REPORT_BYTES))
    (folder / "conftest.py").write_text(COUNTER)
    _finish(_start(folder, remote))
    sizes = [int(line) for line in (folder / "seen.txt").read_text().split()]
    num_whole = sum(size == REPORT_BYTES + 1 for size in sizes)
    return {"large_reports_lost": figure([NUM_REPORTS - num_whole], "reports", at_most=0)}


def _write(folder: Path, suite: str) -> None:
    folder.mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "app.py").write_text(APP)
    (folder / "test_suite.py").write_text(suite)


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "pytest", "--phase=2", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_grpo.plugin",
        "GRPO_HOME": str(folder / "home"),
    }
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> str:
    """The output that was not read yet."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"remote_overhead: pytest failed:\n{output}")
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--place", choices=PLACES, default="subprocess", help="where the phase runs (default subprocess)")
    add("--tests", type=positive, default=200, metavar="N", help="tests in the larger suite (default 200)")
    add("--rounds", type=positive, default=5, metavar="N", help="repetitions of all runs (default 5)")
    add("--seed", type=int, default=0, help="seed of the order in each round (default 0)")
    add_json(parser)
    options = parser.parse_args(arguments)
    if options.tests < 2:
        parser.error(f"--tests {options.tests}: allowed are whole numbers from 2")
    remote = PLACES[options.place]
    with tempfile.TemporaryDirectory(prefix="remote-overhead-") as name:
        folder = Path(name)
        rng = random.Random(options.seed)
        figures = measure_replay(folder / "replay", remote, options.tests, options.rounds, rng)
        figures |= measure_first_report(folder / "first", remote, options.rounds)
        figures |= measure_loss(folder / "large", remote)
    print(*figure_table(figures), sep="\n")
    if options.json is not None:
        write_json(options.json, {key: value.as_json() for key, value in figures.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
