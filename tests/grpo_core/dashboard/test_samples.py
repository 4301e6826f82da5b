from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_core.dashboard.samples import samples_json
from grpo_core.home import Home
from grpo_core.model.tokenizer import Tokenizer
from tests.grpo_core.dashboard.conftest import store_samples


def test_the_newest_step_is_shown_with_its_rewards(home: Home, tokenizer: Tokenizer) -> None:
    store_samples(home, tokenizer, 1, [0.0], "old", "old")
    store_samples(home, tokenizer, 10, [0.0, 1.0, math.nan], "Q: 1 + 2 =\n", "3\n")
    shown = samples_json(home, "r")
    json.dumps(shown, allow_nan=False)
    assert (shown["step"], shown["note"]) == (10, "")
    (group,) = shown["groups"]
    assert [sibling["reward"] for sibling in group["siblings"]] == [0.0, 1.0, None]
    assert group["siblings"][1]["turns"][0]["prompt"] == "Q: 1 + 2 =\n"
    assert group["siblings"][1]["turns"][0]["answer"] == "3\n"


def test_a_damaged_file_is_said(home: Home, tokenizer: Tokenizer) -> None:
    path = store_samples(home, tokenizer, 1, [1.0], "a", "b")
    for content in (path.read_bytes()[:-40], b""):
        path.write_bytes(content)
        shown = samples_json(home, "r")
        assert shown["groups"] == []
        assert "cannot be read" in shown["note"]


def test_a_file_of_another_program_is_said(home: Home, tokenizer: Tokenizer) -> None:
    path = store_samples(home, tokenizer, 1, [1.0], "a", "b")
    table = pq.read_table(path)
    words = table.set_column(table.schema.get_field_index("reward"), "reward", pa.array(["much"]))
    for other in (table.drop_columns("prompt"), words):
        pq.write_table(other, path)
        assert "cannot be read" in samples_json(home, "r")["note"]


def test_no_samples_is_said(home: Home) -> None:
    assert "No samples of this run" in samples_json(home, "r")["note"]
