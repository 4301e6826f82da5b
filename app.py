"""The Modal app: training, rollouts, inference, snapshots and the phase tests on Modal's GPUs.

    modal run --detach app.py::train_grpo --steps 20 --environment arithmetic
    modal deploy app.py

Two volumes are created at first use: ``pytest-grpo-data`` at /data and ``pytest-grpo-traces`` at /traces. Two settings
are read from the environment where the app is run or deployed from:

- ``GRPO_MODAL_GPU``: the GPU of every container, one of ``GPU_TYPES``, or ``none`` (default: L4)
- ``GRPO_MODAL_SECRETS``: names of Modal secrets to attach, comma-separated: ``wandb-secret`` (WANDB_API_KEY) and
  ``axiom-secrets`` (AXIOM_TOKEN, AXIOM_DATASET), or others with these keys (default: none, so that the app deploys
  where there are none)

Importing this module contacts nothing. Every body also runs here, through ``.local()``, in ``GRPO_HOME``.
"""

# No "from __future__ import annotations" here: Modal wants the parameters of a class as types, not as text.
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import modal

from grpo_core.config import GrpoConfig, build_config
from grpo_core.errors import ConfigError
from grpo_core.home import Home
from grpo_core.types import PolicyVersion

if TYPE_CHECKING:
    from grpo_core.schedule.loop import StepReport
    from grpo_core.schedule.stack import Stack

PROJECT_FOLDER = Path(__file__).resolve().parent  # in a container: where Modal puts this file
REMOTE_FOLDER = "/root"
GPU_TYPES = (
    "T4", "L4", "A10", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H100!", "H200", "B200",
    "B200+",
)  # fmt: skip
LATEST = -1
"""As a policy version: the newest one that is published, or the base model when there is none."""


def gpu_setting(text: str) -> str | None:
    """The GPU of ``GRPO_MODAL_GPU``. Modal itself takes any text until it deploys.

    Raises:
        ConfigError: it is not one of ``GPU_TYPES`` or ``none``.
    """
    if text not in (*GPU_TYPES, "none"):
        raise ConfigError(
            f"GRPO_MODAL_GPU {text!r}: allowed are {', '.join(GPU_TYPES)} and none; set one, or unset it to take L4"
        )
    return None if text == "none" else text


_gpu_name = os.environ.get("GRPO_MODAL_GPU") or "L4"
_secret_names = [name.strip() for name in os.environ.get("GRPO_MODAL_SECRETS", "").split(",") if name.strip()]

GPU = gpu_setting(_gpu_name)
SECRETS = [modal.Secret.from_name(name) for name in _secret_names]
DATA = modal.Volume.from_name("pytest-grpo-data", create_if_missing=True, version=2)
TRACES = modal.Volume.from_name("pytest-grpo-traces", create_if_missing=True, version=2)
VOLUMES: dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount] = {"/data": DATA, "/traces": TRACES}

ENVIRONMENT: dict[str, str] = {
    # A container imports this file again and must come to the same settings.
    "GRPO_MODAL_GPU": _gpu_name,
    "GRPO_MODAL_SECRETS": ",".join(_secret_names),
    "GRPO_CACHE": "/data/cache",  # presets are built once, not once per container
    "HF_HOME": "/data/huggingface",
    "PYTEST_PLUGINS": "pytest_grpo.plugin",  # the packages are there as source, without their entry point
}

image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install(requirements=[str(PROJECT_FOLDER / "requirements.lock")], extra_options="--require-hashes")
    .env(dict(ENVIRONMENT))
    .add_local_file(PROJECT_FOLDER / "pyproject.toml", f"{REMOTE_FOLDER}/pyproject.toml")
    .add_local_file(PROJECT_FOLDER / "conftest.py", f"{REMOTE_FOLDER}/conftest.py")
    .add_local_dir(PROJECT_FOLDER / "bench", f"{REMOTE_FOLDER}/bench", ignore=["**/__pycache__"])
    .add_local_dir(PROJECT_FOLDER / "scripts", f"{REMOTE_FOLDER}/scripts", ignore=["**/__pycache__"])
    .add_local_python_source("grpo_core", "pytest_grpo")
)

app = modal.App("pytest-grpo", image=image)


@app.function(gpu=GPU, volumes=VOLUMES, secrets=SECRETS, timeout=12 * 3600)
def train_grpo(
    steps: int = 10,
    environment: str = "arithmetic",
    preset: str = "tiny",
    run: str = "",
    groups: int = 16,
    samples: int = 8,
    horizon: int = 1,
    buffer_depth: int = 1,
    policy_lag: int = 1,
    compact_prompts: bool = False,
    use_state_cache: bool = False,
    resume: bool = False,
    detach: bool = False,
) -> dict[str, Any]:
    """Train ``run`` to ``steps`` steps and return what it reached; prints a line per step and the result as JSON.

    Without ``run`` the run is named after this call. Adapters, events and checkpoints go to the data volume.
    ``detach`` only lets Modal accept ``--detach`` behind the function's name, where it has no effect; we say so.

    Raises:
        GrpoError: a value is not allowed, or the run cannot start or resume.
    """
    config = build_config(
        {
            "run": run or _name_of_this_call(),
            "model": {"name": preset},
            "environment": _environment(environment, horizon, compact_prompts, use_state_cache),
            "rollout": {"num_groups": groups, "group_size": samples},
            "schedule": {"num_steps": steps, "buffer_depth": buffer_depth, "max_policy_lag_steps": policy_lag},
        }
    )
    from grpo_core.schedule.loop import train
    from grpo_core.schedule.stack import build_stack
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.sinks import open_telemetry

    _show_logs()
    if detach:
        print("note: this run is not detached; --detach counts in front: modal run --detach app.py::train_grpo")
    stack = build_stack(config, _home())
    try:
        with (
            open_telemetry(config, stack.home) as telemetry,
            GpuSampler(telemetry, config.telemetry.gpu_stats_interval_s),
        ):
            result = train(stack, telemetry, resume=resume, on_step=_print_step)
    finally:
        _commit()
    summary: dict[str, Any] = {
        "run": config.run,
        "num_steps": len(result.reports),
        "reward_means": [report.metrics.reward_mean for report in result.reports],
        "policy_lag_steps": [report.policy_lag_steps for report in result.reports],
        "duration_s": result.duration_s,
        "interrupted": result.interrupted,
        "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
        "events": str(stack.home.events / f"{config.run}.jsonl"),
    }
    print(json.dumps(summary))
    return summary


@app.function(gpu=GPU, volumes=VOLUMES, secrets=SECRETS, timeout=3600)
def run_rollout(
    run: str,
    version: int = LATEST,
    index: int = 0,
    environment: str = "arithmetic",
    preset: str = "tiny",
    groups: int = 4,
    samples: int = 4,
    horizon: int = 1,
    compact_prompts: bool = False,
    use_state_cache: bool = False,
) -> dict[str, Any]:
    """Collect batch ``index`` with a published ``version`` of ``run`` and return its statistics.

    A container keeps its models, so a second call for a version logs ``Adapter already cached locally``.

    Raises:
        AdapterNotFoundError: that version was never published, or was pruned.
        GrpoError: another value is not allowed.
    """
    config = build_config(
        {
            "run": run,
            "model": {"name": preset},
            "environment": _environment(environment, horizon, compact_prompts, use_state_cache),
            "rollout": {"num_groups": groups, "group_size": samples},
        }
    )
    _show_logs()
    stack = _kept_stack(config, _home())  # pyright: ignore[reportArgumentType]  # it is frozen, so it hashes
    swap = stack.engine.use_version(_find_version(stack, version))
    batch = stack.collector.collect(index)
    _commit()  # the state cache
    rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
    return {
        "run": run,
        "policy_version": swap.policy_version,
        "adapter_cache_hit": swap.cache_hit,
        "adapter_load_ms": swap.load_ms,
        "reward_mean": sum(rewards) / max(len(rewards), 1),
        "tokens_per_second": batch.stats.tokens_per_second,
        **asdict(batch.stats),
    }


@app.cls(gpu=GPU, volumes=VOLUMES, secrets=SECRETS, timeout=3600, scaledown_window=300)
@modal.concurrent(max_inputs=16)
class InferenceEngine:
    """Answers prompts with any published version of one run. Calls that overlap wait for each other."""

    preset: str = modal.parameter(default="tiny")
    run: str = modal.parameter(default="run")

    @modal.enter()
    def load(self) -> None:
        """Load the model once per container."""
        from grpo_core.schedule.stack import build_stack

        _show_logs()
        self._stack = build_stack(build_config({"run": self.run, "model": {"name": self.preset}}), _home())
        self._lock = threading.Lock()  # the engine samples from one version at a time

    @modal.method()
    def generate(
        self,
        prompts: list[str],
        version: int = LATEST,
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        """One completion per prompt, in order, each with its ids [R] and sampling log-probabilities [R] in nats.

        Raises:
            AdapterNotFoundError: that version was never published, or was pruned.
            PromptError: a prompt is empty or too long.
        """
        from grpo_core.rollout.protocol import GenerationRequest, SamplingParams

        stack = self._stack
        requests = [
            GenerationRequest(
                stack.tokenizer.encode(prompt),
                SamplingParams(seed + index, temperature=temperature, top_p=top_p, max_tokens=max_tokens),
            )
            for index, prompt in enumerate(prompts)
        ]
        with self._lock:
            stack.engine.use_version(_find_version(stack, version))
            completions = stack.engine.generate(requests)
        return [
            {
                "text": stack.tokenizer.decode(completion.completion_ids),
                "completion_ids": completion.completion_ids.tolist(),
                "sampling_logprobs": completion.sampling_logprobs.tolist(),
                "finish_reason": completion.finish_reason,
                "policy_version": completion.policy_version,
            }
            for completion in completions
        ]


@app.function(volumes=VOLUMES)
def persist_profile_snapshot(profile_name: str, payload: dict[str, Any]) -> str:
    """Write ``payload`` to ``/data/benchmarks/<profile_name>.json`` and return that path.

    Raises:
        InvalidNameError: ``profile_name`` is not safe as a file name.
    """
    from grpo_core.telemetry import snapshots

    path = snapshots.persist_profile_snapshot(_home(), profile_name, payload)
    _commit()
    return str(path)


@app.function(gpu=GPU, secrets=SECRETS, timeout=3600, single_use_containers=True)
def run_pytest(request: str, files: bytes) -> Iterator[str]:
    """Run the tests of one phase on the project's ``files`` and yield what happens, while it happens.

    See ``pytest_grpo.remote``: ``request`` is a ``protocol.Request`` as JSON, what is yielded are messages of
    ``place.serve``.
    """
    from pytest_grpo.remote.place import serve

    yield from serve(request, files, modal.current_function_call_id())


@app.function(gpu=GPU, secrets=SECRETS, timeout=3600, single_use_containers=True)
def record_pytest(request: str, files: bytes) -> list[str]:
    """As ``run_pytest``, for ``--modal-detach``: Modal keeps what happened until ``--modal-attach`` asks for it."""
    from pytest_grpo.remote.place import serve

    return list(serve(request, files))


def _environment(name: str, horizon: int, compact_prompts: bool, use_state_cache: bool) -> dict[str, Any]:
    return {
        "name": name,
        "horizon": horizon,
        "compact_prompts": compact_prompts,
        "use_state_cache": use_state_cache,
    }


def _home() -> Home:
    """The volumes on Modal, ``GRPO_HOME`` here."""
    return Home.from_environment() if modal.is_local() else Home(data=Path("/data"), traces=Path("/traces"))


def _name_of_this_call() -> str:
    return modal.current_function_call_id() or time.strftime("local-%Y%m%d-%H%M%S", time.gmtime())


@lru_cache(maxsize=1)
def _kept_stack(config: GrpoConfig, home: Home) -> "Stack":
    """One stack per container, for as long as it is asked for the same."""
    from grpo_core.schedule.stack import build_stack

    return build_stack(config, home)


def _find_version(stack: "Stack", version: int) -> int:
    """The number to sample from. Looks at the volume again only when it must."""
    run = stack.config.run
    if version == LATEST:
        _reload()
        latest = stack.store.latest(run)
        return 0 if latest is None else latest.number
    if version > 0 and PolicyVersion(run, version) not in stack.store.versions(run):
        _reload()
    return version


def _commit() -> None:
    """Show other containers what this one wrote."""
    if not modal.is_local():
        DATA.commit()
        TRACES.commit()


def _reload() -> None:
    """See what other containers have committed."""
    if not modal.is_local():
        DATA.reload()


def _show_logs() -> None:
    """Let ``modal app logs`` show what the packages log."""
    if not modal.is_local():
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("grpo_core").setLevel(logging.INFO)


def _print_step(report: "StepReport") -> None:
    print(
        f"step {report.metrics.step}: reward {report.metrics.reward_mean:.3f}, {report.step_s:.2f} s, "
        f"{report.rollout.tokens_per_second:.0f} tokens/s, policy lag {report.policy_lag_steps}",
        flush=True,
    )
