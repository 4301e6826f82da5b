from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from grpo_core.dashboard.chart_lines import charts_json
from grpo_core.dashboard.run_data import RunData
from grpo_core.dashboard.server import Server, make_app
from grpo_core.dashboard.views import Views
from grpo_core.errors import ConfigError
from grpo_core.home import Home
from tests.grpo_core.dashboard.conftest import WriteRun, event, step_events

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\ud800"


@pytest.fixture
def client(home: Home) -> TestClient:
    return TestClient(make_app(home), base_url="http://127.0.0.1:8470")


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    """A real one, on a free port."""
    with Server(home, "127.0.0.1", 0, with_token=False) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        yield server
        server.stop()
        thread.join()


def test_the_page_and_its_files_are_served(client: TestClient) -> None:
    assert "/page/app.js" in client.get("/").text
    for name, kind in (("app.js", "text/javascript"), ("page.css", "text/css"), ("icon.svg", "image/svg+xml")):
        assert client.get(f"/page/{name}").headers["content-type"].startswith(kind)
    for path in ("/page/../views.py", "/page/%2e%2e/views.py", "/page//etc/passwd", "/page/nothing.js"):
        assert client.get(path).status_code == 404


def test_an_empty_home_says_where_it_looks(home: Home, client: TestClient) -> None:
    assert client.get("/api/runs").json() == {"folder": str(home.events), "runs": []}
    assert client.get("/api/verdicts").json()["gates"] == []


def test_a_run_has_its_charts(client: TestClient, write_run: WriteRun) -> None:
    write_run("first")
    view = client.get("/api/runs/first").json()
    charts = {chart["id"]: chart for chart in view["charts"]}
    assert charts["reward"]["lines"][0]["y"] == [0.1, 0.2, 0.3, 0.4]
    assert charts["reward"]["lines"][0]["high"] == [0.2, 0.3, 0.4, 0.5]
    assert charts["length"]["lines"][0]["y"] == [3.0] * 4
    assert [line["label"] for line in charts["lag"]["lines"]] == ["lag", "allowed"]
    assert (charts["use"]["axis"], charts["use"]["lines"][0]["x"]) == ("time", [1.0, 3.0, 5.0, 7.0])
    assert {chart["panel"] for chart in view["charts"]} >= {9, 10, 11}
    assert "power" not in charts  # a host has none
    assert (view["line"]["status"], view["num_events"]) == ("done", 18)


def test_the_account_of_a_thread_adds_up_to_the_wall_clock(client: TestClient, write_run: WriteRun) -> None:
    write_run("first", 6, asked=6)
    (account,) = client.get("/api/runs/first").json()["accounts"]
    spans = {layer["name"]: layer["y"] for layer in account["layers"]}
    assert spans["wait.batch"][1:] == [0.5] * 5
    assert spans["train.backward"] == [0.6] * 6
    assert [round(sum(column), 6) for column in zip(*spans.values(), strict=True)][1:] == [2.0] * 5
    assert [layer["name"] for layer in account["layers"]][-2:] == ["wait.batch", "other"]


def test_the_timeline_has_a_lane_per_thread_with_its_waits(client: TestClient, write_run: WriteRun) -> None:
    write_run("first")
    timeline = client.get("/api/runs/first").json()["timeline"]
    lanes = {lane["name"]: lane["spans"] for lane in timeline["lanes"]}
    assert set(lanes) == {"train", "rollout"}
    assert next(span for span in lanes["train"] if span[0] == "wait.batch") == ["wait.batch", 0.0, 0.5]
    assert "wait.room" in [name for name, _, _ in lanes["rollout"]]
    for spans in lanes.values():
        for (_, start, end), (_, next_start, _) in pairwise(spans):
            assert 0 <= start <= end <= next_start + 1e-6


def test_several_devices_have_a_line_each(home: Home, client: TestClient, write_run: WriteRun) -> None:
    path = write_run("first", 1)
    with path.open("a") as file:
        for index in (0, 1):
            use = event(
                "gpu_stats", 3.0, source="nvml", device_index=index, utilization_percent=50.0, power_watts=300.0
            )
            file.write(json.dumps(use) + "\n")
    charts = {chart["id"]: chart for chart in client.get("/api/runs/first").json()["charts"]}
    assert [line["label"] for line in charts["use"]["lines"]] == ["use 0", "use 1"]
    assert "power" in charts


def test_a_page_that_reads_a_run_does_not_change_what_another_one_shows(
    home: Home, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, path = Views(home), write_run("first", 1)
    others: list[threading.Thread] = []

    def meanwhile(data: RunData) -> list[dict[str, Any]]:
        if not others:
            append(path, *step_events(2))
            others.append(threading.Thread(target=views.run, args=("first",)))
            others[0].start()
            others[0].join(0.5)  # the other page waits; one that does not is done by then
        return charts_json(data)

    monkeypatch.setattr("grpo_core.dashboard.chart_lines.charts_json", meanwhile)
    view = views.run("first")[1]
    others[0].join()
    later = views.run("first")[1]
    assert view is not None
    assert later is not None
    assert [len(shown["charts"][0]["lines"][0]["y"]) for shown in (view, later)] == [1, 2]


def test_an_evaluation_is_a_chart_with_its_intervals(client: TestClient, write_run: WriteRun) -> None:
    append(
        write_run("first", 1),
        event("evaluation", 3.0, step=0, greedy_passed=0.25, greedy_passed_low=0.2, greedy_passed_high=0.5),
        event("evaluation", 4.0, step=1, greedy_passed=0.5, greedy_passed_low=0.25, greedy_passed_high=0.75),
    )
    charts = {chart["id"]: chart for chart in client.get("/api/runs/first").json()["charts"]}
    (line,) = charts["evaluation"]["lines"]  # pass@k has no number
    assert (line["label"], line["x"], line["y"]) == ("greedy answers", [0.0, 1.0], [25.0, 50.0])
    assert (line["low"], line["high"]) == ([20.0, 25.0], [50.0, 75.0])


def test_each_reward_function_has_a_line(client: TestClient, write_run: WriteRun) -> None:
    append(
        write_run("first", 1),
        event("reward", 3.0, batch_index=0, function="exact", score_mean=0.5, score_std=0.25, reward_s=0.125),
        event("reward", 3.0, batch_index=0, function="short", score_mean=1.0, score_std=0.0, reward_s=2.0),
    )
    charts = {chart["id"]: chart for chart in client.get("/api/runs/first").json()["charts"]}
    exact, short = charts["rewards"]["lines"]
    assert (exact["label"], exact["y"], exact["low"], exact["high"]) == ("mean exact", [0.5], [0.25], [0.75])
    assert (short["label"], short["y"]) == ("mean short", [1.0])
    assert [line["y"] for line in charts["reward_time"]["lines"]] == [[0.125], [2.0]]


def append(path: Path, *events: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in events)


@pytest.mark.parametrize(
    "value", [HOSTILE, None, True, [1], {"a": [1]}, 10**400, -1e308, float("nan"), float("inf"), ""]
)
def test_hostile_values_change_no_structure(client: TestClient, write_run: WriteRun, value: object) -> None:
    path = write_run("first", 2)
    fields = (
        *("step", "time", "reward_mean", "step_s", "publish_ms", "loss", "preset", "environment", "num_steps"),
        *("device_index", "device_name", "duration_s", "batch_index", "load_ms", "lane", "process", "thread"),
    )
    with path.open("a") as file:
        for kind in ("train_step", "rollout", "gpu_stats", "run_started", "adapter_load", "ledger", "figures", HOSTILE):
            file.write(json.dumps({"kind": kind, **dict.fromkeys(fields, value)}) + "\n")
            for field in fields:
                file.write(json.dumps({**event(kind, 5.0, step=3, step_s=1.0), field: value}) + "\n")
        for kind in ([], {}, 7, None):
            file.write(json.dumps({"kind": kind}) + "\n")
    for path_ in ("/api/runs", "/api/runs/first", "/api/runs/first/advice"):
        answer = client.get(path_)
        assert answer.status_code == 200
        assert "NaN" not in answer.text
        assert "Infinity" not in answer.text
    assert client.get("/api/runs/first").json()["line"] is not None


@pytest.mark.parametrize("name", ["nothing", "..", "a b", "%3Cscript%3E", "x" * 300, "..%2f..%2fetc%2fpasswd", "%00"])
def test_a_run_that_does_not_exist_is_none(client: TestClient, name: str) -> None:
    assert client.get(f"/api/runs/{name}").status_code == 404
    assert "root:" not in client.get(f"/api/runs/{name}/samples").text


def test_a_run_that_kept_no_samples_has_none_and_says_why(client: TestClient, write_run: WriteRun) -> None:
    write_run("first")
    assert "No samples" in client.get("/api/runs/first/samples").json()["note"]


def messages(server: Server, query: str) -> Generator[dict[str, object], None, None]:
    with urllib.request.urlopen(f"{server.url}api/stream?{query}", timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def test_a_stream_sends_what_is_new(server: Server, home: Home, write_run: WriteRun) -> None:
    path = write_run("first", 1, is_finished=False)
    stream = messages(server, "run=first")
    content = next(stream)["content"]
    assert isinstance(content, dict)
    assert content["line"]["step"] == 1
    write_run("first", 2)
    while content["line"]["step"] != 2:
        content = next(stream)["content"]
        assert isinstance(content, dict)
    path.unlink()
    while content["line"] is not None:
        content = next(stream)["content"]
        assert isinstance(content, dict)
    stream.close()


def test_two_runs_share_a_stream_and_the_list_has_its_own(server: Server, write_run: WriteRun) -> None:
    write_run("a")
    write_run("b")
    stream = messages(server, "run=a&run=b&run=gone")
    assert {next(stream)["view"] for _ in range(3)} == {"run:a", "run:b", "run:gone"}
    runs = messages(server, "view=runs")
    assert next(runs)["view"] == "runs"
    stream.close()
    runs.close()


def test_an_open_stream_ends_with_the_server(server: Server, write_run: WriteRun) -> None:
    write_run("first")
    stream = messages(server, "run=first")
    next(stream)
    server.stop()
    assert list(stream) == []


def test_a_taken_port_is_one_line(home: Home) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: another program has it; give another one, or 0"):
            Server(home, "127.0.0.1", port, with_token=False)


def test_an_address_of_another_machine_is_one_line(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1 .*give an address of this machine"):
        Server(home, "192.0.2.1", 0, with_token=True)


def test_an_address_for_others_comes_with_a_token(home: Home) -> None:
    with Server(home, "127.0.0.1", 0, with_token=True) as server:
        assert len(server.url.partition("?token=")[2]) >= 32
