"""The workflow that compares a pull request with its base: who may do what in it, and that its commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_grpo.measuring.deciding import plan_of
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA
from pytest_grpo.types import Verdict
from tests.pytest_grpo.repositories import commit_files, git, make_repository

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
WORKFLOW: dict[Any, Any] = yaml.safe_load((PROJECT_FOLDER / ".github/workflows/against.yml").read_text("utf-8"))
JOBS: dict[str, Any] = WORKFLOW["jobs"]
UNTRUSTED = ("screen", "full")
"""They run the code of a pull request."""
TRUSTED = ("asked", "comment")
"""They have the token."""


def runs(*jobs: str) -> list[str]:
    """The commands of these jobs."""
    return [" ".join(step["run"].split()) for job in jobs for step in JOBS[job]["steps"] if "run" in step]


def checkouts() -> Iterator[tuple[str, dict[str, Any]]]:
    """The job and the settings of each."""
    for name, job in JOBS.items():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                yield name, step["with"]


def texts(value: object) -> Iterator[str]:
    """Every text in a part of the workflow."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from (str(key), *texts(each))
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    else:
        yield str(value)


def test_every_job_runs_code_of_the_pull_request_or_has_a_token() -> None:
    assert {*JOBS} == {*UNTRUSTED, *TRUSTED}


def test_each_job_may_do_what_it_needs_and_no_more() -> None:
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "screen": {"contents": "read"},
        "asked": {"contents": "read", "pull-requests": "read"},
        "full": {"contents": "read"},
        "comment": {"contents": "read", "pull-requests": "write"},
    }


@pytest.mark.parametrize("job", UNTRUSTED)
def test_code_of_a_pull_request_sees_no_secret_no_token_and_no_cache(job: str) -> None:
    shown = list(texts(JOBS[job]))
    assert not [text for text in shown if "secrets" in text or "github.token" in text or "GH_TOKEN" in text]
    caching = [step["with"] for step in JOBS[job]["steps"] if step.get("uses", "").startswith("astral-sh/setup-uv@")]
    assert caching == [{"enable-cache": False}]
    assert not any("actions/cache" in text for text in shown)


def test_no_secret_is_used_at_all() -> None:
    assert not [text for text in texts(WORKFLOW) if "secrets" in text]


def test_a_checkout_leaves_no_credentials_and_is_of_the_right_code() -> None:
    head, default = "github.event.pull_request.head.sha", "github.event.repository.default_branch"
    refs = {"screen": head, "full": "needs.asked.outputs.head", "asked": default, "comment": default}
    found = dict(checkouts())
    assert {name: given["ref"] for name, given in found.items()} == {
        name: f"${{{{ {ref} }}}}" for name, ref in refs.items()
    }
    assert all(given["persist-credentials"] is False for given in found.values())
    assert {name for name, given in found.items() if given.get("fetch-depth") == 0} == {*UNTRUSTED}


def test_jobs_with_a_token_run_one_script_of_the_default_branch_only() -> None:
    assert len(runs(*TRUSTED)) == len(TRUSTED)
    assert all(command.startswith("python3 -m scripts.pull_request ") for command in runs(*TRUSTED))
    used = {step["uses"].partition("@")[0] for job in TRUSTED for step in JOBS[job]["steps"] if "uses" in step}
    assert used == {"actions/checkout", "actions/download-artifact"}


def test_no_command_has_text_of_the_event_in_it() -> None:
    """A branch may be named ``$(command)``: values come from the environment."""
    assert not [command for command in runs(*JOBS) if "${{" in command]


def test_only_maintainers_start_the_whole_comparison() -> None:
    condition = " ".join(JOBS["asked"]["if"].split())
    assert condition.split(" && ") == [
        "github.event_name == 'issue_comment'",
        "github.event.issue.pull_request",
        "startsWith(github.event.comment.body, '/grpo against')",
        """contains(fromJSON('["OWNER", "MEMBER", "COLLABORATOR"]'), github.event.comment.author_association)""",
    ]
    assert JOBS["full"]["needs"] == "asked"
    assert JOBS["screen"]["if"] == "github.event_name == 'pull_request'"
    events = WORKFLOW[True]  # YAML reads the word "on" so
    assert events == {"pull_request": None, "issue_comment": {"types": ["created"]}}


def test_a_run_that_was_replaced_writes_no_comment() -> None:
    condition = " ".join(JOBS["comment"]["if"].split())
    assert condition == (
        """!cancelled() && (contains(fromJSON('["success", "failure"]'), needs.full.result) || """
        """(contains(fromJSON('["success", "failure"]'), needs.screen.result) && """
        "github.event.pull_request.head.repo.full_name == github.repository))"
    )


@pytest.mark.parametrize("job", UNTRUSTED)
def test_the_table_is_handed_on_although_the_tests_fail(job: str) -> None:
    upload = next(step for step in JOBS[job]["steps"] if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["if"] == "${{ !cancelled() }}"
    assert upload["with"]["include-hidden-files"] is True
    (measured,) = (command for command in runs(job) if "pytest" in command)
    words = shlex.split(measured)
    files = [words[words.index(option) + 1] for option in ("--grpo-json", "--grpo-html")]
    assert upload["with"]["path"].split() == files
    (said,) = runs("comment")
    assert f"$RUNNER_TEMP/{upload['with']['name']}/{Path(files[0]).name}" in said
    fetched = JOBS["comment"]["steps"][1]["with"]
    assert (fetched["pattern"], fetched["path"]) == (upload["with"]["name"], "${{ runner.temp }}/against")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("job", UNTRUSTED)
def test_the_base_is_where_the_branch_started(tmp_path: Path, job: str) -> None:
    origin = make_repository(tmp_path / "origin", {"a": "1"})
    start = git(origin, "rev-parse", "HEAD")
    git(origin, "checkout", "-qb", "change")
    head = commit_files(origin, {"a": "2"})
    git(origin, "checkout", "-q", "main")
    commit_files(origin, {"a": "3"})
    git(tmp_path, "clone", "-q", str(origin), "clone")
    git(tmp_path / "clone", "checkout", "-q", "--detach", head)
    (command,) = (command for command in runs(job) if "merge-base" in command)
    subprocess.run(["bash", "-ec", f"BASE_REF=main; {command}"], cwd=tmp_path / "clone", check=True)
    assert git(tmp_path / "clone", "rev-parse", "base") == start


@pytest.mark.slow
@pytest.mark.parametrize("job", UNTRUSTED)
def test_pytest_knows_the_options(tmp_path: Path, job: str) -> None:
    (command,) = (command for command in runs(job) if "pytest" in command)
    thresholds = (PROJECT_FOLDER / "bench/thresholds.toml").read_text("utf-8")
    test = "import pytest\n@pytest.mark.phase2\ndef test_phase(grpo_gate): ...\n"
    repository = make_repository(tmp_path / "it", {"bench/thresholds.toml": thresholds, "bench/test_one.py": test})
    git(repository, "branch", "base")
    collected = subprocess.run(
        [sys.executable, "-m", *shlex.split(command.removeprefix("uv run ")), "--collect-only", "-q"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert "test_one.py::test_phase" in collected.stdout


@pytest.mark.parametrize("command", runs(*TRUSTED))
def test_the_script_knows_the_options(command: str) -> None:
    module, subcommand, *arguments = shlex.split(command.partition(" >> ")[0].removeprefix("python3 -m "))
    shown = subprocess.run(
        [sys.executable, "-m", module, subcommand, "--help"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    given = [argument for argument in arguments if argument.startswith("--")]
    assert given
    assert [argument for argument in given if argument not in shown.stdout] == []


def test_the_pairs_of_the_screen_are_enough_to_find_a_slower_quantity() -> None:
    """The error budget is shared by all quantities; with 12 pairs nothing could be called slower."""
    (command,) = (command for command in runs("screen") if "pytest" in command)
    words = shlex.split(command)
    looks = tuple(map(int, words[words.index("--grpo-pairs") + 1].split(",")))
    phases = words[words.index("--phase") + 1].split(",")
    files = [path for phase in phases for path in (PROJECT_FOLDER / "bench").glob(f"test_phase{phase}_*.py")]
    num_tests = sum(len(re.findall(r"grpo_arms\(", path.read_text("utf-8"))) for path in files)
    assert num_tests > 4
    num_arms, num_quantities = 3, 6
    plan = plan_of(looks, FAMILY_ALPHA / num_tests / num_arms / num_quantities / 2)
    assert plan.min_pairs(Verdict.FAIL) <= looks[-1]
