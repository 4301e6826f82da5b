"""Mistakes that only show while a test runs: an unknown threshold, an arm that cannot be measured.

They are no verdicts. Their test fails with one line, the other tests go on, and the session ends with pytest's exit
code for usage errors.
"""

from __future__ import annotations

import pytest

from pytest_grpo.measuring.sampler import MeasurementError

USAGE_ERROR = "grpo_mistake"
"""The name of the property that a test with a mistake carries."""


def rewrite_report(report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Make the report of a mistake one line; below it, the traceback of what an arm raised."""
    error = excinfo.value
    if not isinstance(error, (pytest.UsageError, MeasurementError)):
        return
    text = f"grpo: {error}"
    if error.__cause__ is not None:
        cause = pytest.ExceptionInfo.from_exception(error.__cause__)
        text += f"\n\n{cause.getrepr(style='short')}"
    report.longrepr = text
    report.user_properties.append((USAGE_ERROR, str(error)))
