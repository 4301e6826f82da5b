"""The volumes of the app, created at first use: their mount points, and commit and reload."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

import modal

DATA = modal.Volume.from_name("pytest-grpo-data", create_if_missing=True, version=2)
TRACES = modal.Volume.from_name("pytest-grpo-traces", create_if_missing=True, version=2)
MODELS = modal.Volume.from_name("pytest-grpo-models", create_if_missing=True, version=2)
Volumes = dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount]
CACHE: Volumes = {
    "/models": MODELS
}  # apart: Modal does not reload a volume with open files, and a loaded model has some
VOLUMES: Volumes = {"/data": DATA, "/traces": TRACES, **CACHE}


def commit() -> None:
    """Make what this container wrote visible to others. Models are committed when their container ends."""
    if not modal.is_local():
        DATA.commit()
        TRACES.commit()


def reload() -> None:
    """Make what other containers committed visible here. No file of the volume may be open."""
    if modal.is_local():
        return
    if "wandb" in sys.modules:  # its service keeps a log on the volume open after a run is finished
        import wandb

        wandb.teardown()
    DATA.reload()
