"""A configuration as the arguments of ``grpo train``, for processes that this one starts."""

from __future__ import annotations

import json

from grpo_core.config.run import GrpoConfig


def train_arguments(config: GrpoConfig, *, resume: bool) -> list[str]:
    """Arguments of ``grpo`` that train with exactly ``config``: no default is left to the process that reads them."""
    settings = [
        f"--set={section}.{key}={json.dumps(value)}"  # scalars and lists have the same syntax in JSON and TOML
        for section, values in config.model_dump(mode="json", exclude={"run"}).items()
        for key, value in values.items()
        if value is not None
    ]
    return ["train", "--run", config.run, *(["--resume"] if resume else []), *settings]
