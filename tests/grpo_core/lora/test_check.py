"""An adapter that does not fit the model is one line that says why, the same for every engine."""

from __future__ import annotations

import pytest
import torch

from grpo_core.errors import AdapterError
from grpo_core.lora.check import check_adapter
from grpo_core.types import Adapter, PolicyVersion

SHAPES = {"b.q_proj": (6, 4), "a.k_proj": (2, 4)}
ADAPTER = Adapter(
    version=PolicyVersion("run", 3),
    base_fingerprint="base",
    rank=2,
    alpha=4.0,
    target_modules=("q_proj", "k_proj"),
    tensors={
        "b.q_proj.lora_A.weight": torch.zeros(2, 4),
        "b.q_proj.lora_B.weight": torch.zeros(6, 2),
        "a.k_proj.lora_A.weight": torch.zeros(2, 4),
        "a.k_proj.lora_B.weight": torch.zeros(2, 2),
    },
)


def test_an_adapter_that_fits_names_its_modules_in_order() -> None:
    assert check_adapter(ADAPTER, "base", SHAPES, max_rank=2) == ["a.k_proj", "b.q_proj"]


@pytest.mark.parametrize(
    ("fingerprint", "shapes", "max_rank", "problem"),
    [
        ("other", SHAPES, None, "was trained on base model base, this one is other; use the adapter's own model"),
        ("base", SHAPES, 1, "has rank 2, the engine was started for at most 1; start it with a larger max_lora_rank"),
        ("base", {"a.k_proj": (2, 4)}, None, r"the model has no linear module 'b.q_proj'; retrain it"),
        ("base", SHAPES | {"b.q_proj": (6, 5)}, None, r"b.q_proj has shape \(6, 4\), the model \(6, 5\)"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(
    fingerprint: str, shapes: dict[str, tuple[int, int]], max_rank: int | None, problem: str
) -> None:
    with pytest.raises(AdapterError, match=rf"^adapter run-v000003:? {problem}") as raised:
        check_adapter(ADAPTER, fingerprint, shapes, max_rank=max_rank)

    assert "\n" not in str(raised.value)
