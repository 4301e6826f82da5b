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
    from pytest_grpo.agreement import Agreement as Agreement
    from pytest_grpo.agreement import close_values as close_values
    from pytest_grpo.agreement import nothing_to_check as nothing_to_check
    from pytest_grpo.agreement import same_tokens as same_tokens
    from pytest_grpo.arms import MeasuredArm as MeasuredArm
    from pytest_grpo.arms import Quantity as Quantity
    from pytest_grpo.arms import approx_ratio as approx_ratio
    from pytest_grpo.gate.gates import Gate as Gate
    from pytest_grpo.settings.thresholds import Threshold as Threshold
    from pytest_grpo.systems.protocol import AdapterSwap as AdapterSwap
    from pytest_grpo.systems.protocol import Completion as Completion
    from pytest_grpo.systems.protocol import GrpoSystem as GrpoSystem
    from pytest_grpo.systems.protocol import Rollout as Rollout
    from pytest_grpo.systems.protocol import SystemSettings as SystemSettings
    from pytest_grpo.systems.protocol import TrainBatch as TrainBatch
    from pytest_grpo.systems.protocol import TrainGroup as TrainGroup
    from pytest_grpo.systems.protocol import TrainStep as TrainStep
    from pytest_grpo.systems.protocol import UnsupportedError as UnsupportedError
    from pytest_grpo.types import Row as Row
    from pytest_grpo.types import Sample as Sample
    from pytest_grpo.types import Verdict as Verdict

    __version__: str

__all__ = [
    "AdapterSwap",
    "Agreement",
    "Completion",
    "Gate",
    "GrpoSystem",
    "MeasuredArm",
    "Quantity",
    "Rollout",
    "Row",
    "Sample",
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
    "nothing_to_check",
    "same_tokens",
]

_MODULES = {
    "pytest_grpo.agreement": "Agreement close_values nothing_to_check same_tokens",
    "pytest_grpo.arms": "MeasuredArm Quantity approx_ratio",
    "pytest_grpo.gate.gates": "Gate",
    "pytest_grpo.settings.thresholds": "Threshold",
    "pytest_grpo.systems.protocol": "AdapterSwap Completion GrpoSystem Rollout SystemSettings "
    "TrainBatch TrainGroup TrainStep UnsupportedError",
    "pytest_grpo.types": "Row Sample Verdict",
}
"""Where each public name is defined: its module is imported when the name is first asked for."""


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
