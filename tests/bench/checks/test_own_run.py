"""A run that cannot begin is one line: its environment is played once, its model measured by its configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3Config

from bench.checks.own_run import check_run, num_layer_and_head_weights
from grpo_core.config import GrpoConfig, build_config

GAME = """
from grpo_core.types import Observation

class Game:
    in_opening = False
    def reset(self, seed): self.is_over = False; {reset}
    @property
    def done(self): return self.is_over
    def observe(self):
        {observe}
        return () if self.is_over else (Observation("me", "Count:"),)
    def step(self, actions): self.is_over = True; {step}
    def rewards(self): {rewards}; return {{"me": 1.0}}
    def snapshot(self): {snapshot}; return {{"is_over": self.is_over}}
    def restore(self, snapshot): self.is_over = snapshot["is_over"]; {restore}

def make(config): {make}; return Game()
"""
PARTS = ("reset", "observe", "step", "rewards", "snapshot", "restore", "make")
RunWith = Callable[..., GrpoConfig]
BROKEN = "raise OSError('no board')"


@pytest.fixture
def with_game(tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> RunWith:
    """A run with a game, of which some parts have other code."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str = model_folder, engine: str = "torch", **parts: str) -> GrpoConfig:
        (tmp_path / "some_game.py").write_text(GAME.format(**dict.fromkeys(PARTS, "pass") | parts))
        monkeypatch.delitem(sys.modules, "some_game", raising=False)
        model = {"name": name, "device": "cpu"}
        return build_config({"model": model, "environment": {"name": "some_game:make"}, "rollout": {"engine": engine}})

    return write


def test_a_run_that_can_begin(with_game: RunWith) -> None:
    check_run(with_game(), "grpo_core")


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("reset", "reset()"),
        ("observe", "observe()"),
        ("snapshot", "snapshot() and restore()"),
        ("restore", "snapshot() and restore()"),
        ("step", "step() after restore()"),
        ("rewards", "rewards()"),
    ],
)
def test_an_environment_that_raises_is_one_line(with_game: RunWith, part: str, told: str) -> None:
    with pytest.raises(pytest.UsageError) as refused:
        check_run(with_game(**{part: BROKEN}), "grpo_core")
    assert str(refused.value) == f"environment 'some_game:make': {told} raises OSError: no board; correct it"


def test_a_factory_that_raises_is_one_line(with_game: RunWith) -> None:
    with pytest.raises(
        pytest.UsageError, match=r"^grpo: environment.name 'some_game:make': making one failed .*no board"
    ):
        check_run(with_game(make=BROKEN), "grpo_core")


def test_an_environment_in_which_nobody_acts(with_game: RunWith) -> None:
    with pytest.raises(pytest.UsageError, match=r"observe\(\) after reset\(0\) is empty"):
        check_run(with_game(observe="return ()"), "grpo_core")


def test_a_model_that_is_not_there(with_game: RunWith) -> None:
    with pytest.raises(pytest.UsageError, match=r"^grpo: model './none': no such preset or folder"):
        check_run(with_game(name="./none"), "grpo_core")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="it is installed")
def test_an_engine_that_is_not_installed_matters_where_it_is_used(with_game: RunWith) -> None:
    config = with_game(engine="vllm")
    with pytest.raises(pytest.UsageError, match=r"rollout.engine 'vllm' needs the package vllm"):
        check_run(config, "grpo_core")
    check_run(config, "my_stack:MyStack")


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_counts_only_where_a_loss_is(is_tied: bool, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    sizes |= {"num_key_value_heads": 1, "num_hidden_layers": 2, "head_dim": 16}
    config = Qwen3Config(vocab_size=1000, tie_word_embeddings=is_tied, **sizes)
    config.save_pretrained(tmp_path)
    layer = 32 * (2 + 1 + 1) * 16 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 16 + 2 * 32  # projections, MLP, norms
    assert num_layer_and_head_weights(str(tmp_path)) == (2 * layer + 32, 32_000)
