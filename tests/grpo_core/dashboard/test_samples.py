from __future__ import annotations

import json
import math
from pathlib import Path

from grpo_core.dashboard.samples import samples_json
from grpo_core.home import Home
from grpo_core.model.tokenizer import Tokenizer
from tests.grpo_core.dashboard.conftest import store_batch


def test_the_newest_batch_is_shown_as_text_with_its_rewards(
    home: Home, tokenizer: Tokenizer, model_folder: Path
) -> None:
    text = "Q: 1 + 2 =\n"
    ids = tokenizer.encode(text).tolist()
    store_batch(home, 3, [0.0], [1], [2])
    store_batch(home, 4, [0.0, 1.0, math.nan], ids, tokenizer.encode("3\n").tolist())
    shown = samples_json(home, "r", str(model_folder))
    json.dumps(shown, allow_nan=False)
    assert (shown["batch"], shown["note"]) == (4, "")
    (group,) = shown["groups"]
    assert [sibling["reward"] for sibling in group["siblings"]] == [0.0, 1.0, None]
    assert group["siblings"][1]["turns"][0]["prompt"] == text
    assert group["siblings"][1]["turns"][0]["answer"] == "3\n"


def test_without_a_tokenizer_the_ids_are_shown_and_why(home: Home) -> None:
    store_batch(home, 0, [1.0], [5, 6], [7, 8, 9])
    shown = samples_json(home, "r", "/no/such/model")
    assert shown["note"].startswith("Token ids instead of text: model '/no/such/model'")
    assert shown["groups"][0]["siblings"][0]["turns"][0]["answer"] == "7 8 9"


def test_a_damaged_batch_is_said(home: Home) -> None:
    path = store_batch(home, 0, [1.0], [5], [7])
    path.write_bytes(path.read_bytes()[:-40])
    shown = samples_json(home, "r", None)
    assert shown["groups"] == []
    assert "damaged" in shown["note"]


def test_no_batch_is_said(home: Home) -> None:
    assert "No batch of this run" in samples_json(home, "r", None)["note"]
