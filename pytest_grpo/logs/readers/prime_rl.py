"""prime-rl: the lines of its trainer's and its orchestrator's console, and its file of metrics.

Sources: ``src/prime_rl/trainer/rl/train.py`` and ``src/prime_rl/orchestrator/orchestrator.py`` (``step_message``:
``Step 3 | 1m 5s | Loss 0.01 | ... | Throughput 6541 tokens/s | ... | Peak Mem. 23.3 GiB``; older versions wrote
``Time: 65.21s`` and a colon after each name), ``src/prime_rl/utils/utils.py`` (``format_time``),
``src/prime_rl/utils/monitor/file.py`` (``FileMonitor``: ``{"step": 3, "time": ..., "time/step": ...}``, several lines
per step).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pytest_grpo.logs.readers.json_lines import first_objects, numbers, read_objects, whole_number
from pytest_grpo.logs.readers.text_lines import CUT_OFF, text_lines
from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.vocabulary.stacks import CONSOLE_LAG, CONSOLE_REWARD, ORCHESTRATOR_STEP, PRIME_RL, TRAINER_STEP
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary

_LINE = re.compile(r"(?<!Micro )\bStep (\d+) \| +(Time: )?([\d.]+ ?(?:d|h|m|s|ms)\b[^|]*)\|(.*)")
_TIME = re.compile(r"([\d.]+) ?(ms|d|h|m|s)\b")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_FIELDS = {
    "perf/throughput": re.compile(r"Throughput:? ([\d.]+) tokens/s"),
    "perf/peak_memory": re.compile(r"Peak Mem\.:? ([\d.]+) GiB"),
    CONSOLE_REWARD: re.compile(r"\| Reward:? (-?[\d.]+|nan)"),
    CONSOLE_LAG: re.compile(r"Max\.? Off-Policy(?: Level)?:? (\d+)"),
}
WHOLE_SECONDS = "step times are printed in whole seconds, above a minute too: small changes are rounded away"


@dataclass(frozen=True, slots=True)
class PrimeConsoleReader:
    name: str = "prime-rl-console"
    title: str = "prime-rl's console"

    def recognises(self, path: Path) -> bool:
        return any(_LINE.search(line) for line, _ in text_lines(path))

    def read(self, path: Path) -> Reading:
        records, is_rounded, is_cut_off = [], False, False
        for line, is_whole in text_lines(path):
            found = _LINE.search(line)
            if found is None:
                continue
            if not is_whole:
                is_cut_off = True  # its last number may have lost digits
                continue
            is_rounded |= found[2] is None
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _TIME.findall(found[3]))
            rest = f"|{found[4]}"
            name = ORCHESTRATOR_STEP if "Reward" in rest else TRAINER_STEP
            fields = {key: float(match[1]) for key, pattern in _FIELDS.items() if (match := pattern.search(rest))}
            records.append(Record(int(found[1]), {name: seconds, **fields}))
        notes = (*([WHOLE_SECONDS] if is_rounded else []), *([CUT_OFF] if is_cut_off else []))
        return Reading(tuple(records), notes)

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return PRIME_RL


@dataclass(frozen=True, slots=True)
class PrimeFileReader:
    name: str = "prime-rl-file"
    title: str = "prime-rl's metrics.jsonl"

    def recognises(self, path: Path) -> bool:
        return any("step" in each and PRIME_RL.num_known(each.keys()) for each in first_objects(path))

    def read(self, path: Path) -> Reading:
        objects, notes = read_objects(path)
        records = []
        for each in objects:
            step = whole_number(each.pop("step", None))
            if step is not None:
                each.pop("time", None)  # of the clock: each line of a step has another
                records.append(Record(step, dict(numbers(each))))
        return Reading(tuple(records), notes)

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return PRIME_RL
