"""Slowdowns to plant in a copy of the product: a function takes a given share of its own time longer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PLANT = """

def _planted(function):
    import functools
    import time

    @functools.wraps(function)
    def slower(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            end = time.perf_counter()
            while time.perf_counter() < end + {share} * (end - start):
                pass

    return slower


{owner}.{name} = _planted({owner}.{name})
"""

UNRELATED = "\n# A line that changes nothing.\n"
"""Added to every file of the product, so that the same code is not known to be the same."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """A slower function, and the row that must show it."""

    place: str
    file: str
    owner: str
    """The class, or the module alias, whose attribute is replaced."""
    function: str
    phase: int
    test: str
    """For ``-k``."""
    metric: str

    def plant(self, root: Path, share: float) -> None:
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        path.write_text(text + PLANT.format(share=share, owner=self.owner, name=self.function), encoding="utf-8")


_BATCH, _SWAP, _FORWARD = "a_batch_beats", "cached_adapter", "forward_takes_about"
_ENGINE, _DECODING = "grpo_core/rollout/torch_engine/engine.py", "grpo_core/rollout/torch_engine/decoding.py"
_CACHE, _COLLECTOR = "grpo_core/lora/cache.py", "grpo_core/rollout/play/collector.py"
_TRAINER = "grpo_core/training/trainer.py"

SLOWDOWNS = (
    Slowdown("sampler", _ENGINE, "TorchEngine", "step", 2, _BATCH, "batched.tokens_per_second"),
    Slowdown("decoding", _DECODING, "Decoding", "advance", 2, _BATCH, "single.tokens_per_second"),
    Slowdown("prefill", _ENGINE, "TorchEngine", "_read_part", 5, "raise_tokens_per_second", "full.tokens_per_second"),
    Slowdown("adapter from disk", _CACHE, "LoRACache", "_load", 2, _SWAP, "cold.loads_per_second"),
    Slowdown("adapter from memory", _CACHE, "LoRACache", "get", 2, _SWAP, "cached.loads_per_second"),
    Slowdown("loss forward", _TRAINER, "Trainer", "_forward", 3, _FORWARD, "step.loss_forward_ms"),
    Slowdown("backward", _TRAINER, "torch.Tensor", "backward", 3, _FORWARD, "step.backward_ms"),
    Slowdown("training step", _TRAINER, "Trainer", "step", 3, _FORWARD, "step.tokens_per_second"),
    Slowdown("opening", _COLLECTOR, "Collector", "start", 2, "warm_start", "cold.seconds"),
    Slowdown("rollouts of the loop", _COLLECTOR, "Collector", "collect", 4, "whole_steps", "steps.tokens_per_second"),
)


def add_unrelated_lines(root: Path) -> None:
    """Change every file of the product, and nothing that it does."""
    for path in sorted((root / "grpo_core").rglob("*.py")):
        path.write_text(path.read_text(encoding="utf-8") + UNRELATED, encoding="utf-8")
