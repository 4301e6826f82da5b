from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.errors import CheckpointError, HomeError
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.checkpoint.checkpoint import load_checkpoint, restore_trainer, save_checkpoint
from grpo_core.training.checkpoint.random_state import capture_random_state, restore_random_state
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]

TRAINING = {"learning_rate": 0.01, "kl_coefficient": 0.05}
CONFIG = {"run": "run", "training": TRAINING}


@pytest.fixture(scope="module")
def batches(
    make_engine_at: MakeEngine, sample_batch: SampleBatch, tmp_path_factory: pytest.TempPathFactory
) -> list[Batch]:
    engine = make_engine_at(tmp_path_factory.mktemp("adapters"))
    return [sample_batch(engine, seed, num_groups=2) for seed in range(6)]


@pytest.fixture(scope="module")
def trained_once(make_trainer: MakeTrainer, batches: list[Batch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    trainer = make_trainer(**TRAINING)
    for batch in batches[:3]:
        trainer.step(batch)
        save_checkpoint(folder, trainer, CONFIG)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 2 and 3."""
    return shutil.copytree(trained_once, tmp_path / "run")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"learning_rate_schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "betas": (0.8, 0.95)},
        {"optimizer": "muon", "learning_rate_schedule": "linear"},
        {"optimizer": "muon", "method": "full", "learning_rate": 1e-3, "weight_decay": 0.1},
        {"updates_per_batch": 4, "mini_batches": 2, "old_logprobs": "recomputed"},
    ],
)
def test_a_restored_trainer_goes_on_bit_for_bit(
    settings: dict[str, Any], make_trainer: MakeTrainer, batches: list[Batch], tmp_path: Path
) -> None:
    training = TRAINING | settings
    uninterrupted = make_trainer(num_steps=6, **training)
    expected = []
    for batch in batches:
        expected.append(uninterrupted.step(batch))
        if uninterrupted.version == 3:
            save_checkpoint(tmp_path / "run", uninterrupted, CONFIG)
    checkpoint = load_checkpoint(tmp_path / "run")
    trainer = make_trainer(num_steps=6, **training)
    restore_trainer(trainer, checkpoint)
    assert trainer.version == 3

    for batch, wanted in zip(batches[3:], expected[3:], strict=True):
        metrics = trainer.step(batch)
        assert (metrics.step, metrics.learning_rate, metrics.loss, metrics.kl, metrics.grad_norm) == (
            wanted.step,
            wanted.learning_rate,
            wanted.loss,
            wanted.kl,
            wanted.grad_norm,
        )
    one, other = trainer.weights().tensors, uninterrupted.weights().tensors
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert checkpoint.config == CONFIG


def test_without_the_optimizer_state_it_would_go_on_differently(
    make_trainer: MakeTrainer, batches: list[Batch], trained: Path
) -> None:
    """So the test above can fail."""
    checkpoint = load_checkpoint(trained)
    whole, bare = make_trainer(**TRAINING), make_trainer(**TRAINING)
    restore_trainer(whole, checkpoint)
    bare.load_weights(checkpoint.weights)
    for trainer in (whole, bare):
        trainer.step(batches[3])

    assert any(not torch.equal(value, bare.weights().tensors[name]) for name, value in whole.weights().tensors.items())


def test_a_changed_learning_rate_is_that_of_the_new_configuration(make_trainer: MakeTrainer, trained: Path) -> None:
    trainer = make_trainer(learning_rate=0.5)
    restore_trainer(trainer, load_checkpoint(trained))

    assert trainer.optimizer.param_groups[0]["lr"] == 0.5


def test_the_last_ones_are_kept(make_trainer: MakeTrainer, trained: Path) -> None:
    trainer = make_trainer(**TRAINING)
    restore_trainer(trainer, load_checkpoint(trained))
    for trainer.version in (999_998, 999_999, 1_000_000, 1_000_001):
        save_checkpoint(trained, trainer, CONFIG, keep_last=3)

    assert sorted(names(trained)) == ["step-1000000", "step-1000001", "step-999999"]
    assert load_checkpoint(trained).weights.version.number == 1_000_001


def test_the_position_and_the_random_numbers_go_on(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(**TRAINING)
    trainer.num_skipped_steps = 3
    rest = capture_random_state()
    random.seed(1)
    random.gauss(0, 1)  # keeps a second number for the next call, as numpy does
    np.random.seed(2)
    np.random.randn()
    torch.manual_seed(3)
    try:
        save_checkpoint(tmp_path / "run", trainer, CONFIG)
        expected = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()]
        checkpoint = load_checkpoint(tmp_path / "run")
        restore_random_state(checkpoint.random)
        found = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()]
    finally:
        restore_random_state(rest)
    other = make_trainer(**TRAINING)
    restore_trainer(other, checkpoint)

    assert found == expected
    assert (checkpoint.next_batch, other.num_skipped_steps) == (0, 3)


def test_the_newest_two_are_kept(trained: Path) -> None:
    assert names(trained) == ["step-000002", "step-000003"]
    for name in names(trained):
        assert names(trained / name) == [
            "adapter.safetensors",
            "optimizer.safetensors",
            "random.safetensors",
            "state.json",
        ]


def test_the_state_before_the_first_step_can_be_saved(
    make_trainer: MakeTrainer, batches: list[Batch], tmp_path: Path
) -> None:
    fresh, restored = make_trainer(**TRAINING), make_trainer(**TRAINING)
    assert save_checkpoint(tmp_path / "run", fresh, CONFIG) == tmp_path / "run/step-000000"
    restore_trainer(restored, load_checkpoint(tmp_path / "run"))

    assert restored.step(batches[0]).loss == fresh.step(batches[0]).loss


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
def test_a_damaged_newest_is_skipped_with_a_warning_that_names_it(
    file: str, damage: str, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained / "step-000003" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    else:  # one value of a tensor, or the braces of the JSON
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])

    with caplog.at_level(logging.WARNING, logger="grpo_core.training"):
        checkpoint = load_checkpoint(trained)

    assert checkpoint.weights.version.number == 2
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"checkpoint {trained / 'step-000003'} is damaged (")
    assert message.endswith("; using the one before it")
    if damage == "missing":
        assert f"({file} is missing)" in message
    elif file != "state.json":
        assert f"({file} does not match its checksum)" in message


@pytest.mark.parametrize("change", [{"step": 2}, {"rank": 5}, {"next_batch": 2}, {"format": 1}, {"seal": "0"}])
def test_a_changed_value_of_the_state_is_noticed(
    change: dict[str, object], trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained / "step-000003/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with caplog.at_level(logging.WARNING, logger="grpo_core.training"):
        assert load_checkpoint(trained).weights.version.number == 2
    assert "step-000003 is damaged (state.json does not match its checksum)" in caplog.text


def test_a_folder_under_another_steps_name_is_no_checkpoint(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(trained / "step-000002", trained / "step-000009")
    (trained / "step-000010").mkdir()  # empty
    (trained / "step-notes").mkdir()

    assert load_checkpoint(trained).weights.version.number == 3
    assert "step-000010 is damaged (state.json is missing)" in caplog.text
    assert "step-000009 is damaged (holds step 2)" in caplog.text


def test_nothing_to_resume_is_a_clear_error(trained: Path, tmp_path: Path) -> None:
    for name in names(trained):
        (trained / name / "state.json").write_text("[]")
    for folder in (trained, tmp_path / "never"):
        with pytest.raises(CheckpointError, match="nothing to resume; start without --resume") as error:
            load_checkpoint(folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 8}, "model.lora_rank is 4 there and 8 here"),
        ({"targets": ("q_proj",)}, r"model.lora_targets is \[.*'v_proj'\] there and \['q_proj'\] here"),
        ({"alpha": 4.0}, "model.lora_alpha is 8.0 there and 4.0 here"),
        ({"architecture": "qwen3"}, r"model.name \(its weights\) is \w+ there and \w+ here"),
        ({"optimizer": torch.optim.SGD}, "the optimizer is AdamW there and SGD here"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_its_key(
    options: dict[str, Any], match: str, make_trainer: MakeTrainer, model_folders: dict[str, Path], trained: Path
) -> None:
    folder = model_folders[options.pop("architecture", "qwen2")]
    optimizer = options.pop("optimizer", None)
    trainer = make_trainer(folder, **options)
    if optimizer is not None:
        trainer.optimizer = optimizer(trainer.optimizer.param_groups[0]["params"], lr=0.1)
    before = trainer.weights().tensors
    with pytest.raises(CheckpointError, match=f"step-000003: {match}") as error:
        restore_trainer(trainer, load_checkpoint(trained))

    assert "\n" not in str(error.value)
    assert trainer.version == 0
    assert trainer.optimizer.state_dict()["state"] == {}
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights().tensors.items())


@pytest.mark.parametrize("fails", ["fsync", "rename"])
def test_a_failed_save_leaves_the_old_ones(
    fails: str, make_trainer: MakeTrainer, batches: list[Batch], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(**TRAINING)
    restore_trainer(trainer, load_checkpoint(trained))
    trainer.step(batches[3])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)
        with pytest.raises(HomeError, match="step-000004: No space left") as error:
            save_checkpoint(trained, trainer, CONFIG)
    assert "\n" not in str(error.value)
    assert names(trained) == ["step-000002", "step-000003"]
    assert load_checkpoint(trained).weights.version.number == 3


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.model.policy import load_policy
from grpo_core.training.checkpoint import checkpoint, state
from grpo_core.training.trainer import Trainer

model = ModelConfig(name=sys.argv[1], device="cpu", lora_rank=4, lora_alpha=8.0)
trainer = Trainer(load_policy(model), model, TrainingConfig(), run="run")
folder = Path(sys.argv[2])
for trainer.version in (1, 2):
    checkpoint.save_checkpoint(folder, trainer, {})

def die_at(call, number):
    def wrapped(*arguments, **options):
        nonlocal number
        number -= 1
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped

number = 0
while True:
    trainer.version = number % 3 + 1  # new ones, and those that are there already
    child = os.fork()
    if child == 0:
        for name in ("mkdir", "open", "fsync", "rename", "unlink", "rmdir"):
            setattr(os, name, die_at(getattr(os, name), number))
        checkpoint.save_checkpoint(folder, trainer, {})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    damaged = [str(path) for path in state.checkpoints_in(folder) if not checkpoint._read(path)]
    newest = checkpoint.load_checkpoint(folder).weights.version.number
    print(number, os.WIFSIGNALED(status), newest, len(damaged), flush=True)
    if not os.WIFSIGNALED(status):
        break
    number += 1
"""


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_whole_checkpoints_only(model_folder: Path, tmp_path: Path) -> None:
    """A child of a child kills itself at its 1st, 2nd, 3rd ... call of the system; reading one in parts would raise."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_WHILE_SAVING, str(model_folder), str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]

    assert done.returncode == 0, done.stderr
    assert len(lines) >= 5
    assert [line[1] for line in lines] == ["True"] * (len(lines) - 1) + ["False"]
    assert {line[3] for line in lines} == {"0"}
    assert all(not path.name.startswith(".") for path in (tmp_path / "run").iterdir())  # the last save tidied up


def test_ctrl_c_while_saving_leaves_the_old_ones(
    make_trainer: MakeTrainer, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(**TRAINING)
    trainer.version = 4

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for call in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, interrupt)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(trained, trainer, CONFIG)
        assert names(trained) == ["step-000002", "step-000003"]


def test_a_step_saved_again_replaces_itself(make_trainer: MakeTrainer, trained: Path) -> None:
    trainer = make_trainer(**TRAINING)
    restore_trainer(trainer, load_checkpoint(trained))
    save_checkpoint(trained, trainer, CONFIG | {"run": "again"})

    assert load_checkpoint(trained).config["run"] == "again"
    assert names(trained) == ["step-000002", "step-000003"]


def test_an_unwritable_folder_is_a_home_error(make_trainer: MakeTrainer, trained: Path, tmp_path: Path) -> None:
    shutil.rmtree(trained)
    (tmp_path / "run").write_text("a file")
    with pytest.raises(HomeError, match="set GRPO_HOME"):
        save_checkpoint(trained, make_trainer(), CONFIG)
