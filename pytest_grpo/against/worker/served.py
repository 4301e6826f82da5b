"""The comparison of a worker: its quantities are measured for the session, which decides on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_grpo.against.worker.arm_table import ArmTable
from pytest_grpo.arms import Quantity
from pytest_grpo.gate.comparison import PairedComparison
from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import REFERENCE_ARM

__tracebackhide__ = True
"""Of an error in an arm, pytest shows the test and the arm, not what lies between."""


@dataclass(slots=True, kw_only=True)
class ServedComparison(PairedComparison):
    """The arms are measured once, at the first assertion. Timing thresholds are not judged; counts are."""

    serve: Callable[[ArmTable, list[str], bool], None]
    """Lets the session measure the arms, as often as it likes."""
    _table: ArmTable | None = field(default=None, init=False)
    _is_timed: bool = field(default=False, init=False)

    def decide(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool:
        self._time([left.metric, right.metric])
        self.is_decided = True
        return True

    def report(self, quantity: Quantity) -> None:
        self._time([quantity.metric])

    def _time(self, wanted: list[str]) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._serve(wanted)

    def _count_round(self) -> None:
        """One round is enough for a count: the last samples that the session took."""
        table = self._table or self._serve([])
        if not self.sampler.rounds:
            for name in self.sampler.arms.keys() - table.last.keys():  # the session could not measure them
                table.measure(name, 1)
            self.sampler.rounds.append(dict(table.last))
            self._check_outputs({name: table.last[name] for name in self.sampler.arms})

    def _serve(self, wanted: list[str]) -> ArmTable:
        is_new = self._table is None
        table = self._table = self._table or ArmTable(dict(self.sampler.arms), self.agree, self.max_cores_of_others)
        self.serve(table, wanted, is_new)
        self._hold_own_answers(table)
        return table

    def _hold_own_answers(self, table: ArmTable) -> None:
        """The arms of one side must agree, whatever the other side says.

        Raises:
            AssertionError: they do not.
        """
        outputs = {name: output for name, output in table.outputs.items() if name != REFERENCE_ARM}
        if len(outputs) + (REFERENCE_ARM in table.outputs) < len(self.sampler.arms):
            return  # the session could not measure them all
        problem = self.agree(outputs)
        if problem:
            raise AssertionError(f"wrong answers: {problem}")
