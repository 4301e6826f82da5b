"""A configuration as the arguments of ``grpo train``, for processes that this one starts."""

from __future__ import annotations

import json
from typing import Any

from grpo_core.config.run import GrpoConfig


def train_arguments(config: GrpoConfig, *, resume: bool) -> list[str]:
    """Arguments of ``grpo`` that train with exactly ``config``: no default is left to the process that reads them."""
    settings = [
        f"--set={section}.{key}={_text(value)}"
        for section, values in config.model_dump(mode="json", exclude={"run"}).items()
        for key, value in values.items()
    ]
    return ["train", "--run", config.run, *(["--resume"] if resume else []), *settings]


def _text(value: Any) -> str:
    """Scalars and lists have the same syntax in JSON and TOML. What is not set is no text."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)
