"""What bfloat16 costs a training run: weights in float32, in bfloat16, and in bfloat16 with each adapter merged.

    uv run python -m bench.precision_curve [--model adder] [--steps 60] [--seeds 0,1,2] [--learning-rate 1e-5]

All arms learn ``arithmetic`` from the same start with the same seeds. The engines keep adapters apart in bfloat16. The
arm ``merged`` shows why: its sampler gets base weights with the update added and rounded, as an engine that merges has
them. ``mismatch`` is the divergence of sampler and trainer in nats per token, on policy; it is 0 where both compute the
same. ``update`` is the adapter's update of a weight at the end, relative to the weight.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench.learning_arms.core_arm import task_config
from bench.learning_arms.run import LearningRun, Task
from bench.reporting.figures import row, table_head
from bench.reporting.options import OneLineParser, above_zero, add_threads, natural, numbers_of, positive
from grpo_core.home import Home
from grpo_core.model.policy import Policy, distinct_tensors, load_policy
from grpo_core.schedule.stack import build_stack
from grpo_core.types import Adapter, FullWeights

Arm = Literal["float32", "bfloat16", "merged"]
ARMS: tuple[Arm, ...] = ("float32", "bfloat16", "merged")


@dataclass(frozen=True, slots=True)
class PrecisionRun:
    """One arm with one seed."""

    learning: LearningRun
    mismatch_kl: float  # mean over the steps, nats per token
    update_size: float  # at the end, relative to the weights, root mean square over the adapter's modules
    duration_s: float


def learn(task: Task, arm: Arm, learning_rate: float | None, folder: Path) -> PrecisionRun:
    """Train on policy, sampler and trainer in turns."""
    start = time.perf_counter()
    config = task_config(task)
    dtype: Literal["float32", "bfloat16"] = "float32" if arm == "float32" else "bfloat16"
    model = config.model.model_copy(update={"dtype": dtype})
    training = config.training.model_copy(update={"learning_rate": learning_rate})
    config = config.model_copy(update={"model": model, "training": training})
    base = load_policy(config.model)
    rewards, mismatches, seconds = [], [], []
    with build_stack(config, Home(data=folder / "data", traces=folder / "traces")) as stack:
        for index in range(task.num_steps):
            metrics = stack.trainer.step(stack.collector.collect(index))
            rewards.append(metrics.reward_mean)
            mismatches.append(metrics.mismatch_kl)
            adapter = stack.trainer.weights()
            assert isinstance(adapter, Adapter)
            stack.store.publish(merged(base, adapter) if arm == "merged" else adapter)
            stack.engine.use_version(stack.trainer.version)
            seconds.append(time.perf_counter() - start)
        adapter = stack.trainer.weights()
    assert isinstance(adapter, Adapter)
    sizes = [float(update.norm() / base_weight.float().norm()) for base_weight, update in updates(base, adapter)]
    learning = LearningRun(tuple(rewards), (), tuple(seconds))
    return PrecisionRun(
        learning, float(np.mean(mismatches)), float(np.mean(np.square(sizes)) ** 0.5), time.perf_counter() - start
    )


def updates(base: Policy, adapter: Adapter) -> list[tuple[Tensor, Tensor]]:
    """Of each module of ``adapter``, the base weight and alpha/rank * B A in float32."""
    ends = (".lora_A.weight", ".lora_B.weight")
    names = [name.removesuffix(ends[0]) for name in adapter.tensors if name.endswith(ends[0])]
    pairs = [(name, *(adapter.tensors[name + end].float() for end in ends)) for name in names]
    scale = adapter.alpha / adapter.rank
    return [(base.model.get_submodule(name).get_parameter("weight"), up @ down * scale) for name, down, up in pairs]


def merged(base: Policy, adapter: Adapter) -> FullWeights:
    """The base weights with ``adapter`` added in float32, and then rounded to their own precision."""
    config: Any = base.model.config
    sums = {id(weight): (weight.float() + update).to(weight.dtype) for weight, update in updates(base, adapter)}
    tensors = distinct_tensors(base.model)
    return FullWeights(
        adapter.version,
        adapter.base_fingerprint,
        json.loads(config.to_json_string()),
        {name: sums.get(id(tensor), tensor.data) for name, tensor in tensors.items()},
    )


def run(options: argparse.Namespace) -> list[str]:
    """Lines of a table, one for each seed and arm.

    Raises:
        GrpoError: there is no such model.
    """
    torch.set_num_threads(options.threads)
    lines = [*table_head("seed", "arm", "first reward", "last reward", "mismatch", "update", "seconds")]
    for seed in options.seeds:
        task = Task(options.model, options.steps, options.groups, options.group_size, options.new_tokens, seed)
        for arm in ARMS:
            with tempfile.TemporaryDirectory() as folder:
                found = learn(task, arm, options.learning_rate, Path(folder))
            means = found.learning.trailing_means(options.window)
            first, last = f"{means[min(options.window, len(means)) - 1]:.3f}", f"{means[-1]:.3f}"
            cells = (f"{found.mismatch_kl:.1e}", f"{found.update_size:.1e}", f"{found.duration_s:.0f}")
            lines.append(row(seed, arm, first, last, *cells))
            print(lines[-1], flush=True)
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; a mistake on the command line ends with 2."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="adder", help="a preset, a model folder or a hub id (default adder)")
    add("--steps", type=positive, default=60, help="training steps per run (default 60)")
    add("--seeds", type=numbers_of(natural), default=(0, 1, 2), metavar="N[,N]", help="a run each (default 0,1,2)")
    add("--learning-rate", type=above_zero, metavar="RATE", help="of all arms (default: the one that fits the model)")
    add("--groups", type=positive, default=16, help="questions per step (default 16)")
    add("--group-size", type=positive, default=8, help="answers per question (default 8)")
    add("--new-tokens", type=positive, default=16, help="maximum length of an answer (default 16)")
    add("--window", type=positive, default=10, help="steps that a reward is averaged over (default 10)")
    add_threads(parser, default=1)
    options = parser.parse_args(arguments)
    print("\n".join(("", *parser.run(run, options))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
