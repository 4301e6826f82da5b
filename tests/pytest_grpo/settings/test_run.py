"""The run that the phases judge: where it comes from, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.run import EMBEDDED, RunSettings

RUN = """
[model]
name = "small"
[rollout]
group_size = 4
[bench.variants.compact]
environment.compact_prompts = true
"""


def run_of(pytester: pytest.Pytester, *arguments: str) -> RunSettings:
    return pytester.parseconfigure(*arguments).stash[PLUGIN_CONFIG].run


def test_without_options_it_is_the_embedded_default(pytester: pytest.Pytester) -> None:
    run = run_of(pytester)
    assert run.is_embedded
    assert run.content() == str(run) == EMBEDDED
    assert list(run.options()) == []


def test_options_win_over_the_file_and_the_ini_values(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", run=RUN)
    pytester.makeini("[pytest]\ngrpo_config = run.toml\ngrpo_model = tiny\ngrpo_set = rollout.group_size=8\n")
    run = run_of(pytester, "--grpo-set=rollout.group_size=2", "--grpo-engine=plain")
    config = run.config()
    assert (config.model.name, config.rollout.group_size, config.rollout.engine) == ("tiny", 2, "plain")
    assert str(run) == "run.toml, rollout.group_size=8, rollout.group_size=2, model.name=tiny, rollout.engine=plain"


def test_the_file_of_an_option_is_found_from_where_pytest_was_called(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.mkdir("runs")
    (folder / "run.toml").write_text(RUN)
    pytester.makeini("[pytest]\n")
    monkeypatch.chdir(folder)
    assert run_of(pytester, "--grpo-config=run.toml").config().model.name == "small"


def test_equal_runs_have_equal_contents_wherever_they_stand(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", run=RUN, other='bench.variants.compact.environment.compact_prompts = true\nrun = "x"\n')
    first = run_of(pytester, "--grpo-config=run.toml")
    second = run_of(pytester, "--grpo-config=other.toml", "--grpo-model=small", "--grpo-set=rollout.group_size=4")
    assert first.content() == second.content()
    assert "model.name=small" in first.content()
    assert first.content() != run_of(pytester, "--grpo-model=small").content()


def test_another_session_gets_the_same_run(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", run=RUN)
    run = run_of(pytester, "--grpo-config=run.toml", "--grpo-set=rollout.seed=3", "--grpo-environment=arithmetic")
    assert run_of(pytester, *run.options()) == run
    relative = list(run.options(pytester.path))
    assert relative[0] == "--grpo-config=run.toml"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--grpo-config=none.toml"], "*--grpo-config 'none.toml': no such file; give the TOML file*"),
        (["--grpo-config="], "*--grpo-config '': no such file*"),
        (["--grpo-config=bad.toml"], "*bad.toml: not TOML*"),
        (["--grpo-set=group_size"], "*--grpo-set 'group_size': give SECTION.KEY=VALUE*"),
        (["--grpo-set=rollout.group_sise=3"], "*rollout.group_sise: unknown key; did you mean group_size?*"),
        (["--grpo-engine=fast"], "*--grpo-engine: 'fast' is not allowed*"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(project: pytest.Pytester, arguments: list[str], line: str) -> None:
    project.makefile(".toml", bad="= 3")
    result = project.runpytest("--phase=2", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])
    assert len([text for text in result.errlines if text.strip()]) == 1


def test_a_file_elsewhere_does_not_reach_phases_elsewhere(project: pytest.Pytester, tmp_path: Path) -> None:
    outside = tmp_path / "outside.toml"
    outside.write_text(RUN)
    result = project.runpytest("--phase=2", "--grpo-remote=subprocess", f"--grpo-config={outside}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*phases that run elsewhere get the files of *; put it there*"])


def test_the_header_and_the_stored_results_name_the_run(project: pytest.Pytester) -> None:
    result = project.runpytest("--phase=2", "--grpo-set=rollout.group_size=4", "--grpo-json=rows.json")
    result.stdout.fnmatch_lines(["grpo: device profile cpu, *, run rollout.group_size=4"])
    assert '"run": "rollout.group_size=4"' in (project.path / "rows.json").read_text()
