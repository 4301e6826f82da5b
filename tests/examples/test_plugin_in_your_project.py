"""The plugin in a project that knows nothing of this one. Time is counted in passes of the network, not in seconds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT_FOLDER / "examples" / "plugin_in_your_project"
ONE_AT_A_TIME = """\
    if len(prompts) > 1:
        return [generate([prompt], num_tokens)[0] for prompt in prompts]
"""
OTHER_TOKENS = """\
    if len(prompts) > 1:
        return generate(prompts[:1], num_tokens) * len(prompts)
"""
COUNTED_CLOCK = """\
import my_sampler
import pytest

num_passes = 0


def count(*_):
    global num_passes
    num_passes += 1


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    def start_clock():
        start = num_passes
        return lambda: num_passes - start

    my_sampler.cell.register_forward_hook(count)
    monkeypatch.setattr("pytest_grpo.measuring.sampling.sample.start_clock", start_clock)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("GRPO_HOME", str(pytester.path / "home"))
    pytester.syspathinsert()
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True)
    pytester.makeconftest(COUNTED_CLOCK)
    return pytester


def plant(project: pytest.Pytester, fault: str) -> None:
    file = project.path / "my_sampler.py"
    before = "    token = torch.tensor(prompts)\n"
    source = file.read_text(encoding="utf-8")
    assert before in source
    file.write_text(source.replace(before, fault + before), encoding="utf-8")


def run(project: pytest.Pytester) -> pytest.RunResult:
    return project.runpytest_subprocess(
        "test_speed.py", "-o", "grpo_control=false", "-o", "grpo_max_cores_of_others=inf"
    )


def shown_in_readme(beginning: str) -> set[str]:
    """The output in the README's console block that begins so, or else with an assertion."""
    text = (PROJECT_FOLDER / "README.md").read_text(encoding="utf-8")
    shown = re.search(rf"```console\n{re.escape(beginning)}((?:E |phase ).*?)```", text, flags=re.DOTALL)
    assert shown is not None
    return set(map(without_numbers, shown[1].splitlines()))


def without_numbers(line: str) -> str:
    return re.sub(r"\s*\[?\d[\d.e+-]*[,\]]*|\s+", " ", line)


def test_it_needs_nothing_but_the_installed_plugin() -> None:
    assert {path.name for path in EXAMPLE.iterdir() if path.name != "__pycache__"} == {
        "README.md",
        "my_sampler.py",
        "pyproject.toml",
        "test_speed.py",
    }


@pytest.mark.slow
def test_batches_pay(project: pytest.Pytester) -> None:
    result = run(project)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["-      tokens_per_second  16 *>= 3 *pass"])
    assert shown_in_readme("$ pytest test_speed.py\n...\n") <= set(map(without_numbers, result.outlines))


@pytest.mark.slow
def test_one_prompt_at_a_time_is_red(project: pytest.Pytester) -> None:
    plant(project, ONE_AT_A_TIME)
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *tokens_per_second: fail: measured 1 *threshold >= 3 (the test)"])
    assert shown_in_readme("") <= set(map(without_numbers, result.outlines))


@pytest.mark.slow
def test_a_faster_wrong_answer_is_red(project: pytest.Pytester) -> None:
    plant(project, OTHER_TOKENS)
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*arms 'batched' and 'single' answered differently: answer 1 of 16*"])
