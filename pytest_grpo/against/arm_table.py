"""The arms of a comparison in a worker, and what they have returned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_grpo.types import PEAK_BYTES, REFERENCE_ARM, Sample

if TYPE_CHECKING:
    from pytest_grpo.agreement import Agreement
    from pytest_grpo.measuring.sampler import Arm


__tracebackhide__ = True


@dataclass(slots=True)
class ArmTable:
    """The arms of a comparison, with the outputs of their first runs."""

    arms: dict[str, Arm]
    agree: Agreement
    max_cores_of_others: float | None = None
    outputs: dict[str, object] = field(default_factory=dict)
    last: dict[str, Sample] = field(default_factory=dict)

    def measure(self, arm: str, repeats: int) -> Sample:
        """One sample, with the peak memory beside what the arm itself measures."""
        from pytest_grpo.measuring.memory import peak_bytes, start_peak
        from pytest_grpo.measuring.sampler import measure

        start_peak()
        sample = self.last[arm] = measure(self.arms[arm], arm, repeats)
        self.outputs.setdefault(arm, sample.output)
        peak = peak_bytes()
        return sample if peak is None else replace(sample, quantities={PEAK_BYTES: peak, **sample.quantities})

    def took_s(self, arm: str, repeats: int) -> float:
        from pytest_grpo.measuring.sampler import took_s

        return took_s(self.arms[arm], arm, repeats)

    def answer(self, arm: str) -> tuple[Any, str]:
        from pytest_grpo.against.answers import as_json

        output = self.outputs.get(arm)
        if output is None:
            return None, "it returns no answer"
        try:
            return as_json(output), ""
        except TypeError as error:
            return None, str(error)

    def difference(self, arm: str, other: object, name: str) -> tuple[str, str]:
        from pytest_grpo.against.answers import difference

        own = {each: output for each, output in self.outputs.items() if each != REFERENCE_ARM or each == arm}
        found = difference(arm, own, other, self.agree, name)
        return found.text, found.rule
