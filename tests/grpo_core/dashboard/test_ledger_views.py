"""The ledger of a run as the page shows it: accounts that add up, lanes with their waits, advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from grpo_core.dashboard.server import make_app
from grpo_core.home import Home
from grpo_core.ledger.spans import SPANS
from tests.grpo_core.dashboard.conftest import START_S, WriteRun, event
from tests.grpo_core.explain.healthy import HEALTHY


@pytest.fixture
def client(home: Home) -> TestClient:
    return TestClient(make_app(home), base_url="http://127.0.0.1:8470")


def ledger(step: int, thread: str, spans: dict[str, float], *, process: str = "trainer-0", other_s: float = 0.0) -> Any:
    """A row of two seconds, the lane in the order of ``spans``."""
    began_s, lane, at_s = 2.0 * (step - 1), [], 0.0
    for name, seconds in spans.items():
        lane.append([name if name.startswith("wait") else name.partition(".")[0], at_s, seconds])
        at_s += seconds
    columns = {span.column: spans.get(span.name, 0.0) for span in SPANS}
    wall_s = sum(spans.values()) + other_s
    fields = {"wall_s": wall_s, "other_s": other_s, "started_s": START_S + began_s, "lane": json.dumps(lane), **columns}
    return event("ledger", began_s + wall_s, step=step, process=process, thread=thread, **fields)


def append(path: Path, records: list[Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


TRAIN = {"wait.batch": 0.5, "train.forward": 0.6, "train.backward": 0.7, "publish": 0.1}
ROLLOUT = {"sample.decode": 1.2, "wait.room": 0.8}


def test_accounts_are_those_of_the_ledger_and_add_up(client: TestClient, write_run: WriteRun) -> None:
    path = write_run("r", 2, asked=2)
    rows = [ledger(step, "train", TRAIN, other_s=0.1) for step in (1, 2)]
    append(path, [*rows, *(ledger(step, "rollout", ROLLOUT) for step in (1, 2))])
    accounts = {each["thread"]: each for each in client.get("/api/runs/r").json()["accounts"]}
    assert list(accounts) == ["trainer-0/train", "trainer-0/rollout"]
    layers = {layer["name"]: layer["y"] for layer in accounts["trainer-0/train"]["layers"]}
    assert list(layers) == ["train.backward", "train.forward", "publish", "wait.batch", "other"]
    assert [round(sum(column), 6) for column in zip(*layers.values(), strict=True)] == [2.0, 2.0]
    assert accounts["trainer-0/train"]["wall_s"] == 4.0


def test_rows_of_one_step_add_up_and_a_repeated_step_counts_once(client: TestClient, write_run: WriteRun) -> None:
    path = write_run("r", 3, asked=3)
    before = [ledger(step, "train", {"train.forward": 9.0}) for step in (1, 2, 3)]
    after = [ledger(step, "train", {"train.forward": 1.0}) for step in (2, 3, 3)]  # resumed after step 1
    append(path, [*before, *after])
    (account,) = client.get("/api/runs/r").json()["accounts"]
    assert account["x"] == [1.0, 2.0, 3.0]
    assert account["layers"][0]["y"] == [9.0, 1.0, 2.0]


def test_lanes_are_those_of_the_ledger(client: TestClient, write_run: WriteRun) -> None:
    path = write_run("r", 3, asked=3)
    append(path, [ledger(step, "train", TRAIN) for step in (1, 2, 3)])
    timeline = client.get("/api/runs/r").json()["timeline"]
    (lane,) = timeline["lanes"]
    assert lane["name"] == "train"
    assert lane["spans"][0] == ["wait.batch", 0.0, 0.5]
    assert [step["step"] for step in timeline["steps"]] == [1, 2, 3]
    append(path, [ledger(3, "rollout", ROLLOUT, process="worker-0")])
    names = [lane["name"] for lane in client.get("/api/runs/r").json()["timeline"]["lanes"]]
    assert names == ["trainer-0 train", "worker-0 rollout"]


@pytest.mark.parametrize(
    "lane", ["", "[", "7", "[[1]]", '[["a", "b", 1]]', '[["a", 0, -1]]', '[["a", 1e999, 1]]', 7, None]
)
def test_a_lane_of_another_kind_is_left_out(client: TestClient, write_run: WriteRun, lane: object) -> None:
    path = write_run("r", 3, asked=3)
    append(path, [{**ledger(step, "train", TRAIN), "lane": lane} for step in (1, 2, 3)])
    names = [lane["name"] for lane in client.get("/api/runs/r").json()["timeline"]["lanes"]]
    assert names == ["train", "rollout"]  # from the steps and rollouts


def test_a_run_without_a_ledger_has_no_advice_and_says_why(client: TestClient, write_run: WriteRun) -> None:
    write_run("r")
    assert client.get("/api/runs/r/advice").json() == {
        "complaints": [],
        "shares": [],
        "note": "run 'r': its events have no ledger, as those of older versions; train it again",
    }
    assert "no such run" in client.get("/api/runs/s/advice").json()["note"]


def test_damaged_events_have_no_advice(client: TestClient, write_run: WriteRun) -> None:
    path = write_run("r", 2, asked=2)
    append(path, [{**ledger(1, "train", TRAIN), "step": "<b>"}])
    answer = client.get("/api/runs/r/advice")
    assert answer.status_code == 200
    assert answer.json()["shares"] == []


def healthy_run(home: Home, **changes: Any) -> None:
    """Three steps of two seconds that take turns with their rollouts."""
    path = home.events / "r.jsonl"
    path.parent.mkdir(parents=True)
    append(path, [event("run_started", 0.0, preset="tiny", environment="x", num_steps=3, max_policy_lag_steps=0)])
    for step in (1, 2, 3):
        trained = event("train_step", 2.0 * step, step=step, **{**HEALTHY, **changes})
        append(path, [ledger(step, "rollout", ROLLOUT), trained, ledger(step, "train", TRAIN)])


def test_advice_is_that_of_explain(home: Home, client: TestClient) -> None:
    """Of 1.9 s per step 1.2 decode; without backward passes a step would take 1.2 s."""
    healthy_run(home)
    answer = client.get("/api/runs/r/advice").json()
    assert (answer["complaints"], answer["note"]) == ([], "")
    assert [share["span"] for share in answer["shares"]] == ["sample.decode", "train.backward", "train.forward"]
    backward = answer["shares"][1]
    assert (round(backward["share"], 3), round(backward["bound"], 3)) == (0.368, round(1.9 / 1.2, 3))
    assert backward["judge"] == "grpo bench --phase 3"


def test_an_unhealthy_run_has_complaints_and_no_advice(home: Home, client: TestClient) -> None:
    healthy_run(home, advantage_abs_mean=0.0)
    answer = client.get("/api/runs/r/advice").json()
    assert answer["shares"] == []
    assert "nothing is learned" in answer["complaints"][0]["what"]
    assert "make the task easier" in answer["complaints"][0]["remedy"]
