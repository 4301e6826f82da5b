"""What clients send, in the words of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from grpo_core.environments.agents.messages import read_messages
from grpo_core.types import MAX_TEMPERATURE

MAX_ANSWERS = 64
MAX_STOPS = 16
MAX_STOP_LETTERS = 1024
GREEDY = 0.0


NotSupported = Annotated[None, BeforeValidator(lambda value: value or None)]
"""May be there with a value that changes nothing: 0, or empty."""


_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LETTERS)]


def _as_stops(value: Any) -> Any:
    """One text stands for a list of one."""
    if isinstance(value, list):
        return tuple(value)
    return () if value is None else (value,) if isinstance(value, str) else value


class Body(BaseModel):
    """What both kinds of completion have. A field that is not supported is an error where it would change the answer,
    and ignored elsewhere."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: str = ""
    n: int = Field(default=1, ge=1, le=MAX_ANSWERS)
    temperature: Annotated[float, Field(ge=GREEDY, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    seed: int | None = None
    stream: bool | None = None
    return_token_ids: bool = False
    """As vLLM: ``prompt_token_ids`` and each choice's ``token_ids``."""

    stop: Annotated[tuple[_Stop, ...], BeforeValidator(_as_stops), Field(max_length=MAX_STOPS)] = ()
    frequency_penalty: NotSupported = None
    presence_penalty: NotSupported = None
    logit_bias: NotSupported = None
    response_format: Annotated[
        None, BeforeValidator(lambda value: None if value in (None, {"type": "text"}) else value)
    ] = None


class ChatBody(Body):
    messages: Annotated[list[dict[str, Any]], AfterValidator(read_messages)]
    tools: list[dict[str, Any]] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Literal[0] | None = None


class TextBody(Body):
    prompt: str | list[Annotated[int, Field(ge=0, lt=2**31)]]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None
    echo: Literal[False] | None = None
