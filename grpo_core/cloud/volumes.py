"""The volumes of the app, created at first use: where a container finds them, and when others see what it wrote."""

from __future__ import annotations

from pathlib import PurePosixPath

import modal

DATA = modal.Volume.from_name("pytest-grpo-data", create_if_missing=True, version=2)
TRACES = modal.Volume.from_name("pytest-grpo-traces", create_if_missing=True, version=2)
MODELS = modal.Volume.from_name("pytest-grpo-models", create_if_missing=True, version=2)
Volumes = dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount]
CACHE: Volumes = {"/models": MODELS}  # apart: a loaded model keeps its file open, and Modal reloads no such volume
VOLUMES: Volumes = {"/data": DATA, "/traces": TRACES, **CACHE}


def commit() -> None:
    """Show other containers what this one wrote. Models are committed when their container ends."""
    if not modal.is_local():
        DATA.commit()
        TRACES.commit()


def reload() -> None:
    """See what other containers have committed."""
    if not modal.is_local():
        DATA.reload()
