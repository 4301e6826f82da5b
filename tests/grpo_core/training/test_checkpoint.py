from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grpo_core.errors import AdapterError, CheckpointError, HomeError
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.checkpoint import load_checkpoint, restore_trainer, save_checkpoint
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]

TRAINING = {"learning_rate": 0.01, "kl_coefficient": 0.05}
CONFIG = {"run": "run", "training": TRAINING}


@pytest.fixture
def batches(make_engine: MakeEngine, sample_batch: SampleBatch) -> list[Batch]:
    engine = make_engine()
    return [sample_batch(engine, seed, num_groups=2) for seed in range(6)]


@pytest.fixture
def trained(make_trainer: MakeTrainer, batches: list[Batch], tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 2 and 3."""
    trainer = make_trainer(**TRAINING)
    for batch in batches[:3]:
        trainer.step(batch)
        save_checkpoint(tmp_path / "run", trainer, CONFIG)
    return tmp_path / "run"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_restored_trainer_goes_on_bit_for_bit(make_trainer: MakeTrainer, batches: list[Batch], trained: Path) -> None:
    uninterrupted = make_trainer(**TRAINING)
    expected = [uninterrupted.step(batch) for batch in batches]
    checkpoint = load_checkpoint(trained)
    trainer = make_trainer(**TRAINING)
    restore_trainer(trainer, checkpoint)
    assert trainer.version == 3

    for batch, wanted in zip(batches[3:], expected[3:], strict=True):
        metrics = trainer.step(batch)
        assert (metrics.step, metrics.loss, metrics.kl, metrics.grad_norm) == (
            wanted.step,
            wanted.loss,
            wanted.kl,
            wanted.grad_norm,
        )
    one, other = trainer.adapter().tensors, uninterrupted.adapter().tensors
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert checkpoint.config == CONFIG


def test_without_the_optimizer_state_it_would_go_on_differently(
    make_trainer: MakeTrainer, batches: list[Batch], trained: Path
) -> None:
    """So the test above can fail."""
    checkpoint = load_checkpoint(trained)
    whole, bare = make_trainer(**TRAINING), make_trainer(**TRAINING)
    restore_trainer(whole, checkpoint)
    bare.load_adapter(checkpoint.adapter)
    for trainer in (whole, bare):
        trainer.step(batches[3])

    assert any(not torch.equal(value, bare.adapter().tensors[name]) for name, value in whole.adapter().tensors.items())


def test_a_changed_learning_rate_is_that_of_the_new_configuration(make_trainer: MakeTrainer, trained: Path) -> None:
    trainer = make_trainer(learning_rate=0.5)
    restore_trainer(trainer, load_checkpoint(trained))

    assert trainer.optimizer.param_groups[0]["lr"] == 0.5


def test_the_newest_two_are_kept(trained: Path) -> None:
    assert names(trained) == ["step-000002", "step-000003"]
    for name in names(trained):
        assert names(trained / name) == ["adapter.safetensors", "optimizer.safetensors", "state.json"]


def test_the_state_before_the_first_step_can_be_saved(
    make_trainer: MakeTrainer, batches: list[Batch], tmp_path: Path
) -> None:
    fresh, restored = make_trainer(**TRAINING), make_trainer(**TRAINING)
    assert save_checkpoint(tmp_path / "run", fresh, CONFIG) == tmp_path / "run/step-000000"
    restore_trainer(restored, load_checkpoint(tmp_path / "run"))

    assert restored.step(batches[0]).loss == fresh.step(batches[0]).loss


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "state.json"])
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

    assert checkpoint.adapter.version.number == 2
    (record,) = caplog.records
    assert record.getMessage().startswith(f"checkpoint {trained / 'step-000003'} is damaged (")


def test_nothing_to_resume_is_a_clear_error(trained: Path, tmp_path: Path) -> None:
    for name in names(trained):
        (trained / name / "state.json").write_text("[]")
    for folder in (trained, tmp_path / "never"):
        with pytest.raises(CheckpointError, match="nothing to resume; start without --resume") as error:
            load_checkpoint(folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_shape_is_refused(make_trainer: MakeTrainer, trained: Path) -> None:
    trainer = make_trainer(rank=8)
    with pytest.raises(AdapterError, match="does not fit"):
        restore_trainer(trainer, load_checkpoint(trained))

    assert trainer.version == 0
    assert trainer.optimizer.state_dict()["state"] == {}


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
    assert load_checkpoint(trained).adapter.version.number == 3


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
