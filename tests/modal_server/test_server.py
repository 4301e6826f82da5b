"""The local Modal server, through the real SDK: each thing that this project uses of Modal, and each fault."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import modal
import modal.exception
import psutil
import pytest

from tests.child_processes import children_with
from tests.modal_server import ModalServer

FOLDER = Path(__file__).resolve().parent


@pytest.fixture
def example(modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """example_app, running."""
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop("example_app", None)  # its volume and image remember the server that they were made on
    module = importlib.import_module("example_app")
    with module.app.run():
        yield module


def modal_cli(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modal", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_call_returns_prints_and_raises_as_on_modal(modal_server: ModalServer, example: ModuleType):
    assert example.square.remote(3) == 9
    modal_server.wait_until(lambda: "squaring 3\n" in modal_server.output())

    with pytest.raises(ValueError, match="-2 is negative") as caught:
        example.square.remote(-2)

    frames = [frame.name for frame in caught.traceback]
    assert frames[-1] == "square"  # the remote frame


@pytest.mark.slow
def test_map_spawn_and_generators(example: ModuleType):
    assert list(example.square.map(range(120))) == [number * number for number in range(120)]
    assert list(example.count.remote_gen(5)) == [0, 1, 2, 3, 4]
    call = example.square.spawn(7)
    assert modal.FunctionCall.from_id(call.object_id).get(timeout=20) == 49


@pytest.mark.slow
def test_the_cli_runs_and_shows_what_is_printed(modal_server: ModalServer):
    ran = modal_cli("run", "example_app.py")

    assert ran.returncode == 0, ran.stderr
    assert "squaring 3" in ran.stdout
    assert "result 9" in ran.stdout
    assert modal_server.num_containers() == 0


@pytest.mark.slow
def test_a_deployment_is_looked_up_and_called(modal_server: ModalServer):
    deployed = modal_cli("deploy", "example_app.py")
    assert deployed.returncode == 0, deployed.stderr

    assert modal.Function.from_name("example", "square").remote(4) == 16
    greeter = modal.Cls.from_name("example", "Greeter")(name="you")
    assert greeter.greet.remote() == "hello you"
    with pytest.raises(modal.exception.NotFoundError, match="no function 'cube'"):
        modal.Function.from_name("example", "cube").remote(4)


@pytest.mark.slow
def test_the_cli_shows_logs_and_fetches_files(modal_server: ModalServer):
    assert modal_cli("deploy", "example_app.py").returncode == 0
    modal.Function.from_name("example", "square").remote(5)
    modal.Function.from_name("example", "write").remote("kept", "whole", True)

    modal.Function.from_name("example", "square").remote(6)
    assert "squaring 5" in modal_cli("app", "logs", "example").stdout
    assert modal_cli("app", "logs", "example", "--search", "squaring 6").stdout.split() == ["squaring", "6"]
    assert modal_cli("volume", "ls", "example").stdout.split() == ["kept"]
    assert modal_cli("volume", "get", "example", "kept", "-").stdout.startswith("whole")
    assert modal_cli("app", "stop", "example", "--yes").returncode == 0
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.slow
def test_a_class_enters_once_and_serves_calls_that_overlap(modal_server: ModalServer, example: ModuleType):
    greeter = example.Greeter(name="me")
    calls = [greeter.meet.spawn(0.5) for _ in range(4)]

    assert [call.get(timeout=20) for call in calls] == [4, 4, 4, 4]
    assert greeter.greet.remote() == "hello me"
    assert modal_server.output().count("loading for me") == 1
    assert example.Greeter().greet.remote() == "hello nobody"


def test_a_payload_over_the_object_limit_goes_through_a_blob(example: ModuleType):
    payload = os.urandom(3 * 1024 * 1024)

    assert example.echo.remote(payload) == payload


def test_a_container_has_the_image_s_environment_secrets_and_modules(
    modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OF_THIS_PROCESS", "1")
    modal_server.set_secret("colours", FAVOURITE="red")
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop("example_app", None)
    example = importlib.import_module("example_app")
    with_secret = example.app.function(
        image=example.image, secrets=[modal.Secret.from_name("colours")], name="with_secret", serialized=True
    )(lambda: __import__("os").environ.get("FAVOURITE"))

    with example.app.run():
        assert example.environment.remote("COLOUR") == "deep blue"
        assert example.environment.remote("OF_THIS_PROCESS") is None
        assert with_secret.remote() == "red"


def test_a_missing_secret_is_named(modal_server: ModalServer):
    app = modal.App("needs-a-secret")
    app.function(secrets=[modal.Secret.from_name("absent")], serialized=True)(lambda: None)

    with pytest.raises(modal.exception.NotFoundError, match="'absent'"), app.run():
        pass


def test_a_forgotten_commit_and_a_forgotten_reload_are_noticed(modal_server: ModalServer, example: ModuleType):
    assert example.read.remote("kept") is None  # now there is a container with a view of the empty volume

    example.write.remote("kept", "whole", commit=False)
    assert example.read.remote("kept", reload=True) is None
    example.write.remote("kept", "whole", commit=True)
    assert example.read.remote("kept") is None
    assert example.read.remote("kept", reload=True) == "whole"
    assert (modal_server.volume("example") / "kept").read_text() == "whole"


def test_a_reload_with_a_mapped_file_is_refused(example: ModuleType):
    with pytest.raises(RuntimeError, match="open files preventing the operation: mine"):
        example.read.remote("kept", reload=True, keep_open="mine")


def test_what_a_container_wrote_is_committed_when_it_ends(modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop("example_app", None)
    example = importlib.import_module("example_app")
    with example.app.run():
        example.write.remote("late", "yes", commit=False)

    modal_server.wait_until(lambda: (modal_server.volume("example") / "late").exists())


def test_failures_are_retried_as_the_function_says(example: ModuleType):
    assert example.fail_twice.remote() == 3


@pytest.mark.slow
def test_a_timeout_ends_the_input(modal_server: ModalServer, example: ModuleType):
    with pytest.raises(modal.exception.FunctionTimeoutError, match="hit its timeout of 1s"):
        example.sleep.remote(30)
    assert example.sleep.remote(0) == "woke"  # in another container


@pytest.mark.slow
def test_a_killed_container_s_input_is_run_again(modal_server: ModalServer, example: ModuleType):
    modal_server.kill_on("nap", on_input=1, delay_s=0.3)

    assert example.nap.remote(0.8) == "rested"
    assert modal_server.output().count("napping") == 2


def test_what_a_killed_container_leaves_in_its_temporary_folder_goes_with_it(
    modal_server: ModalServer, example: ModuleType
):
    left = Path(example.keep_temporary.remote())
    assert left.is_dir()

    assert modal_server.kill("keep_temporary") == 1

    modal_server.wait_until(lambda: not left.exists())


@pytest.mark.slow
def test_a_generator_that_loses_its_container_yields_each_item_once(modal_server: ModalServer, example: ModuleType):
    modal_server.kill_on("count", on_chunk=3)

    assert list(example.count.remote_gen(6, 0.05)) == [0, 1, 2, 3, 4, 5]
    assert modal_server.output().count("yielding 0") == 2


@pytest.mark.slow
def test_a_container_that_crashes_for_good_is_given_up(modal_server: ModalServer, example: ModuleType):
    with pytest.raises(modal.exception.InternalFailure, match="leave: its containers crashed 4 times in a row"):
        example.leave.remote(3)


@pytest.mark.slow
def test_an_error_at_import_reaches_the_caller(modal_server: ModalServer, tmp_path: Path):
    (tmp_path / "broken.py").write_text(
        "import modal\napp = modal.App('broken')\nif not modal.is_local():\n    raise RuntimeError('no such thing')\n"
        "@app.function()\ndef nothing() -> None: ...\n"
    )
    ran = modal_cli("run", str(tmp_path / "broken.py"))

    assert ran.returncode != 0
    assert "no such thing" in ran.stderr + ran.stdout


def test_a_cancelled_call_stops_working(modal_server: ModalServer, example: ModuleType):
    call = example.nap.spawn(60)
    modal_server.wait_until(lambda: "napping" in modal_server.output())

    call.cancel()

    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=20)
    assert example.nap.remote(0) == "rested"  # its container takes the next


@pytest.mark.slow
def test_a_call_outlives_a_server_that_is_away(modal_server: ModalServer, example: ModuleType):
    call = example.nap.spawn(2.0)
    modal_server.wait_until(lambda: "napping" in modal_server.output())

    modal_server.lose(1.5)

    with pytest.raises(modal.exception.ConnectionError):  # after the few attempts that the SDK makes
        call.get(timeout=30)
    time.sleep(1.5)
    assert call.get(timeout=30) == "rested"
    assert modal_server.output().count("napping") == 1


@pytest.mark.slow
def test_refused_credentials_are_an_auth_error(modal_server: ModalServer):
    modal_server.faults.refuses_credentials = True

    ran = modal_cli("run", "example_app.py")

    assert ran.returncode == 1
    assert "Token validation failed: the token has expired" in ran.stderr


@pytest.mark.slow
def test_building_and_queueing_take_their_time(modal_server: ModalServer):
    modal_server.faults.image_build_s, modal_server.faults.queue_s = 0.5, 0.5
    start = time.monotonic()

    ran = modal_cli("run", "example_app.py")

    assert ran.returncode == 0, ran.stderr
    assert "=> building im-" in ran.stdout
    assert time.monotonic() - start > 1.0


@pytest.mark.slow
def test_a_detached_run_goes_on_without_its_client(modal_server: ModalServer):
    client = subprocess.Popen(
        [sys.executable, "-m", "modal", "run", "--detach", "example_app.py::write",
         "--name", "mark", "--text", "done", "--commit"],
        cwd=FOLDER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    modal_server.faults.queue_s = 1.0
    modal_server.wait_until(lambda: modal_server.num_started > 0)
    client.kill()
    client.wait()

    modal_server.wait_until((modal_server.volume("example") / "mark").exists)


@pytest.mark.slow
def test_ctrl_c_ends_the_run_and_its_containers(modal_server: ModalServer):
    client = subprocess.Popen(
        [sys.executable, "-m", "modal", "run", "example_app.py::nap", "--duration-s", "60"],
        cwd=FOLDER,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    modal_server.wait_until(lambda: "napping" in modal_server.output())

    client.send_signal(signal.SIGINT)

    client.wait(20)
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.slow
def test_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch):
    with ModalServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        client = subprocess.Popen(
            [sys.executable, "-m", "modal", "run", "example_app.py::nap", "--duration-s", "60"],
            cwd=FOLDER,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        server.wait_until(lambda: "napping" in server.output())
        client.kill()
        client.wait()
        containers = children_with("modal._container_entrypoint")
        assert containers
    assert not [one for one in containers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not server.folder.exists()
