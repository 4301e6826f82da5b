"""The arms of a comparison in a worker, and what they have returned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_grpo.against.protocol import NO_ANSWER
from pytest_grpo.types import PEAK_BYTES, REFERENCE_ARM, Sample

if TYPE_CHECKING:
    from pytest_grpo.agreement import Agreement
    from pytest_grpo.measuring.sampling.sample import Arm


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
        from pytest_grpo.measuring.sampling.memory import peak_bytes, start_peak
        from pytest_grpo.measuring.sampling.sample import measure

        start_peak()
        sample = self.last[arm] = measure(self.arms[arm], arm, repeats)
        self.outputs.setdefault(arm, sample.output)
        peak = peak_bytes()
        return sample if peak is None else replace(sample, quantities={PEAK_BYTES: peak, **sample.quantities})

    def took_s(self, arm: str, repeats: int) -> float:
        from pytest_grpo.measuring.sampling.sample import took_s

        return took_s(self.arms[arm], arm, repeats)

    def answer(self, arm: str) -> tuple[Any, str]:
        from pytest_grpo.against.worker.answers import as_json

        output = self.outputs.get(arm)
        if output is None:
            return None, NO_ANSWER
        try:
            return as_json(output), ""
        except Exception as error:  # of the test's own class of answers
            return None, _say(error)

    def difference(self, arm: str, other: object, name: str) -> tuple[str, str, str]:
        """How the answers differ, by which rule, and why they cannot be compared."""
        from pytest_grpo.against.worker.answers import difference

        own = {each: output for each, output in self.outputs.items() if each != REFERENCE_ARM or each == arm}
        try:
            found = difference(arm, own, other, self.agree, name)
        except Exception as error:  # the test's own rule may not expect lists in place of tensors
            return "", "", _say(error)
        return found.text, found.rule, ""


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
