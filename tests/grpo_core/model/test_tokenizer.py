from __future__ import annotations

import json
import logging
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
    edit_json(folder / "generation_config.json", eos_token_id=None)
    edit_json(folder / "config.json", eos_token_id=None)
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


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ([7, 0, 9], 0, (0, 7, 9)),  # as Llama 3 has it: the end of a text, of a turn and of a message
        (7, 5, (0, 7)),
        (None, [5, 6], (0, 5, 6)),  # transformers then takes config.json's
        (None, None, (0,)),
    ],
)
def test_the_ids_at_which_the_model_stops_are_stop_ids(
    generation: object, config: object, expected: tuple[int, ...], model_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "generation_config.json", eos_token_id=generation)
    edit_json(folder / "config.json", eos_token_id=config)

    tokenizer = load_tokenizer(str(folder))

    assert tokenizer.stop_ids == expected
    assert tokenizer.stop_id == 0


def test_without_a_generation_configuration_the_models_own_counts(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", eos_token_id=[3, 4])

    assert load_tokenizer(str(folder)).stop_ids == (0, 3, 4)


def test_a_tokenizer_without_an_end_takes_the_models(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    edit_json(folder / "generation_config.json", eos_token_id=[7, 9])

    assert load_tokenizer(str(folder)).stop_id == 7


def test_a_broken_generation_configuration_is_one_line(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text("{")

    with pytest.raises(ModelError, match=r"generation_config\.json.*; fix or remove that file") as error:
        load_tokenizer(str(folder))
    one_line(error)


def test_a_newer_tokenizer_file_is_one_line(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "tokenizer.json", model={"type": "NextYears"})

    with pytest.raises(ModelError, match="newer version of tokenizers") as error:
        load_tokenizer(str(folder))
    one_line(error)


@pytest.mark.parametrize(
    ("adds", "setting", "expected"),
    [(True, None, [384]), (False, None, []), (True, False, []), (False, True, [384])],
)
def test_a_prompt_begins_as_the_model_was_trained(
    adds: bool, setting: bool | None, expected: list[int], model_folder: Path, tmp_path: Path
) -> None:
    """As Llama's do; a text that begins so already, as a chat template's, gets no second one."""
    folder = copy_of(model_folder, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    begin = {"id": 384, "content": "<begin>", "special": True, "normalized": False}
    content["added_tokens"].append(begin | {"single_word": False, "lstrip": False, "rstrip": False})
    if adds:
        special = {"id": "<begin>", "ids": [384], "tokens": ["<begin>"]}
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<begin>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<begin>": special},
        }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    edit_json(folder / "tokenizer_config.json", bos_token="<begin>")

    tokenizer = load_tokenizer(str(folder), add_bos=setting)

    plain = tokenizer.encode("Q: 1").tolist()
    assert tokenizer.encode_prompt("Q: 1").tolist() == [*expected, *plain]
    assert tokenizer.encode_prompt("<begin>Q: 1").tolist() == [384, *plain]


def test_a_beginning_that_the_tokenizer_does_not_have_is_one_line(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="add_bos with a tokenizer without a bos_token") as error:
        load_tokenizer(str(model_folder), add_bos=True)
    one_line(error)


def test_a_text_keeps_its_blanks_before_punctuation(model_folder: Path, tmp_path: Path) -> None:
    """Llama 3's files ask for a clean-up that would take them away, or for a warning at each load."""
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", clean_up_tokenization_spaces=True)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        tokenizer = load_tokenizer(str(folder))
        assert tokenizer.decode(tokenizer.encode("A , b . c ' s")) == "A , b . c ' s"
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert said == []
