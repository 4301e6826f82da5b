"""The arms of a comparison in a worker, and what they have returned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_grpo.types import REFERENCE_ARM, Sample

if TYPE_CHECKING:
    from pytest_grpo.agreement import Agreement
    from pytest_grpo.measuring.sampler import Arm


@dataclass(slots=True)
class ArmTable:
    """The arms of a comparison, with the outputs of their first runs."""

    arms: dict[str, Arm]
    agree: Agreement
    max_cores_of_others: float | None = None
    outputs: dict[str, object] = field(default_factory=dict)
    last: dict[str, Sample] = field(default_factory=dict)

    def measure(self, arm: str, repeats: int) -> Sample:
        from pytest_grpo.measuring.sampler import measure

        sample = self.last[arm] = measure(self.arms[arm], arm, repeats)
        self.outputs.setdefault(arm, sample.output)
        return sample

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
