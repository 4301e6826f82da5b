"""A configuration as the arguments of ``grpo train``, for processes that this one starts."""

from __future__ import annotations

from grpo_core.config.run import GrpoConfig
from grpo_core.config.values import toml_text


def train_arguments(config: GrpoConfig, *, resume: bool) -> list[str]:
    """Arguments of ``grpo`` that train with exactly ``config``: no default is left to the process that reads them."""
    settings = [
        f"--set={section}.{key}={toml_text(value)}"
        for section, values in config.model_dump(mode="json", exclude={"run"}).items()
        for key, value in values.items()
    ]
    return ["train", "--run", config.run, *(["--resume"] if resume else []), *settings]
