"""docs/training.md names every choice of the objective, and its command is one that the CLI takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from grpo_core.cli import _parser
from grpo_core.commands.command_line.options import config_from_flags
from grpo_core.config import TrainingConfig

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
CHOICES = ("method", "loss", "advantages", "kl_estimator", "kl_in", "old_logprobs", "mismatch_correction")


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_described(key: str) -> None:
    named = set(re.findall(r"`\"?([a-z0-9_]+)\"?`|\"(recomputed|sampling)\"", PAGE))
    found = {name for pair in named for name in pair if name}
    if key == "kl_in":
        assert "- `loss`:" in PAGE
        assert "- `reward`:" in PAGE
    assert set(get_args(TrainingConfig.model_fields[key].annotation)) - {"none"} <= found


def test_its_settings_are_allowed() -> None:
    configs = []
    for command in re.findall(r"\$ (uv run grpo train (?:.*\\\n)*.*)", PAGE):
        words = shlex.split(command.replace("\\\n", " "))
        if any("--set" in word for word in words):
            configs.append(config_from_flags(_parser().parse_args(words[3:]), {}, "run"))

    assert [config.training.loss for config in configs] == ["gspo", *["dapo"] * 4]
    assert [config.rollout.max_refill_rounds for config in configs] == [0, 4, 0, 0, 0]
    assert [config.training.method for config in configs] == ["lora", "lora", "full", "lora", "lora"]
    assert configs[3].training.betas == (0.9, 0.95)
    assert (configs[4].training.updates_per_batch, configs[4].training.mini_batches) == (4, 2)
    assert configs[0].training.clip_high == 4e-4
