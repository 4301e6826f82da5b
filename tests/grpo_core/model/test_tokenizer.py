from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from grpo_core.errors import ModelError
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer, num_tokenizer_calls
from tests.grpo_core.model.broken_models import copy_of, edit_json, one_line


def test_the_tokenizer_round_trips_and_adds_nothing(tokenizer: Tokenizer) -> None:
    text = "A PAR - BUR\nF BRE H\nQ: 3 + 4 =\nA: é"
    ids = tokenizer.encode(text)

    assert ids.dtype == np.int32
    assert tokenizer.stop_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.stop_id]) == text


def test_tokenizer_calls_are_counted_per_thread(tokenizer: Tokenizer) -> None:
    before = num_tokenizer_calls()
    elsewhere: list[int] = []

    def call_three_times() -> None:
        tokenizer.decode(tokenizer.encode("a"))
        tokenizer.encode("b")
        elsewhere.append(num_tokenizer_calls())

    thread = threading.Thread(target=call_three_times)
    thread.start()
    thread.join()
    tokenizer.encode("c")

    assert elsewhere == [3]
    assert num_tokenizer_calls() - before == 1


def test_a_folder_without_a_usable_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="no eos_token"):
        load_tokenizer(str(folder))

    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer") as error:
        load_tokenizer(str(folder))
    one_line(error)

    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load_tokenizer(str(folder))
    assert "tokenizer" not in one_line(error)


def test_a_hub_id_without_a_hub_is_not_blamed_on_its_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="check the id, or the connection to the hub") as error:
        load_tokenizer("no-such-owner/no-such-model")
    assert "tokenizer" not in one_line(error)
