from __future__ import annotations

import json

from pytest_grpo.logs.comparing import compare_runs
from pytest_grpo.logs.judging import Judged, judge_run
from pytest_grpo.logs.reports.exports import as_json, as_markdown
from pytest_grpo.logs.settled import settle
from pytest_grpo.logs.vocabulary.quantities import REWARD, STEP, part
from tests.pytest_grpo.logs.made_runs import run_of, times, waves

GEN = part("gen")


def judged(name: str = "run|1.jsonl") -> Judged:
    step_s = [value * (1.3 if place >= 100 else 1) for place, value in enumerate(times(200))]
    step_s[40] = 30.0
    return judge_run(run_of({STEP: step_s, REWARD: waves(200), GEN: times(200, level_s=1.0)}, name=name), 3, 0.02)


def test_json_has_every_finding_and_no_number_that_is_none() -> None:
    found = json.loads(as_json(judged(), None))
    assert found["is_bad"]
    assert found["run"]["warm_up_steps"] == [1, 2, 3]
    step, reward = found["headlines"]
    assert (step["verdict"], step["change"], step["change_per_100_steps"]) == ("shifts", None, None)
    assert abs(step["shifts"][0]["step"] - 101) <= 2
    assert reward["level"]["low"] is None
    assert "in a row are alike" in reward["reason"]
    assert found["stalls"] == [
        {"quantity": "step_s", "steps": [41], "factor": found["stalls"][0]["factor"], "every": None, "part": None}
        | {"cost": found["stalls"][0]["cost"]}
    ]
    assert set(found["shares"]) == {"gen_s"}
    assert found["against"] is None


def test_json_of_a_comparison() -> None:
    here = judged()
    there = settle(run_of({STEP: times(200, seed=1)}, name="before"), 3)
    found = json.loads(as_json(here, compare_runs(here.settled, there, [STEP], 0.02, 0.05)))["against"]
    assert (found["run"]["name"], found["num_steps"], found["run_spread"]) == ("before", 197, 0.05)
    assert found["differences"][0]["quantity"] == "step_s"
    assert found["stall_costs"][0] > found["stall_costs"][1]


def test_markdown_has_the_tables_and_what_is_markup_in_a_name_is_escaped() -> None:
    here = judged()
    there = settle(run_of({STEP: times(200, seed=1)}, name="before"), 3)
    text = as_markdown(here, compare_runs(here.settled, there, [STEP], 0.02, 0.05))
    lines = text.splitlines()
    assert lines[0].startswith("- run\\|1.jsonl: events of grpo\\_core")
    assert "| quantity | level | over 196 steps | verdict |" in lines
    assert "| part of step\\_s | share | level | over 196 steps | verdict |" in lines
    assert "| quantity | here | there | change | verdict |" in lines
    assert any("Two runs are no paired measurement" in line for line in lines)
