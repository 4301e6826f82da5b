"""bench/reference is right, imports torch alone, and is frozen."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bench.plain import plain_model, reference_rollout, reference_step
from bench.reference.adamw import AdamW, clipped, norm
from bench.reference.loss import Answer, token_logprobs
from bench.reference.model import Model
from bench.reference.rollout import sample
from bench.reference.step import train_step
from pytest_grpo.systems.protocol import SystemSettings

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "reference"
FROZEN = {
    "__init__.py": "549613973fb5e5e4bafb919da843dbd8f1a660dbe125d93a3d03e78c782a83c9",
    "adamw.py": "8e9caf13107f86b516c994b222380c4ae286fa1dc596fec0517b9218695bc1c4",
    "loss.py": "951ffb50a443a311f2eaeae50acbd194a53d49707a557f9dd1b887db6fe5a936",
    "model.py": "f9bb934f26db87d86de7bf9c38ead4e971067b8870f1a09d602d864038b158a5",
    "rollout.py": "73c2d4913360807f658214985e443760dc5178fd4b81c48dc8fbfbd11b26d2a2",
    "step.py": "e29a3f8b4dee80891990860d87d2de25986bd4f47d5975b00b806cb9d0709c96",
}
"""sha256 of each file. A change here makes results before and after it incomparable."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_reference_is_frozen() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.py")} == FROZEN


def test_the_reference_imports_torch_alone() -> None:
    standard = {"__future__", "collections.abc", "dataclasses"}
    found = {name for path in FOLDER.glob("*.py") for name in imports(path)} - standard
    assert found == {"torch", "torch.nn"}


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return plain_model(SystemSettings(home=tmp_path, device="cpu"), {}, torch.float64)


@pytest.fixture
def adapted(base: Model, tmp_path: Path) -> Model:
    """With an adapter on one module of each layer."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (16, 256), "lora_B": (128, 16)}
    adapter = {
        f"model.layers.{layer}.self_attn.v_proj.{part}.weight": (0.1 * torch.randn(shape, generator=draw)).numpy()
        for layer in range(base.sizes.num_layers)
        for part, shape in shapes.items()
    }
    return plain_model(SystemSettings(home=tmp_path, device="cpu"), adapter, torch.float64)


def test_its_logits_are_those_of_transformers(base: Model) -> None:
    from transformers import AutoModelForCausalLM

    from grpo_core.model.source import locate_model

    theirs = AutoModelForCausalLM.from_pretrained(locate_model("tiny"), dtype=torch.float64)
    ids = torch.randint(0, 2048, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(base.logits(base.hidden(ids)), expected, rtol=1e-5, atol=1e-5)


def test_its_optimizer_is_that_of_torch() -> None:
    draw = torch.Generator().manual_seed(2)
    mine = {"a": torch.randn(3, 4, generator=draw), "b": torch.randn(5, generator=draw)}
    theirs = {name: weight.clone().requires_grad_() for name, weight in mine.items()}
    adamw, other = AdamW(weight_decay=0.1), torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        gradients = {name: torch.randn(weight.shape, generator=draw) for name, weight in mine.items()}
        for name, weight in theirs.items():
            weight.grad = gradients[name].clone()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        adamw.step(mine, clipped(gradients, 1.0), 1e-2)
        other.step()
    for name, weight in mine.items():
        torch.testing.assert_close(weight, theirs[name].detach())


def test_a_small_gradient_is_not_clipped() -> None:
    small, large = {"a": torch.tensor([0.3, 0.4])}, {"a": torch.tensor([3.0, 4.0])}
    torch.testing.assert_close(clipped(small, 1.0), small)
    assert float(norm(clipped(large, 1.0))) == pytest.approx(1.0)


def an_answer(num_prompt: int, num: int, advantage: float, seed: int) -> Answer:
    draw = torch.Generator().manual_seed(seed)
    logprobs = -5 - torch.rand(2, num, generator=draw, dtype=torch.float64)
    return Answer(
        prompt_ids=torch.randint(1, 2048, (num_prompt,), generator=draw),
        ids=torch.randint(1, 2048, (num,), generator=draw),
        is_chosen=torch.arange(num) != 1,
        sampling_logprobs=logprobs[0],
        ref_logprobs=logprobs[1],
        advantage=advantage,
    )


def test_padding_changes_nothing(adapted: Model) -> None:
    answers = [an_answer(4, 6, 1.0, 0), an_answer(7, 2, -1.0, 1), an_answer(2, 9, 0.5, 2)]
    alone = [token_logprobs(adapted, [answer])[0] for answer in answers]
    for one, together in zip(alone, token_logprobs(adapted, answers), strict=True):
        torch.testing.assert_close(one, together)
    options = {"learning_rate": 0.0, "clip": 0.2, "kl_coefficient": 0.1, "max_grad_norm": 1.0}
    steps = [train_step(adapted, AdamW(), answers, rows_per_pass=rows, **options) for rows in (None, 1)]
    assert steps[0].loss == pytest.approx(steps[1].loss)
    assert steps[0].grad_norm == pytest.approx(steps[1].grad_norm)


def test_its_samples_are_those_of_whole_passes(adapted: Model) -> None:
    prompt = torch.arange(5, 12)
    greedy = sample(adapted, prompt, 2, 6, None)
    ids = prompt.expand(2, -1)
    with torch.no_grad():
        for place in range(6):
            logits = adapted.logits(adapted.hidden(ids)[:, -1])
            assert torch.equal(logits.argmax(-1), greedy[:, place])
            ids = torch.cat([ids, greedy[:, place : place + 1]], dim=1)
    drawn = sample(adapted, prompt, 64, 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        likely = F.log_softmax(adapted.logits(adapted.hidden(prompt[None])[:, -1]), dim=-1)[0]
    assert float(likely[drawn].mean()) > float(likely.mean()), "what is drawn is likelier than what is not"


def test_the_arms_run() -> None:
    reference_rollout(group_size=2, num_tokens=2)()
    reference_step()()
