"""A remote phase looks in every report like a local one."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.modal_server import ModalServer
from tests.pytest_grpo.remote.modal.test_remote import on_modal as on_modal

pytestmark = pytest.mark.usefixtures("few_plugins")
SETTINGS = ("--phase=2", "--junitxml=junit.xml", "-ojunit_family=xunit1", "-ojunit_logging=all", "-Wdefault", "-ra")

OUTCOMES = """
import os
import re
import pytest
import warnings
from pytest_grpo.agreement import nothing_to_check

pytestmark = pytest.mark.phase2

def test_pass(grpo_arms, grpo_threshold, record_property):
    print("some output")
    record_property("kept", 3)
    warnings.warn("careful", FutureWarning)
    fast, slow = grpo_arms(agree=nothing_to_check, fast=lambda: {"seconds": 1}, slow=lambda: {"seconds": 3})
    assert slow.seconds >= grpo_threshold("batched_speedup") * fast.seconds

def test_check(grpo_gate):
    grpo_gate.check("adapter_cache_hits", 1)

def test_fail(grpo_arms):
    fast, slow = grpo_arms(agree=nothing_to_check, fast=lambda: {"seconds": 1}, slow=lambda: {"seconds": 3})
    assert slow.seconds <= fast.seconds

def test_chained():
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error

def test_group():
    raise ExceptionGroup("several", [KeyError("one"), ValueError("two")])

def test_skip():
    pytest.skip("not here")

@pytest.mark.skip(reason="marked")
def test_skip_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_xfail():
    assert 1 == 2

@pytest.mark.xfail(strict=True)
def test_strict_xpass():
    pass

@pytest.fixture
def broken_setup():
    raise RuntimeError("no setup")

def test_setup_error(broken_setup):
    pass

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError("no teardown")

def test_teardown_error(broken_teardown):
    pass

def test_subtests(subtests):
    with subtests.test("good"):
        pass
    with subtests.test("bad"):
        assert False

@pytest.mark.parametrize("text", ["a b", "c::d", "e/f[g]", "\u00e4\u4e2d", "line\\nbreak", "", 'quo"te', "a=b&<c>"])
def test_parameters(text):
    pass
"""


def masked(text: str) -> str:
    """Without what differs between two runs anywhere: times, addresses, and how busy the machine was."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    text = re.sub(r"\b\d+\.\d+ ?s\b|others used [\d.]+ cores", "TIME", text)
    return re.sub(r'(time|timestamp)="[^"]*"', r'\1=""', text)


def junit_of(project: pytest.Pytester) -> str:
    tree = ElementTree.parse(project.path / "junit.xml")
    for entry in tree.iter("property"):
        if entry.get("name", "").startswith("grpo."):
            entry.attrib["value"] = ""  # a measurement
    return masked(ElementTree.tostring(tree.getroot(), encoding="unicode"))


def summary_of(result: pytest.RunResult) -> list[str]:
    """What the terminal shows after the tests."""
    start = next(number for number, line in enumerate(result.outlines) if re.fullmatch("=+ ERRORS =+", line))
    return [re.sub("=+", "=", masked(line)) for line in result.outlines[start:]]


def check_equal(project: pytest.Pytester, *place: str) -> None:
    local = project.runpytest(*SETTINGS)
    local_junit = junit_of(project)
    remote = project.runpytest(*SETTINGS, *place)
    assert local.ret == remote.ret == pytest.ExitCode.TESTS_FAILED
    assert junit_of(project) == local_junit
    assert summary_of(remote) == summary_of(local)
    local.stdout.fnmatch_lines(["*FutureWarning: careful", "2 pass, 1 fail, 0 inconclusive on cpu *"])


@pytest.mark.slow
def test_a_clean_process_reports_what_a_local_run_does(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=OUTCOMES)
    check_equal(project, "--grpo-remote=subprocess")


@pytest.mark.slow
def test_modal_reports_what_a_local_run_does(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    on_modal.makepyfile(test_suite=OUTCOMES)
    check_equal(on_modal, "--modal")
    assert modal_server.num_started == 1
