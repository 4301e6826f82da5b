"""A pytest plugin that asserts the performance phases of a GRPO training stack.

    from pytest_grpo import same_tokens

    def test_batches_pay(grpo_arms):
        batched, single = grpo_arms(agree=same_tokens, batched=run_batched, single=run_one_by_one)
        assert batched.tokens_per_second >= 1.30 * single.tokens_per_second

The names in ``__all__`` are public, as are the fixtures, markers, options and the hook ``pytest_grpo_verdict``.
Everything else is private and may change in any version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_grpo.agreement import Agreement, close_values, nothing_to_check, same_answers, same_tokens
    from pytest_grpo.arms import ApproxRatio, MeasuredArm, Quantity, approx_ratio
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.remote.worker import serve
    from pytest_grpo.settings.applicability import not_applicable
    from pytest_grpo.settings.thresholds import Threshold
    from pytest_grpo.systems.counting.call_counter import CallCounter
    from pytest_grpo.systems.counting.count import Count
    from pytest_grpo.systems.event_file import EventFile
    from pytest_grpo.systems.protocol import (
        AdapterSwap,
        Completion,
        GrpoSystem,
        Rollout,
        SystemSettings,
        TrainBatch,
        TrainGroup,
        TrainStep,
        UnsupportedError,
    )
    from pytest_grpo.systems.run_plan import RunPlan
    from pytest_grpo.systems.step_record import StepRecord
    from pytest_grpo.types import Row, Sample, Verdict

    __version__: str

__all__ = [
    "AdapterSwap",
    "Agreement",
    "ApproxRatio",
    "CallCounter",
    "Completion",
    "Count",
    "EventFile",
    "Gate",
    "GrpoSystem",
    "MeasuredArm",
    "Quantity",
    "Rollout",
    "Row",
    "RunPlan",
    "Sample",
    "StepRecord",
    "SystemSettings",
    "Threshold",
    "TrainBatch",
    "TrainGroup",
    "TrainStep",
    "UnsupportedError",
    "Verdict",
    "__version__",
    "approx_ratio",
    "close_values",
    "not_applicable",
    "nothing_to_check",
    "same_answers",
    "same_tokens",
    "serve",
]

_MODULES = {
    "pytest_grpo.agreement": "Agreement close_values nothing_to_check same_answers same_tokens",
    "pytest_grpo.arms": "ApproxRatio MeasuredArm Quantity approx_ratio",
    "pytest_grpo.gate.gates": "Gate",
    "pytest_grpo.remote.worker": "serve",
    "pytest_grpo.settings.applicability": "not_applicable",
    "pytest_grpo.settings.thresholds": "Threshold",
    "pytest_grpo.systems.counting.call_counter": "CallCounter",
    "pytest_grpo.systems.counting.count": "Count",
    "pytest_grpo.systems.event_file": "EventFile",
    "pytest_grpo.systems.protocol": "AdapterSwap Completion GrpoSystem Rollout SystemSettings "
    "TrainBatch TrainGroup TrainStep UnsupportedError",
    "pytest_grpo.systems.run_plan": "RunPlan",
    "pytest_grpo.systems.step_record": "StepRecord",
    "pytest_grpo.types": "Row Sample Verdict",
}
"""Where each public name is defined. The imports above say the same to type checkers, which cannot read this."""


if not TYPE_CHECKING:  # else every name would be right to a type checker, misspelled ones too

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("pytest-grpo")
        for module, names in _MODULES.items():
            if name in names.split():
                value = getattr(import_module(module), name)
                globals()[name] = value  # the next access is a plain one
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
