"""Programs of the tests, which ask as any client of OpenAI's API does, and a template for chats."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from grpo_core.model.presets import preset_folder

SHORT = [
    "--device",
    "cpu",
    "--groups",
    "1",
    "--samples",
    "2",
    "--steps",
    "1",
    "--set",
    "rollout.max_completion_tokens=4",
]
"""Flags of a run that ends soon."""

TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chat_model(folder: Path) -> str:
    """The folder of a model with a chat template."""
    model = shutil.copytree(preset_folder("tiny"), folder / "chat_model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    return str(model)


def ask(base_url: str, *contents: str, **more: Any) -> str:
    """The answer to a chat whose user and assistant said ``contents`` in turns."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    body = json.dumps({"model": "policy", "messages": messages, **more}).encode()
    try:
        with urlopen(Request(f"{base_url}/chat/completions", body, {"Content-Type": "application/json"})) as answer:
            return json.loads(answer.read())["choices"][0]["message"]["content"]
    except HTTPError as error:
        error.close()
        raise ConnectionAbortedError(f"the server answers {error.code}") from None


def guess(base_url: str, task: int) -> float:
    """Ask until ``task`` is guessed, three times at most."""
    said = ["Guess."]
    for num in range(1, 4):
        answer = ask(base_url, *said)
        if answer == str(task):
            return 1 / num
        said += [answer, "No."]
    return 0.0


async def guess_while_others_do(base_url: str, task: int) -> float:
    return await asyncio.to_thread(guess, base_url, task)
