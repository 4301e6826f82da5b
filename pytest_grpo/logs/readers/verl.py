"""verl: the lines of its console, and its file logger.

Sources: ``verl/utils/logger/aggregate_logger.py`` (``concat_dict_to_str``: ``step:1 - name:value - ...``, older
versions with three decimals, newer ones with ``pprint.pformat``, so that NumPy's numbers print as ``np.float64(0.5)``),
``verl/utils/tracking.py`` (``FileLogger``: ``{"step": 1, "data": {...}}`` per line). Ray puts ``(TaskRunner pid=7)``
before a line, and a progress bar may stand there without a line break.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pytest_grpo.logs.readers.json_lines import first_objects, numbers, read_objects, whole_number
from pytest_grpo.logs.readers.text_lines import CUT_OFF, text_lines
from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.vocabulary.stacks import VERL
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary

_LINE = re.compile(r"(?<![\w/])step:(\d+)((?: - \S+:\S+)+)")
_NUMPY = re.compile(r"np\.\w+\((.*)\)")


@dataclass(frozen=True, slots=True)
class VerlConsoleReader:
    name: str = "verl-console"
    title: str = "verl's console"

    def recognises(self, path: Path) -> bool:
        return any(_LINE.search(line) for line, _ in text_lines(path))

    def read(self, path: Path) -> Reading:
        records, notes = [], ()
        for line, is_whole in text_lines(path):
            found = _LINE.search(line)
            if found is not None and is_whole:
                records.append(Record(int(found[1]), dict(_pairs(found[2]))))
            elif found is not None:
                notes = (CUT_OFF,)  # its last number may have lost digits
        return Reading(tuple(records), notes)

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return VERL


def _pairs(text: str) -> list[tuple[str, float]]:
    """``- timing_s/gen:2.5 - perf/mfu:np.float64(0.3)`` as names and numbers; what is no number is left out."""
    pairs = []
    for pair in text.split(" - ")[1:]:
        name, _, value = pair.rpartition(":")
        wrapped = _NUMPY.fullmatch(value)
        try:
            pairs.append((name, float(wrapped[1] if wrapped else value)))
        except ValueError:
            continue
    return pairs


@dataclass(frozen=True, slots=True)
class VerlFileReader:
    name: str = "verl-file"
    title: str = "verl's file logger"

    def recognises(self, path: Path) -> bool:
        return any(isinstance(each.get("data"), dict) and "step" in each for each in first_objects(path))

    def read(self, path: Path) -> Reading:
        objects, notes = read_objects(path)
        records = []
        for each in objects:
            step, data = whole_number(each.get("step")), each.get("data")
            if step is not None and isinstance(data, dict):
                records.append(Record(step, dict(numbers(data))))
        return Reading(tuple(records), notes)

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return VERL
