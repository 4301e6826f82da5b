"""Usage errors that appear only while a test runs: an unknown threshold, an arm that cannot be measured, a package that
an extra brings and that is not installed.

They are not verdicts. Their test fails with one line, the other tests continue, and the session ends with pytest's exit
code for usage errors, unless something else failed. Usage errors that other code raises are left as they are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.measuring.sampling.sample import MeasurementError

USAGE_ERROR = "grpo_mistake"
"""The ``user_properties`` name that marks a test with a usage error."""


_PACKAGE = __name__.partition(".")[0]


def rewrite_report(item: pytest.Item, report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Shorten the report of a usage error to one line with the test's statement, e.g. ``test_speed.py:12``, followed
    by the traceback of an error in an arm."""
    error, missing = excinfo.value, _missing_package(excinfo)
    is_own = isinstance(error, pytest.UsageError) and _is_raised_by(excinfo, _PACKAGE)
    if not (missing or is_own or isinstance(error, MeasurementError)):
        return
    text = f"{_statement(item, excinfo)}: grpo: {missing or error}"
    if error.__cause__ is not None and not missing:
        cause = pytest.ExceptionInfo.from_exception(error.__cause__)
        text += f"\n\n{cause.getrepr(style='short')}"
    report.longrepr = text
    report.user_properties.append((USAGE_ERROR, str(missing or error)))


def _missing_package(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """Which package ``grpo_core`` or this plugin lacks, and what to install; empty for other errors."""
    if not isinstance(excinfo.value, ImportError):
        return ""
    from grpo_core.errors import MissingPackageError
    from grpo_core.extras import missing_package

    if isinstance(excinfo.value, MissingPackageError):
        return str(excinfo.value)
    if isinstance(excinfo.value, ModuleNotFoundError) and _is_raised_by(excinfo, _PACKAGE, "grpo_core"):
        return str(missing_package(excinfo.value) or "")
    return ""


def _statement(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """The file and line of the test's last statement; those of the test where none of its statements was under way."""
    lines = [entry.lineno + 1 for entry in excinfo.traceback if Path(entry.path) == item.path]
    path, first_line, _ = item.location
    return f"{path}:{lines[-1] if lines else (first_line or 0) + 1}"


def _is_raised_by(excinfo: pytest.ExceptionInfo[BaseException], *packages: str) -> bool:
    """Whether code of ``packages`` raised the error, and not a test, another plugin or pytest."""
    module = excinfo.traceback[-1].frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in packages
