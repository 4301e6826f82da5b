"""Usage errors that appear only while a test runs: an unknown threshold, an arm that cannot be measured.

They are not verdicts. Their test fails with one line, the other tests continue, and the session ends with pytest's exit
code for usage errors.
"""

from __future__ import annotations

import pytest

from pytest_grpo.measuring.sampler import MeasurementError

USAGE_ERROR = "grpo_mistake"
"""The ``user_properties`` name that marks a test with a usage error."""


def rewrite_report(report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Shorten the report of a usage error to one line, followed by the traceback of an error in an arm."""
    error = excinfo.value
    if not isinstance(error, (pytest.UsageError, MeasurementError)):
        return
    text = f"grpo: {error}"
    if error.__cause__ is not None:
        cause = pytest.ExceptionInfo.from_exception(error.__cause__)
        text += f"\n\n{cause.getrepr(style='short')}"
    report.longrepr = text
    report.user_properties.append((USAGE_ERROR, str(error)))
