"""The server: routes of OpenAI's API, on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from grpo_core.config import GrpoConfig
from grpo_core.errors import GrpoError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.protocol import GenerationRequest, LocalEngine
from grpo_core.rollout.streaming import StreamingEngine
from grpo_core.serving.access import Access
from grpo_core.serving.answers import Writer, failure
from grpo_core.serving.bodies import Body, ChatBody, TextBody
from grpo_core.serving.service import Record, Service
from grpo_core.serving.stops import Stops
from grpo_core.types import Completion, Message

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 16 << 20
_CLIENT_GONE = 499  # as nginx has it: nobody reads this answer
Value = TypeVar("Value")
AnyBody = TypeVar("AnyBody", bound=Body)


class _BadRequestError(Exception):
    """A body that is refused, with the reason."""


def make_app(
    config: GrpoConfig, engine: LocalEngine, tokenizer: Tokenizer, name: str, key: str | None, record: Record
) -> Starlette:
    """The application. ``name`` is the model's; with ``key`` only who has it may ask."""
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with StreamingEngine(engine) as streaming:
            app.state.service = Service(config, streaming, tokenizer, record)
            yield

    async def models(_: Request) -> Response:
        listed = {"id": name, "object": "model", "created": created, "owned_by": "grpo"}
        return JSONResponse({"object": "list", "data": [listed]})

    async def chat(request: Request) -> Response:
        service: Service = request.app.state.service
        body = await _read(request, ChatBody)
        requests, messages = service.chat(body)
        writer = _writer("chat.completion", name, tokenizer, body, with_logprobs=bool(body.logprobs))
        return await _answered(request, service, writer, body, requests, messages)

    async def text(request: Request) -> Response:
        service: Service = request.app.state.service
        body = await _read(request, TextBody)
        writer = _writer("text_completion", name, tokenizer, body, with_logprobs=body.logprobs is not None)
        return await _answered(request, service, writer, body, service.text(body), None)

    routes = [
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Access, key=key)],
        lifespan=lifespan,
        exception_handlers={
            GrpoError: _refused,
            _BadRequestError: _refused,
            ClientDisconnect: _gone,
            404: _unknown,
            405: _unknown,
        },
    )


def _writer(kind: Any, name: str, tokenizer: Tokenizer, body: Body, *, with_logprobs: bool) -> Writer:
    identity = f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{secrets.token_hex(12)}"
    return Writer(
        kind,
        identity,
        name,
        tokenizer,
        with_calls=isinstance(body, ChatBody) and bool(body.tools),
        with_logprobs=with_logprobs,
        with_ids=body.return_token_ids,
        stops=Stops(body.stop),
    )


async def _read(request: Request, kind: type[AnyBody]) -> AnyBody:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BODY_BYTES:
            raise _BadRequestError(f"a body of more than {_MAX_BODY_BYTES} bytes")
    try:
        return kind.model_validate_json(bytes(content))
    except ValidationError as error:
        deepest = max(error.errors(include_url=False, include_input=False), key=lambda each: len(each["loc"]))
        if deepest["type"] == "value_error":  # it names its field
            raise _BadRequestError(deepest["msg"].removeprefix("Value error, ")) from None
        field = ".".join(str(part) for part in deepest["loc"])
        reason = "not supported; leave it out" if deepest["type"] == "none_required" else deepest["msg"]
        raise _BadRequestError(f"{field}: {reason}" if field else reason) from None


async def _answered(
    request: Request,
    service: Service,
    writer: Writer,
    body: Body,
    requests: Sequence[GenerationRequest],
    messages: list[Message] | None,
) -> Response:
    if body.stream:
        events = _events(service, writer, requests, messages)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    completions = await _while_connected(request, service.complete(requests, writer.stops))
    service.keep(writer.identity, completions, writer.stops, messages)
    return JSONResponse(writer.whole(completions))


async def _events(
    service: Service,
    writer: Writer,
    requests: Sequence[GenerationRequest],
    messages: list[Message] | None,
) -> AsyncIterator[str]:
    texts = [_Text(service.tokenizer, writer.stops) for _ in requests]
    found: dict[int, Completion] = {}
    try:
        async with aclosing(service.stream(requests, writer.stops)) as items:
            async for number, item in items:
                text = texts[number].added(item.tokens, is_last=item.completion is not None)
                if text and not writer.with_calls:
                    yield writer.part(number, text)
                if item.completion is not None:
                    found[number] = item.completion
                    yield writer.last_part(number, item.completion)
    except GrpoError as error:
        yield f"data: {json.dumps(failure(str(error)))}\n\n"
        return
    completions = [found[number] for number in sorted(found)]
    service.keep(writer.identity, completions, writer.stops, messages)
    for event in writer.end(completions):
        yield event


class _Text:
    """The text of tokens that come one after the other, in whole characters."""

    def __init__(self, tokenizer: Tokenizer, stops: Stops) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._ids: list[int] = []
        self._text = ""

    def added(self, tokens: Sequence[int], *, is_last: bool) -> str:
        """What ``tokens`` add to the text."""
        self._ids += tokens
        whole = self._tokenizer.decode(self._ids)
        text = self._stops.before(whole) if is_last else self._stops.settled(whole)
        if not is_last and (text.endswith("\ufffd") or not text.startswith(self._text)):
            return ""
        added, self._text = text[len(self._text) :], text
        return added


async def _while_connected(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """What ``work`` returns. It is cancelled when the client goes.

    Raises:
        ClientDisconnect: it went.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await _first_error(task)
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _first_error(task: asyncio.Task[Value]) -> Value:
    try:
        return await task
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse(failure(str(error)), 400)


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _unknown(request: Request, _: Exception) -> Response:
    allowed = "GET /v1/models, POST /v1/chat/completions and POST /v1/completions"
    return JSONResponse(failure(f"no {request.method} {request.url.path} here; allowed are {allowed}"), 404)
