"""Chats with real tokenizers: the ids are those of ``apply_chat_template``, and what was sampled stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from grpo_core.config import RolloutConfig
from grpo_core.errors import ConfigError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.chat_prompts import ChatPrompts
from grpo_core.rollout.play.episode import ChatTurn
from grpo_core.types import Completion, Int32, Message
from tests.grpo_core.rollout.constraints.real_tokenizers import real_chat_tokenizer, tokenizers_folder

HARMONY = """{%- for message in messages -%}
<|start|>{{ message.role }}{{ '<|channel|>final' if message.role == 'assistant' }}<|message|>{{ message.content }}
{{- '<|return|>' if loop.last and message.role == 'assistant' and not add_generation_prompt else '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"""
"""The package of gpt-oss has no template; this one writes messages in its format."""
MODELS = {"qwen3": "<|im_end|>", "llama3_1": "<|eot_id|>", "gemma3": "<end_of_turn>", "gptoss": "<|return|>"}
ASKED: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]
MORE: list[Message] = [{"role": "user", "content": "And now?"}]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def backend(name: str, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return real_chat_tokenizer(name, tokenizers_folder(tmp_path_factory), HARMONY if name == "gptoss" else None)


@pytest.fixture
def prompts(backend: PreTrainedTokenizerBase) -> ChatPrompts:
    return ChatPrompts(Tokenizer(backend), RolloutConfig())


def templated(backend: PreTrainedTokenizerBase, messages: list[Message], **arguments: Any) -> list[int]:
    found = backend.apply_chat_template(
        [dict(message) for message in messages], add_generation_prompt=True, return_dict=False, **arguments
    )
    assert isinstance(found, list)
    return found  # type: ignore[return-value]


def sampled(prompt_ids: Int32, ids: list[int]) -> Completion:
    size = len(ids)
    zeros, chosen = np.zeros(size, dtype=np.float32), np.ones(size, dtype=np.bool_)
    return Completion(prompt_ids, np.array(ids, dtype=np.int32), chosen, zeros, 0, 1.0, "stop")


def test_the_first_prompt_is_that_of_the_template(backend: PreTrainedTokenizerBase, prompts: ChatPrompts) -> None:
    assert prompts.ids(ASKED, None).tolist() == templated(backend, ASKED)


def test_the_end_of_a_turn_ends_an_answer(name: str, backend: PreTrainedTokenizerBase, prompts: ChatPrompts) -> None:
    end = backend.convert_tokens_to_ids(MODELS[name])
    assert end in (*Tokenizer(backend).stop_ids, *prompts.stop_ids)


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_chat_goes_on_with_the_ids_that_were_sampled(
    name: str, backend: PreTrainedTokenizerBase, prompts: ChatPrompts, is_ended: bool
) -> None:
    first = prompts.ids(ASKED, None)
    header = backend.encode("<|channel|>final<|message|>" if name == "gptoss" else "", add_special_tokens=False)
    answer = [
        token for letter in "Fine, thanks." for token in backend.encode(letter, add_special_tokens=False)
    ]  # letter by letter: not the tokens that the text would have
    end = backend.encode(MODELS[name], add_special_tokens=False) if is_ended else []
    said = [*header, *answer, *end]
    text = backend.decode(said, skip_special_tokens=True)
    assert isinstance(text, str)
    turn = ChatTurn(ASKED, text, sampled(first, said))

    messages = [*ASKED, {"role": "assistant", "content": text}, *MORE]
    ids = prompts.ids(messages, turn).tolist()

    assert ids[: len(first) + len(said)] == [*first.tolist(), *said]
    # Written and read again it is the same text, but for gpt-oss, where another token ends a turn that goes on.
    if name != "gptoss":
        whole = templated(backend, messages)
        assert backend.decode(ids) == backend.decode(whole)
        assert ids != whole
    else:
        rest = backend.decode(ids[len(first) + len(said) :])
        assert rest == ("" if is_ended else "<|end|>") + "<|start|>user<|message|>And now?<|end|><|start|>assistant"


def test_another_history_is_rendered_anew(backend: PreTrainedTokenizerBase, prompts: ChatPrompts) -> None:
    first = prompts.ids(ASKED, None)
    turn = ChatTurn(ASKED, "Fine.", sampled(first, [5]))
    messages = [*ASKED, {"role": "assistant", "content": "Something else."}, *MORE]
    assert prompts.ids(messages, turn).tolist() == templated(backend, messages)


def test_template_arguments_reach_the_template(tmp_path_factory: pytest.TempPathFactory) -> None:
    backend = real_chat_tokenizer("qwen3", tokenizers_folder(tmp_path_factory), None)
    prompts = ChatPrompts(Tokenizer(backend), RolloutConfig(chat_template_arguments={"enable_thinking": False}))
    ids = prompts.ids(ASKED, None).tolist()
    assert ids == templated(backend, ASKED, enable_thinking=False) != templated(backend, ASKED)


def test_an_argument_that_the_template_does_not_read_is_refused(backend: PreTrainedTokenizerBase, name: str) -> None:
    """A slip of the pen would train with the default."""
    config = RolloutConfig(chat_template_arguments={"enable_thinkin": False})
    with pytest.raises(ConfigError, match=r"^rollout\.chat_template_arguments\.enable_thinkin: .*; it has ") as caught:
        ChatPrompts(Tokenizer(backend), config)
    known = {
        "qwen3": "it has enable_thinking;",
        "llama3_1": "it has none;",
        "gemma3": "it has none;",
        "gptoss": "it has none;",
    }
    assert known[name] in str(caught.value)


def test_an_argument_that_the_template_sets_where_it_is_not_given_is_taken(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """As Llama 3.1's own template has its ``date_string``."""
    dated = "{% if not day is defined %}{% set day = 'Monday' %}{% endif %}{{ day }}{% for m in messages %}"
    dated += "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    backend = real_chat_tokenizer("qwen3", tokenizers_folder(tmp_path_factory), dated)
    prompts = ChatPrompts(Tokenizer(backend), RolloutConfig(chat_template_arguments={"day": "Friday"}))
    assert prompts.ids(ASKED, None).tolist() == templated(backend, ASKED, day="Friday") != templated(backend, ASKED)
    for wrong in ("date", "m", "messages", "add_generation_prompt", "tokenize"):
        with pytest.raises(ConfigError, match=f"arguments.{wrong}: .* no such argument; it has day; leave it out"):
            ChatPrompts(Tokenizer(backend), RolloutConfig(chat_template_arguments={wrong: "Friday"}))
    own = RolloutConfig(chat_template_arguments={"chat_template": "{{ messages | map(attribute='content') | join }}!"})
    assert Tokenizer(backend).decode(ChatPrompts(Tokenizer(backend), own).ids(ASKED, None)) == "Be brief.How are you?!"
