from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.pytest_grpo.against.conftest import Versions

pytestmark = pytest.mark.slow


def test_the_same_code_is_the_same(versions: Versions) -> None:
    result = versions.run()
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(
        [
            r"=+ grpo: here over .*other =+",
            r"test_speed",
            r"  step\.tokens_per_second +[\d.]+ \[.*\] +same",
            r"  step\.peak_bytes +1 \[1, 1\] +same",
            r"  plain\.seconds +.*  same",
            r"3 same on cpu.*",
        ]
    )


def test_a_quantity_that_no_threshold_holds_is_compared_where_the_test_reports_it(versions: Versions) -> None:
    for folder in (versions.here, versions.other):
        versions.change(
            folder, "assert step.seconds <= 1.0 * plain.seconds", "assert step.num_passes == 1", "test_speed.py"
        )
    assert "step.tokens_per_second" not in versions.run().stdout.str()
    assert not list(versions.pytester.path.rglob("*.pyc"))  # one of this second would hide a change of the same length
    for folder in (versions.here, versions.other):
        versions.change(
            folder, "step.num_passes == 1", "step.num_passes == 1\n    step.seconds.report()", "test_speed.py"
        )
    versions.change(versions.here, "1.0, 7.0", "1.2, 7.0")
    result = versions.run()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"  step\.tokens_per_second +0\.8\d+ \[.*\] +slower"])
    versions.pytester.runpytest().assert_outcomes(passed=1)


def test_only_a_slower_version_fails(versions: Versions) -> None:
    versions.change(
        versions.here,
        "SECONDS, ANSWER, NUM_PASSES, PEAK_BYTES = 1.0, 7.0, 1, 100",
        "SECONDS, ANSWER, NUM_PASSES, PEAK_BYTES = 1.2, 7.0, 2, 150",
    )
    result = versions.run()
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.re_match_lines(
        [
            r"  step\.num_passes +2 +more",
            r"    2 here, 1 in .*other",
            r"  step\.tokens_per_second +0\.8\d+ \[.*\] +slower",
            r"  step\.peak_bytes +1\.5 \[1\.5, 1\.5\] +more",
            r"  plain\.seconds .*  same",
        ]
    )


def test_more_memory_is_a_row_that_no_arm_has_to_measure(versions: Versions) -> None:
    for folder, num_mib in ((versions.here, 400), (versions.other, 10)):
        versions.change(folder, "def step():", f"def step():\n        bytearray({num_mib} << 20)", "test_speed.py")
    result = versions.run()
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"  step\.peak_memory_bytes +\d.* \[.*\] +more"])


def test_a_faster_version_passes_and_an_expected_gain_must_be_proven(versions: Versions) -> None:
    versions.change(versions.other, "1.0, 7.0", "1.2, 7.0")
    versions.run().assert_outcomes(passed=1)
    versions.run("--grpo-expect", "step.tokens_per_second>=1.1").assert_outcomes(passed=1)
    missed = versions.run("--grpo-expect", "step.tokens_per_second>=1.3")
    missed.assert_outcomes(failed=1)
    missed.stdout.fnmatch_lines(["    expected >= 1.3: not proven"])
    unchanged = versions.run("--grpo-expect", "step.num_passes<=1")
    unchanged.assert_outcomes(passed=1)
    unchanged.stdout.re_match_lines([r"  step\.num_passes +1 +same"])
    unknown = versions.run("--grpo-expect", "step.speed>=1.3")
    assert unknown.ret == pytest.ExitCode.USAGE_ERROR
    unknown.stdout.fnmatch_lines(["grpo: --grpo-expect step.speed>=1.3: no test measured it on both sides; *step.*"])


def test_other_answers_are_told_and_fail_on_demand(versions: Versions) -> None:
    versions.change(versions.here, "7.0", "7.1")
    told = versions.run()
    told.assert_outcomes(passed=1)
    told.stdout.fnmatch_lines(["  step.answers*differs", "*answers differ:*7.1 and 7*close_values(rtol=0.001)*"])
    versions.run("--grpo-same-answers").assert_outcomes(failed=1)
    versions.change(
        versions.here,
        "def test_speed",
        "import pytest\n@pytest.mark.grpo_same_answers\ndef test_speed",
        "test_speed.py",
    )
    versions.run().assert_outcomes(failed=1)


def test_arms_that_disagree_on_this_side_fail(versions: Versions) -> None:
    versions.change(
        versions.here,
        "3 * library.noise.uniform(0.99, 1.01), output=[library.ANSWER]",
        "3.0, output=[1.0]",
        "test_speed.py",
    )
    result = versions.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*wrong answers: arms 'step' and 'plain' differ: 7 and 1*"])


def test_a_test_that_fails_on_the_other_side_only_says_so(versions: Versions) -> None:
    versions.change(
        versions.other,
        "3 * library.noise.uniform(0.99, 1.01), output=[library.ANSWER]",
        "3.0, output=[1.0]",
        "test_speed.py",
    )
    result = versions.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["  all arms*fails there", "    other: *wrong answers: arms 'step' and 'plain' differ*"]
    )


def test_a_change_of_what_no_test_loads_proves_nothing(versions: Versions) -> None:
    """The other side is slower by the environment only; its files are the same."""
    slow = versions.other.name
    versions.change(versions.other, "Random(1)", "Random(0)")
    for folder in (versions.here, versions.other):
        versions.change(
            folder, "return SECONDS", f"return (1.2 if __file__.endswith('{slow}/library.py') else 1) * SECONDS"
        )
    result = versions.run()
    result.stdout.fnmatch_lines(
        ["  step.tokens_per_second*inconclusive", "    unproven: no file that this test loads*"]
    )


def test_tests_and_arms_of_one_side_are_rows(versions: Versions) -> None:
    versions.change(versions.here, "plain=plain)", "plain=plain, extra=plain)", "test_speed.py")
    versions.change(versions.here, "step, plain = grpo_arms", "step, plain, _ = grpo_arms", "test_speed.py")
    versions.change(
        versions.here,
        "def test_speed",
        "def test_new(grpo_gate, grpo_arms):\n    a, b = grpo_arms("
        "agree=close_values(), a=lambda: Sample(1.0, output=1), b=lambda: Sample(2.0, output=1))\n"
        "    assert a.seconds <= b.seconds\n\ndef test_speed",
        "test_speed.py",
    )
    versions.change(
        versions.other, "def test_speed", "def test_old(grpo_gate): pass\n\ndef test_speed", "test_speed.py"
    )
    result = versions.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "test_new",
            "  all arms*new here",
            "test_speed",
            "  extra.seconds*new here",
            "grpo: gone here: *::test_old is in*",
        ]
    )


def test_an_arm_that_raises_fails_here_and_is_not_compared_there(versions: Versions) -> None:
    versions.change(versions.other, "return SECONDS", "raise RuntimeError('no memory')\n    return SECONDS")
    result = versions.run()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["  all arms*not compared", "    cannot be compared: *other: RuntimeError: no memory"])
    versions.change(versions.here, "return SECONDS", "raise RuntimeError('no memory')\n    return SECONDS")
    failed = versions.run()
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*RuntimeError: no memory"])


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_worker_that_dies_is_one_row_and_the_next_test_gets_a_new_one(versions: Versions, how: str) -> None:
    for folder in (versions.here, versions.other):
        versions.change(folder, "import library", "import library, os\nfrom pathlib import Path", "test_speed.py")
        body = (folder / "test_speed.py").read_text()
        (folder / "test_speed.py").write_text(
            body + body[body.index("def test_speed") :].replace("test_speed", "test_two")
        )
    versions.change(
        versions.other, "def test_speed(grpo_arms):", f"def test_speed(grpo_arms):\n    {how}", "test_speed.py"
    )
    result = versions.run()
    result.assert_outcomes(passed=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "test_speed",
            "  all arms*not compared",
            "    cannot be compared: *its process ended (*",
            "test_two",
            "  step.tokens_per_second*same",
        ]
    )


def test_a_worker_that_dies_here_is_an_error(versions: Versions) -> None:
    versions.change(
        versions.here,
        "def test_speed(grpo_arms):",
        "def test_speed(grpo_arms):\n    import os; os._exit(3)",
        "test_speed.py",
    )
    result = versions.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*its process ended (exit code 3): it said nothing"])


def test_an_internal_error_of_pytest_there_is_said(versions: Versions) -> None:
    (versions.other / "conftest.py").write_text("def pytest_runtest_makereport():\n    raise KeyError('an old hook')\n")
    result = versions.run()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*cannot be compared: *its process ended (exit code 3): KeyError: 'an old hook'"])


def test_other_side_that_cannot_collect_is_one_row(versions: Versions) -> None:
    versions.change(versions.other, "import library", "import a_module_that_is_not_there", "test_speed.py")
    result = versions.run()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["  all arms*not compared", "*No module named 'a_module_that_is_not_there'*"])


def test_no_process_is_left(versions: Versions) -> None:
    before = {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}
    versions.run()
    assert {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)} == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("-n", "2"), "*--grpo-against with -n: *drop -n*"),
        (("--grpo-save", "x"), "*--grpo-against with --grpo-save: *"),
        (
            ("--grpo-remote", "subprocess"),
            "*--grpo-against with --grpo-remote subprocess: each version has its own process already; drop *",
        ),
        (("--pdb",), "*--grpo-against with --pdb: *"),
        (("--grpo-expect", "step"), "*--grpo-expect 'step': allowed is ARM.QUANTITY>=RATIO*"),
        (("--grpo-expect", "step.x>=0"), "*--grpo-expect 'step.x>=0': allowed is *above zero*"),
        (("--grpo-against=",), "*revision ''*"),
        (("--grpo-against", ""), "*revision ''*"),
    ],
)
def test_what_does_not_go_together_is_one_line(versions: Versions, arguments: tuple[str, ...], line: str) -> None:
    result = versions.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])


def test_a_folder_after_a_blank_is_explained(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    result = versions.pytester.runpytest("--grpo-against", str(versions.other))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pytest takes a folder after a space for tests; write --grpo-against=*"])
    assert Path(versions.other).is_dir()


def test_this_folder_goes_after_a_blank(versions: Versions) -> None:
    result = versions.pytester.runpytest("--grpo-against", ".", "--grpo-pairs=10,20")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["--grpo-with=torch==2.12", "--grpo-expect=step.seconds<=1"])
def test_what_is_about_another_version_needs_one(versions: Versions, option: str) -> None:
    result = versions.pytester.runpytest(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--grpo-*: is about another version, and none is given; add --grpo-against"])


def test_a_folder_that_is_called_as_this_side_is_another_side(versions: Versions) -> None:
    versions.other = versions.other.rename(versions.pytester.mkdir("elsewhere") / "here")
    versions.change(versions.other, "1.0, 7.0", "1.5, 7.0")
    result = versions.run()
    result.stdout.re_match_lines(
        [r"=+ grpo: here over here \(other side\) =+", r"  step\.tokens_per_second +1\.[45].* faster"]
    )


@pytest.mark.parametrize("body", ["raise SystemExit('no memory')", "return {'tokens': 8, 'output': ['no memory']}"])
def test_an_error_in_an_arm_shows_the_test_and_the_arm_only(versions: Versions, body: str) -> None:
    versions.change(versions.here, "    def step():\n", f"    def step():\n        {body}\n", "test_speed.py")
    result = versions.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no memory*"])
    result.stdout.no_fnmatch_line("*pytest_grpo/against/*")
    result.stdout.no_fnmatch_line("*unsupported operand*")


def test_a_session_that_is_interrupted_ends_its_workers_by_themselves(versions: Versions) -> None:
    """They tear down what fixtures have set up, and nobody waits for them."""
    for folder in (versions.here, versions.other):
        (folder / "conftest.py").write_text(
            "import pathlib, pytest\n"
            "@pytest.fixture(scope='session', autouse=True)\n"
            "def server():\n    yield\n    pathlib.Path(__file__).with_name('torn_down').touch()\n"
            "def measure(side, arm, repeats):\n    raise KeyboardInterrupt\n"
            "def pytest_configure(config):\n"
            "    if config.getoption('grpo_against'):\n"
            "        from pytest_grpo.against.side import Side\n        Side.measure = measure\n"
        )
    result = versions.pytester.runpytest_subprocess(f"--grpo-against={versions.other}")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert (versions.here / "torn_down").exists()
    assert (versions.other / "torn_down").exists()


def test_another_file_of_settings_on_the_other_side_is_found(versions: Versions) -> None:
    settings = (versions.other / "pytest.ini").read_text().replace("[pytest]", "[tool:pytest]")
    (versions.other / "pytest.ini").rename(versions.other / "setup.cfg").write_text(settings)
    (versions.other / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    versions.run().assert_outcomes(passed=1)


def test_settings_in_another_file_here_are_not_asked_of_the_other_side(versions: Versions) -> None:
    """Both have a pyproject.toml, and only this side's has settings of pytest."""
    (versions.here / "pytest.ini").unlink()
    settings = 'grpo_control = "false"\ngrpo_max_cores_of_others = "inf"\npythonpath = ["."]\n'
    (versions.here / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{settings}")
    (versions.other / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (versions.other / "conftest.py").write_text(
        "def pytest_configure(config):\n    assert config.inipath.name == 'pytest.ini', config.inipath\n"
    )
    versions.run().assert_outcomes(passed=1)


def test_a_project_that_does_not_start_there_says_why(versions: Versions) -> None:
    (versions.other / "conftest.py").write_text("def broken(")
    broken = versions.run()
    assert broken.ret == pytest.ExitCode.USAGE_ERROR
    broken.stderr.fnmatch_lines(["ERROR: --grpo-against other: its process ended (exit code 4): SyntaxError: *"])
    (versions.other / "conftest.py").unlink()
    versions.change(versions.other, "[pytest]", "[pytest]\naddopts = --no-such-option", "pytest.ini")
    unknown = versions.run()
    unknown.stderr.fnmatch_lines(["*its process ended (exit code 4): unrecognized arguments: --no-such-option"])


def test_a_rule_that_cannot_read_the_other_answer_is_a_row(versions: Versions) -> None:
    """The test's own rule gets a list where this side has an array."""
    for folder in (versions.here, versions.other):
        versions.change(folder, "import library", "import library, numpy", "test_speed.py")
        versions.change(
            folder,
            "agree=close_values(rtol=1e-3)",
            "agree=lambda arms: str(arms['step'].sum() - 7)[:0]",
            "test_speed.py",
        )
        versions.change(
            folder, "quantities, output=[library.ANSWER]", "quantities, output=numpy.ones(2)", "test_speed.py"
        )
    result = versions.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["  step.answers*not compared", "    answers cannot be compared: AttributeError: 'list'*"]
    )
    versions.run("--grpo-same-answers").assert_outcomes(xfailed=1)


def test_answers_that_cannot_be_sent_are_told(versions: Versions) -> None:
    for folder in (versions.here, versions.other):
        versions.change(folder, "close_values(rtol=1e-3)", "nothing_to_check", "test_speed.py")
        versions.change(folder, "close_values", "nothing_to_check", "test_speed.py")
        versions.change(folder, "quantities, output=[library.ANSWER]", "quantities, output=b'answer'", "test_speed.py")
    result = versions.run()
    result.stdout.fnmatch_lines(["  step.answers*not compared", "*here: *answers of type bytes cannot be sent"])
