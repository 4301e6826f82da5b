from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_grpo.remote import project_files
from tests.modal_server import ModalServer
from tests.modal_server.records import Placement

APP = """
import modal

image = (
    modal.Image.debian_slim()
    .env({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_benchmark.plugin"})
    .add_local_python_source("grpo_core", "pytest_grpo")
)
app = modal.App("small", image=image)

@app.function(timeout=300, single_use_containers=True)
def run_pytest(request: str, files: bytes):
    from pytest_grpo.remote.worker import serve

    yield from serve(request, files, modal.current_function_call_id())

@app.function(timeout=300, single_use_containers=True)
def record_pytest(request: str, files: bytes):
    from pytest_grpo.remote.worker import serve

    return list(serve(request, files))
"""


@pytest.fixture
def on_modal(project: pytest.Pytester, modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The project with an app, and a Modal to run it on."""
    monkeypatch.delitem(sys.modules, "app", raising=False)
    monkeypatch.syspath_prepend(project.path)
    project.makepyfile(app=APP)
    return project


def test_missing_credentials_are_one_line(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_ID", "half-of-them")
    result = project.runpytest_subprocess("--phase", "2", "--modal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: --modal: no Modal credentials; run 'modal token new' or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, "
        "or drop --modal to measure on this machine"
    ]


def test_a_phase_runs_in_a_container_and_is_reported_here(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    result = on_modal.runpytest("--phase", "2,3", "--modal")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["grpo: device profile of modal, mode modal, *", "3 pass, 0 fail, *"])
    assert modal_server.num_started == 2
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.slow
def test_progress_is_told_unless_quiet(on_modal: pytest.Pytester) -> None:
    told = on_modal.runpytest("--phase", "2", "--modal", "--junitxml=junit.xml")
    told.stdout.fnmatch_lines([f"grpo: phase 2: {state}" for state in ("building its image", "queued", "running")])
    assert "queued" not in (on_modal.path / "junit.xml").read_text()
    quiet = on_modal.runpytest("--phase", "2", "--modal", "-q")
    quiet.stdout.no_fnmatch_line("grpo: phase 2: *")


@pytest.mark.slow
@pytest.mark.parametrize("bound", [1, 2])
def test_phases_run_side_by_side_as_many_as_allowed(on_modal: pytest.Pytester, bound: int) -> None:
    result = on_modal.runpytest("--phase", "2,3", "--modal", f"--modal-max-containers={bound}", "-v")
    result.assert_outcomes(passed=2, deselected=2)
    opened = [line for line in result.outlines if "building its image" in line or "PASSED" in line]
    assert ["PASSED" in line for line in opened].index(True) == bound  # so many are opened before the first one ends


@pytest.mark.slow
def test_the_first_failure_stops_the_other_phases(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    on_modal.makepyfile(
        test_suite="import pytest, time\n@pytest.mark.phase2\ndef test_fails(): assert 0\n"
        "@pytest.mark.phase3\ndef test_sleeps(): time.sleep(300)"
    )
    result = on_modal.runpytest("--phase", "2,3", "--modal", "-x")
    result.assert_outcomes(failed=1)
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.parametrize("asked", ["--modal", "--modal-detach"])
def test_collecting_contacts_nothing(on_modal: pytest.Pytester, modal_server: ModalServer, asked: str) -> None:
    result = on_modal.runpytest("--phase", "2", asked, "--co", "-q")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["test_suite.py::test_two"])
    assert modal_server.num_requests == 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_tests_are_chosen_as_for_a_local_run(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    on_modal.makepyfile(
        test_suite="import pytest\npytestmark = pytest.mark.phase2\ndef test_good(): pass\n"
        "@pytest.mark.parametrize('name', ['first', 'second', 'third'])\ndef test_bad(name): assert name == ''"
    )

    def outcomes(*arguments: str) -> list[str]:
        """What ran, here and, with what is added, on Modal."""
        shown = on_modal.runpytest("--phase", "2", "-v", *arguments).stdout.str()
        return re.findall(r"^test_suite.py::\S+ (?:PASSED|FAILED)", shown, re.MULTILINE)

    on_modal.runpytest("--phase", "2", "-k", "third")  # what failed last
    for chosen, num_run in (("--lf", 1), ("-k=good or third", 2), ("test_suite.py::test_good", 1), ("--maxfail=2", 3)):
        here = outcomes(chosen)
        assert outcomes(chosen, "--modal") == here
        assert len(here) == num_run
    assert modal_server.num_started == 4


@pytest.mark.slow
def test_what_was_asked_for_a_phase_reaches_modal(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    with (on_modal.path / "bench/thresholds.toml").open("a") as file:
        file.write('[modal.phase3]\ngpu = "H100:2"\n')
    on_modal.makeini(
        "[pytest]\ngrpo_control = false\ngrpo_max_cores_of_others = inf\n"
        "grpo_modal_gpu = T4\ngrpo_modal_region = us-east, eu\n"
    )
    asked = ["--phase", "2,3", "--modal", "--modal-timeout=77", "--modal-env=staging", "--modal-max-containers=1"]
    on_modal.runpytest(*asked).assert_outcomes(passed=2, deselected=2)
    assert modal_server.placements("run_pytest") == [
        Placement("T4:1", ("us-east", "eu"), 77, "staging"),
        Placement("H100:2", ("us-east", "eu"), 77, "staging"),
    ]
    on_modal.runpytest(*asked, "--modal-gpu=A10:4").assert_outcomes(passed=2, deselected=2)
    assert [one.gpu for one in modal_server.placements("run_pytest")[2:]] == ["A10:4"] * 2


@pytest.mark.slow
def test_a_gpu_of_the_app_can_be_taken_away(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    gpu = "gpu=os.environ.get('GRPO_MODAL_GPU', 'L4').replace('none', '') or None, "
    on_modal.makepyfile(app="import os\n" + APP.replace("timeout=300, ", gpu))
    with (on_modal.path / "bench/thresholds.toml").open("a") as file:
        file.write('[modal.phase2]\ngpu = "none"\n')
    result = on_modal.runpytest("--phase", "2,3", "--modal", "--modal-max-containers=1")
    result.assert_outcomes(passed=2, deselected=2)
    assert [one.gpu for one in modal_server.placements("run_pytest")] == ["", "L4:1"]
    assert "GRPO_MODAL_GPU" not in os.environ


TRAVELS = """
import os, pathlib, pytest
@pytest.mark.phase2
def test_files():
    assert "MODAL_TASK_ID" in os.environ
    assert pathlib.Path("large.bin").stat().st_size == 3 << 20
    assert pathlib.Path("new.txt").exists()
    assert not pathlib.Path(".env").exists()
    assert not pathlib.Path("keys").exists()
"""


@pytest.mark.slow
def test_the_files_of_the_project_travel_and_its_secrets_do_not(on_modal: pytest.Pytester) -> None:
    on_modal.makepyfile(test_suite=TRAVELS)
    (on_modal.path / "large.bin").write_bytes(os.urandom(3 << 20))  # more than Modal takes in one message
    (on_modal.path / ".env").write_text("TOKEN=1")
    (on_modal.mkdir("keys") / "server.pem").write_text("secret")
    subprocess.run(["git", "init", "-q"], cwd=on_modal.path, check=True)
    subprocess.run(["git", "add", "-f", "."], cwd=on_modal.path, check=True)
    (on_modal.path / "new.txt").write_text("not tracked")
    on_modal.runpytest("--phase", "2", "--modal").assert_outcomes(passed=1)


def test_too_many_files_are_one_line(on_modal: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "MAX_TREE_BYTES", 1 << 20)
    (on_modal.path / "model.bin").write_bytes(b"0" * (2 << 20))
    result = on_modal.runpytest("--phase", "2", "--modal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --modal: the project's files take 2 MiB, allowed are 1 MiB; *model.bin*"])


@pytest.mark.slow
def test_a_detached_run_is_reported_as_often_as_wanted(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    started = on_modal.runpytest("--phase", "2,4", "--modal-detach")
    started.assert_outcomes(skipped=2, deselected=2)
    (line,) = [line for line in started.outlines if line.startswith("grpo: run ")]
    run = line.rpartition(" ")[2]
    for attempt in range(2):
        attached = on_modal.runpytest("--modal-attach", run)
        attached.assert_outcomes(passed=2, failed=1, deselected=1)
        attached.stdout.fnmatch_lines(["2 pass, 1 fail, *"])
        if attempt == 0:
            modal_server.wait_until(lambda: modal_server.num_containers() == 0)
            modal_server.lose()  # it is here now
    on_modal.runpytest("--modal-attach", run, "--phase", "2").assert_outcomes(passed=1, deselected=3)
    refused = on_modal.runpytest("--modal-attach", run, "--phase", "3")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines([f"ERROR: --modal-attach {run}: the run has no test_suite.py::test_three; *"])


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_the_results_are_of_the_container(on_modal: pytest.Pytester) -> None:
    on_modal.makepyfile(
        test_suite="""
        import os, pytest
        from pytest_grpo.agreement import same_tokens

        @pytest.mark.phase2
        def test_speed(grpo_arms, benchmark):
            assert "MODAL_TASK_ID" in os.environ
            benchmark.pedantic(lambda: None, rounds=3)
            fast, slow = grpo_arms(agree=same_tokens, fast=lambda: {"seconds": 1}, slow=lambda: {"seconds": 3})
            assert slow.seconds >= 2 * fast.seconds
        """
    )
    on_modal.makeconftest(
        """
        import os
        from grpo_core import hardware
        PLACE = "container" if "MODAL_TASK_ID" in os.environ else "here"
        hardware.cpu_name = lambda: PLACE
        def pytest_benchmark_generate_machine_info(): return {"node": PLACE, "cpu": {}}
        """
    )
    saving = ["--phase", "2", "--grpo-save=first", "--benchmark-json=out.json", "--grpo-html=page.html"]
    result = on_modal.runpytest_subprocess(*saving, "--modal")
    result.assert_outcomes(passed=1)
    stored = json.loads(next(Path(os.environ["GRPO_HOME"]).rglob("first.json")).read_text())
    assert stored["fingerprint"]["cpu"] == "container"
    document = json.loads((on_modal.path / "out.json").read_text())
    assert document["machine_info"]["node"] == "container"
    native, *arms = document["benchmarks"]
    assert (native["name"], native["stats"]["rounds"]) == ("test_speed", 3)
    assert [entry["extra_info"]["fingerprint"]["cpu"] for entry in arms] == ["container"] * 2
    assert "container" in (on_modal.path / "page.html").read_text()
    again = on_modal.runpytest_subprocess("--phase", "2", "--grpo-compare=first", "--modal")
    again.assert_outcomes(passed=1)
    elsewhere = on_modal.runpytest_subprocess("--phase", "2", "--grpo-compare=first", "--grpo-remote=subprocess")
    assert elsewhere.ret == pytest.ExitCode.USAGE_ERROR
    elsewhere.stderr.fnmatch_lines(["ERROR: phase 2: baseline *: not comparable: cpu: container / here; *"])


@pytest.mark.slow
def test_a_deployed_app_is_used(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    module = importlib.import_module("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(on_modal.path)
        module.app.deploy(name="deployed")
    (on_modal.path / "app.py").unlink()
    with (on_modal.path / "bench/thresholds.toml").open("a") as file:
        file.write('[modal.phase3]\ngpu = "H100:2"\n')
    result = on_modal.runpytest("--phase", "2,3", "--modal", "--modal-app=deployed", "--modal-region=us-east")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["grpo: phase 2: looking up deployed"])
    assert sorted(one.gpu for one in modal_server.placements("run_pytest")) == ["", "H100:2"]
    assert {one.regions for one in modal_server.placements("run_pytest")} == {("us-east",)}
    missing = on_modal.runpytest("--phase", "2", "--modal", "--modal-app=gone")
    assert missing.ret == pytest.ExitCode.USAGE_ERROR
    missing.stderr.fnmatch_lines(["ERROR: --modal: *gone*"])
