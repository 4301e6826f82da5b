"""The peak memory of a step, with each arm in a new process."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch

from bench.model_shapes import SHAPES, built_model
from bench.reporting.figures import Figure
from bench.trainer_arms.arms import load_arm_system
from bench.trainer_arms.batches import BatchShape, random_batch

SMALL = BatchShape(num_groups=1, group_size=2, num_prompt_tokens=16, num_tokens=4)


def measure_step_bytes(name: str, preset: str, shape: BatchShape, folder: Path, num_threads: int) -> int:
    """Peak memory of a step minus the memory before it, in bytes, in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step_bytes, name, preset, shape, folder, num_threads).result()


def step_bytes(name: str, preset: str, shape: BatchShape, folder: Path, num_threads: int) -> int:
    """``measure_step_bytes`` in this process, which must be new. A very small step loads the libraries first."""
    torch.set_num_threads(num_threads)
    rng = np.random.default_rng(0)
    system = load_arm_system(name, built_model(preset, folder), folder)
    vocab_size = SHAPES[preset].vocab_size
    system.train_step(random_batch(rng, SMALL, vocab_size))
    batch = random_batch(rng, shape, vocab_size)
    before = psutil.Process().memory_info().rss
    _forget_peak()
    system.train_step(batch)
    return _peak_bytes() - before


def _forget_peak() -> None:
    """Reset the peak, which loading the model raised. Only Linux can."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    if sys.platform == "linux":
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_figure(mine: int, others: int, at_most: float) -> Figure:
    ratio = mine / others
    return Figure(ratio, ratio, ratio, 1, "ratio", at_most=at_most)
