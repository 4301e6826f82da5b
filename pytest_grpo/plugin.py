"""The pytest plugin: options, ini values, markers and hooks. Wiring only; loading it imports nothing heavy."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pytest_grpo import hookspecs
from pytest_grpo.gate.stash import GATE, NUM_GATES, forget_attempt
from pytest_grpo.session.phase_files import NUM_LEFT_OUT, is_left_out
from pytest_grpo.session.setup_limit import SetupTooLongError, start_setup_clock, stop_setup_clock
from pytest_grpo.session.stored_results import STORED, StoredResults
from pytest_grpo.session.turns import register_turns
from pytest_grpo.session.verdict_report import VERDICT_REPORT, VerdictReport, header_line
from pytest_grpo.settings.applicability import NotApplicableError, record_absence
from pytest_grpo.settings.config import PLUGIN_CONFIG, PluginConfig, is_xdist_worker
from pytest_grpo.settings.options import add_ini, add_options
from pytest_grpo.settings.phases import (
    CLAIMS_MARKERS,
    PHASES,
    check_markers,
    last_failed,
    missing_arguments,
    named_on_command_line,
    phases_of,
    select,
    without_fixture,
)

pytest_plugins = (
    "pytest_grpo.session.fixtures",
    "pytest_grpo.session.exact_first",
)

_HIDDEN_PHASES = pytest.StashKey[int]()
_NUM_COLLECTED = pytest.StashKey[int]()
_NUM_PAIRED = pytest.StashKey[int]()
"""Where no test stays: the number of those that were collected, and of those that need ``--grpo-versus``."""
_MARKERS = (
    "grpo_threshold(quantity, at_least=None, at_most=None, within=None): bounds for the ratio of this quantity, first "
    "measured arm over second",
    "grpo_same_answers: with --grpo-against, the arms of this test must answer as those of the other version",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)
    add_ini(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    own = {re.split("[:(]", line, maxsplit=1)[0].strip() for line in config.getini("markers")}
    for phase in PHASES:
        if phase.marker not in own:  # else the project says what it means
            config.addinivalue_line("markers", f"{phase.marker}: {phase.title}: {phase.proves}")
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    settings = config.stash[PLUGIN_CONFIG] = PluginConfig.from_pytest_config(config)
    config.stash[CLAIMS_MARKERS] = settings.claims_markers
    _check_what_is_judged(config, settings)
    stored = config.stash[STORED] = StoredResults(config)
    register_turns(config)
    if is_xdist_worker(config):
        return
    report = config.stash[VERDICT_REPORT] = VerdictReport(config, stored)
    config.pluginmanager.register(report, "grpo-verdicts")
    if settings.asked_phases or settings.thresholds_required:
        from pytest_grpo.settings.thresholds import file_thresholds

        file_thresholds(config)
    if settings.against is not None and not config.getoption("collectonly"):
        from pytest_grpo.against.register import register as compare_versions

        compare_versions(config)
    elif settings.remote is not None and not config.getoption("collectonly"):
        from pytest_grpo.remote.register import register

        register(config)


def _check_what_is_judged(config: pytest.Config, settings: PluginConfig) -> None:
    """A system or a run that is not there is reported before anything starts."""
    if {settings.system, settings.versus} - {None, "grpo_core"}:
        from pytest_grpo.systems.load import check_systems

        check_systems(settings)
    if settings.asked_phases and not settings.run.is_embedded:
        settings.run.config()
        sys.path.append(str(config.invocation_params.dir))  # where `python -m` would look for its environment


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    if not config.getoption("grpo_show_thresholds"):
        return None
    from pytest_grpo.settings.thresholds import threshold_lines

    if missing := missing_arguments(config):
        raise pytest.UsageError(f"--grpo-show-thresholds: {missing[0]!r}: no such file; it takes pytest's options only")
    config._do_configure()  # as pytest's own --markers and --fixtures do
    print(*threshold_lines(config), sep="\n")
    config._ensure_unconfigure()
    return 0


def pytest_report_header(config: pytest.Config) -> str | None:
    return header_line(config)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if is_left_out(collection_path, config) else None


@pytest.hookimpl(trylast=True)  # after -k and -m, so that the hint below counts what they left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from pytest_grpo.settings.thresholds import check_thresholds

    settings = config.stash[PLUGIN_CONFIG]
    if not is_xdist_worker(config):
        for item in items:
            check_markers(item)
    kept, deselected = select(
        items, settings.only_phases, settings.asked_phases, named_on_command_line(config), last_failed(config)
    )
    if settings.versus is None:
        alone, paired = without_fixture(kept, "grpo_versus")
        kept, deselected = alone, [*deselected, *paired]
    if settings.against is not None:
        plain, compared = without_fixture(kept, "grpo_gate")
        kept, deselected = compared, [*deselected, *plain]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept
    config.stash[NUM_GATES] = len(without_fixture(kept, "grpo_arms")[1])
    if not is_xdist_worker(config):
        check_thresholds(config, [*kept, *deselected], needs_file=any(phases_of(item) for item in kept))
    if not kept:
        config.stash[_HIDDEN_PHASES] = sum(bool(phases_of(item)) for item in deselected)
        config.stash[_NUM_COLLECTED] = len(deselected)
        config.stash[_NUM_PAIRED] = len(without_fixture(deselected, "grpo_versus")[1])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    forget_attempt(item)
    if is_xdist_worker(item.config):
        check_markers(item)  # a worker cannot end the session, so the test reports the usage error
    start_setup_clock(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        stop_setup_clock(item.config)  # after Ctrl-C no teardown came


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    num_failed = item.session.testsfailed  # subtests count here, too
    try:
        yield
    except (pytest.skip.Exception, SetupTooLongError):
        if GATE in item.stash:
            from pytest_grpo.gate.end_of_test import fail_if_red

            fail_if_red(item.stash[GATE])
        raise
    if next(item.iter_markers("grpo_threshold"), None) is not None:
        from pytest_grpo.gate.markers import decide_markers

        decide_markers(item, item.stash.get(GATE, None))
    if GATE in item.stash:
        from pytest_grpo.gate.end_of_test import end_test

        end_test(item.stash[GATE], has_failed=item.session.testsfailed > num_failed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    gate = item.stash.get(GATE, None)
    num_before = 0 if gate is None else len(gate.rows)
    stop_setup_clock(item.config)
    yield
    if gate is not None:
        from pytest_grpo.gate.end_of_test import end_teardown

        end_teardown(gate, num_before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None:
        from pytest_grpo.reports.usage_errors import rewrite_report

        rewrite_report(item, report, call.excinfo)
        if isinstance(call.excinfo.value, NotApplicableError):
            record_absence(item, call.excinfo.value)
        if GATE in item.stash and call.when == "call" and call.excinfo.errisinstance(pytest.skip.Exception):
            from pytest_grpo.gate.end_of_test import red_text

            if red := red_text(item.stash[GATE]):  # skipped by unittest, behind the back of pytest_runtest_call
                report.outcome, report.longrepr = "failed", red
    return report


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    arms = sys.modules.get("pytest_grpo.arms")  # not imported means nothing was measured
    return None if arms is None else arms.explain_assertion(left, op, right)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not is_xdist_worker(session.config):
        session.config.stash[VERDICT_REPORT].write_files()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    hidden, only = config.stash.get(_HIDDEN_PHASES, 0), config.stash[PLUGIN_CONFIG].only_phases
    if only is not None and _NUM_COLLECTED in config.stash:
        markers = " or ".join(f"phase{number}" for number in sorted(only))
        left_out = config.stash.get(NUM_LEFT_OUT, 0)
        unread = f", {left_out} files without a phase marker not read" if left_out else ""
        terminalreporter.write_line(
            f"grpo: --phase: none of the {config.stash[_NUM_COLLECTED]} collected tests can run "
            f"({hidden} with a phase, {config.stash[_NUM_PAIRED]} that need --grpo-versus{unread}); "
            f"mark one {markers}, or name its folder; "
            "grpo bench runs the phases that come with pytest-grpo"
        )
    elif hidden:
        terminalreporter.write_line(f"grpo: {hidden} phase tests not selected; try --phase all or -m phase2")
