"""Fixtures that every test of this repository may use; ``--slow``, without which tests marked ``slow`` wait; and a
process for each of two cores when the whole suite runs."""

from __future__ import annotations

import gc
import os
from collections import defaultdict

import pytest

pytest.register_assert_rewrite("tests")  # also of what stands beside the tests
pytest_plugins = ["pytester"]

NUM_PROCESSES = 2
"""More take longer: each has its own torch, and some tests start processes of their own."""
QUICK_S = 2.0
"""A test that takes longer should be marked ``slow``. The machine decides, so nothing fails: it is listed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too; list others that are slow")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the number
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes, file by file. ``-n 0`` and any choice of tests run it in this one."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    chosen = ("markexpr", "keyword", "grpo_phase", "usepdb", "collectonly", "lf", "failedfirst", "stepwise")
    is_chosen = any(config.getoption(name, None) for name in chosen)  # None where the plugin is left out
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if not is_whole or is_worker or not config.pluginmanager.hasplugin("xdist") or is_chosen:
        return
    if config.option.numprocesses is None and (os.cpu_count() or 1) > 1:
        config.option.numprocesses = NUM_PROCESSES
        config.option.dist = "loadfile"  # a file's models and servers are built once


@pytest.hookimpl(trylast=True)  # what other options leave out is no slow test that waits
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow tests, unless ``--slow``, ``-m`` or the test's own name asks for them."""
    if config.getoption("--slow") or "slow" in (config.getoption("markexpr") or ""):
        return
    waiting = [item for item in items if item.get_closest_marker("slow") and not _is_named(item, config)]
    if waiting:
        config.hook.pytest_deselected(items=waiting)
        items[:] = [item for item in items if item not in waiting]


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect() -> None:
    """Measuring collects garbage before each sample: it need not look through all that earlier tests have imported."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give the frozen objects back: DuckDB's bindings report as leaks what the last collection cannot reach."""
    gc.unfreeze()


def _is_named(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether an argument ``file::test`` means this item, its class or its function."""
    own = f"{item.path}::{item.nodeid.partition('::')[2]}"
    for argument in config.args:
        file, separator, name = argument.partition("::")
        named = f"{(config.invocation_params.dir / file).resolve()}::{name}"
        if separator and (own == named or own.startswith((f"{named}[", f"{named}::"))):
            return True
    return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With ``--slow``: list the tests that are not marked and took longer than ``QUICK_S``, with their fixtures."""
    if not config.getoption("--slow"):
        return
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
                seconds[report.nodeid] += report.duration
    unmarked = sorted(((spent, name) for name, spent in seconds.items() if spent > QUICK_S), reverse=True)
    if unmarked:
        terminalreporter.section(f"not marked slow, and above {QUICK_S:.0f} s")
        for spent, name in unmarked:
            terminalreporter.write_line(f"{spent:6.1f} s {name}")
