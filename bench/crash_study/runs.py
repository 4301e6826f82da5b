"""A small run, what it leaves behind, and processes that train it.

Processes are forked from this one, which has imported everything and computed nothing: an attempt starts in a fraction
of a second, and a hundred of them take minutes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from grpo_core.home import Home
from grpo_core.training.checkpoint.state import checkpoints_in, newest_state

RUN = "crash"
NUM_STEPS = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of run. With a lag, timing decides which version samples which batch, so two runs differ; with vLLM the
    last bits depend on what else is sampled.

    Of several processes, their launcher and vLLM's, one is killed; the others notice.
    """

    name: str
    lag: int = 0
    method: str = "lora"
    refill: int = 0
    processes: int = 1
    engine: str = "torch"

    @property
    def is_deterministic(self) -> bool:
        return self.lag == 0 and self.engine == "torch"

    @property
    def has_others(self) -> bool:
        """Whether the run has processes that end with a line when another one is killed."""
        return self.processes > 1 or self.engine == "vllm"

    def arguments(self, model: Path) -> list[str]:
        """Those of ``grpo`` that start the run. It goes on with ``RESUME``."""
        settings = {
            "model.lora_rank": 4,
            "rollout.max_completion_tokens": 6,
            "rollout.max_refill_rounds": self.refill,
            "training.method": self.method,
            "training.learning_rate": 0.01,
            "schedule.checkpoint_every_steps": 3,
            "schedule.torch_threads": 1,
            "telemetry.axiom": "off",
            "telemetry.wandb": "off",
        }
        if self.method == "full":
            del settings["model.lora_rank"]
        if self.engine == "vllm":
            settings["rollout.max_kv_bytes"] = 16 << 20
        return [
            *("train", "--run", RUN, "--model", str(model), "--device", "cpu", "--engine", self.engine),
            *("--processes", str(self.processes)),
            *("--environment", "bench.crash_study.chatty:Chatty", "--groups", "2", "--samples", "2"),
            *("--steps", str(NUM_STEPS), "--policy-lag", str(self.lag), "--buffer-depth", str(max(1, self.lag))),
            *(f"--set={key}={value}" for key, value in settings.items()),
        ]


CASES = (
    Case("adapter, no lag"),
    Case("adapter, lag 2", lag=2),
    Case("all weights, no lag", method="full"),
    Case("all weights, lag 2", lag=2, method="full"),
    Case("adapter, no lag, refill", refill=4),
    Case("adapter, lag 2, refill", lag=2, refill=4),
    Case("adapter, no lag, two processes", processes=2),
)
VLLM_CASES = (
    Case("adapter, no lag, vLLM", engine="vllm"),
    Case("adapter, lag 2, vLLM", lag=2, engine="vllm"),
)


def import_all() -> None:
    """What a forked process needs not import again."""
    import grpo_core.cli
    import grpo_core.schedule.followers
    import grpo_core.schedule.loop
    import grpo_core.telemetry.gpu
    import grpo_core.telemetry.sinks  # noqa: F401


def home_of(folder: Path) -> Home:
    """What ``GRPO_HOME=folder`` is."""
    return Home(folder / "data", folder / "traces")


def next_arguments(case: Case, model: Path, folder: Path) -> list[str]:
    """What a user types next: the run goes on if it has a checkpoint, else it starts."""
    if checkpoints_in(home_of(folder).checkpoints / RUN):
        return ["train", "--run", RUN, "--resume", "--processes", str(case.processes)]
    return case.arguments(model)


def start(work: Callable[[], int], folder: Path) -> int:
    """Run ``work`` in a forked process of a group of its own, which ends with the exit code that it returns.

    ``GRPO_HOME`` is ``folder`` there, and output goes to ``folder/output``. Returns the process id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.environ["GRPO_HOME"] = str(folder)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def grpo(arguments: list[str]) -> Callable[[], int]:
    """``grpo ARGUMENTS`` as what a process does."""

    def run() -> int:
        from grpo_core.cli import main

        return main(arguments)

    return run


def wait(pid: int) -> int:
    """The exit code; negative for a signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@dataclass(frozen=True, slots=True)
class Moment:
    """``delay_s`` after an attempt has made ``num_steps`` steps."""

    num_steps: int
    delay_s: float


def kill_at(pid: int, moment: Moment, folder: Path, rng: random.Random) -> int:
    """Kill the process ``pid``, or one that it started, at ``moment``, unless it ends before. As ``wait``.

    Raises:
        AssertionError: the others do not end.
    """
    path = home_of(folder).events / f"{RUN}.jsonl"
    start = path.stat().st_size if path.exists() else 0
    deadline = None
    while deadline is None or time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline is None and _num_steps_after(path, start) >= moment.num_steps:
            deadline = time.monotonic() + moment.delay_s
        time.sleep(0.001)
    started = psutil.Process(pid).children(recursive=True)
    rng.choice([psutil.Process(pid), *filter(_is_worker, started)]).kill()
    code = wait(pid)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == [], f"{alive} go on when another process was killed"
    return code


def _is_worker(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return "train" in command or command[:1] == ["VLLM::EngineCore"]


def _num_steps_after(path: Path, start: int) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(start)
        return file.read().count(b'"kind":"train_step"')


def finish(case: Case, model: Path, folder: Path) -> None:
    """Let the run go on until it has done its steps.

    Raises:
        AssertionError: it does not.
    """
    code = wait(start(grpo(next_arguments(case, model, folder)), folder))
    assert code == 0, f"{case.name}: exit code {code}: {(folder / 'output').read_text()[-2000:]}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left of a run that has done its steps."""

    losses: Mapping[int, float]  # by step, of the history that remains
    weights: Mapping[str, str]  # as ``last_weights``


def outcome(case: Case, folder: Path) -> Outcome:
    """
    Raises:
        AssertionError: the history has a gap, or the last checkpoint is not of the last step.
    """
    losses = history(case, folder)
    assert list(losses) == list(range(1, NUM_STEPS + 1)), f"steps {list(losses)}"
    return Outcome(losses, last_weights(folder))


def last_weights(folder: Path) -> Mapping[str, str]:
    """The sha256 of the weights and of the optimizer in the last checkpoint.

    Not of the random numbers: a batch that was on disk is not played again, so an environment draws fewer.

    Raises:
        AssertionError: it is not of the last step.
    """
    state = newest_state(home_of(folder).checkpoints / RUN)
    assert state is not None
    assert state["step"] == NUM_STEPS, f"the last checkpoint is of step {state['step']}"
    return {name: digest for name, digest in state["sha256"].items() if not name.startswith("random")}


def history(case: Case, folder: Path) -> dict[int, float]:
    """The loss of each step. A resumed run takes back the steps from its first one on, and they come out the same.

    Raises:
        AssertionError: they do not, or a step is there twice.
    """
    losses: dict[int, float] = {}
    taken_back: dict[int, float] = {}
    is_first = False
    for event in events(folder):
        if event["kind"] == "run_started":
            is_first = True
        elif event["kind"] == "train_step":
            step = event["step"]
            if is_first:
                taken_back = {old: losses.pop(old) for old in list(losses) if old >= step}
                if step == 1 and not case.is_deterministic:
                    taken_back = {}  # without a checkpoint the run started again
                is_first = False
            assert taken_back.get(step, event["loss"]) == event["loss"], f"step {step} came out in another way"
            assert step not in losses, f"step {step} is in the history twice"
            losses[step] = event["loss"]
    return losses


def events(folder: Path) -> list[dict[str, Any]]:
    """Those in the run's file, but for a torn line where a process was killed."""
    path = home_of(folder).events / f"{RUN}.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
