"""The Modal app: training, rollouts, inference, snapshots and the phase tests on Modal's GPUs.

    modal run --detach app.py::train_grpo --steps 20 --environment arithmetic
    modal deploy app.py

Three volumes are created at first use: ``pytest-grpo-data`` at /data, ``pytest-grpo-traces`` at /traces and, for models
only, ``pytest-grpo-models`` at /models. Two settings are read from the environment where the app is run or deployed
from:

- ``GRPO_MODAL_GPU``: the GPU of every container that computes, such as ``L4`` or ``H100:8``, or ``none`` (default: L4)
- ``GRPO_MODAL_SECRETS``: names of Modal secrets to attach, comma-separated: ``wandb-secret`` (WANDB_API_KEY) and
  ``axiom-secrets`` (AXIOM_TOKEN, AXIOM_DATASET), or others with these keys (default: none, so that the app deploys
  where there are none)

Importing this module contacts nothing. Every function also runs in this process, by ``.local()``, with ``GRPO_HOME``.
``grpo_core.cloud`` has what the containers do; docs/modal.md says how to use them.
"""

# No "from __future__ import annotations" here: Modal wants the parameters of a class as types, not as text.
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal

from grpo_core.cloud.gpus import DEFAULT_GPU, GPU_VARIABLE, gpu_setting, num_gpus
from grpo_core.cloud.images import project_image
from grpo_core.cloud.volumes import CACHE, VOLUMES, commit, reload
from grpo_core.config import build_config, settings_from_json
from grpo_core.config.flags import put_flags
from grpo_core.config.values import merged
from grpo_core.home import Home

if TYPE_CHECKING:
    from grpo_core.cloud.engine_service import EngineService

SCRATCH_FOLDER = Path(tempfile.gettempdir())
PROJECT_FOLDER = Path(__file__).resolve().parent  # in a container: where Modal puts this file
LATEST = -1
"""As a policy version: the newest one that is published, or the base model when there is none."""
TRAINING = {"schedule": {"checkpoint_every_steps": 10}}
"""Settings of ``train_grpo`` that differ from their defaults: containers are lost more often than machines."""

_gpu_name = os.environ.get(GPU_VARIABLE) or DEFAULT_GPU
_secret_names = [name.strip() for name in os.environ.get("GRPO_MODAL_SECRETS", "").split(",") if name.strip()]

GPU = gpu_setting(_gpu_name)
SECRETS = [modal.Secret.from_name(name) for name in _secret_names]

ENVIRONMENT: dict[str, str] = {
    # A container imports this file again and must come to the same settings.
    GPU_VARIABLE: _gpu_name,
    "GRPO_MODAL_SECRETS": ",".join(_secret_names),
    "GRPO_HOME": "/",  # with the volumes /data and /traces in it
    "GRPO_CACHE": "/models/cache",  # presets are built once, not once per container
    "HF_HOME": "/models/huggingface",
    "PYTEST_PLUGINS": "pytest_grpo.plugin",  # the packages are there as source, without their entry point
}


image = project_image(PROJECT_FOLDER, ENVIRONMENT)
engine_image = image if GPU is None else project_image(PROJECT_FOLDER, ENVIRONMENT, with_vllm=True)

app = modal.App("pytest-grpo", image=image)


@app.function(image=engine_image, gpu=GPU, volumes=VOLUMES, secrets=SECRETS, timeout=24 * 3600)
def train_grpo(
    steps: int | None = None,
    environment: str | None = None,
    preset: str | None = None,
    run: str = "",
    groups: int | None = None,
    samples: int | None = None,
    horizon: int | None = None,
    buffer_depth: int | None = None,
    policy_lag: int | None = None,
    compact_prompts: bool | None = None,
    use_state_cache: bool | None = None,
    checkpoint_every: int | None = None,
    workers: int = 0,
    engine: str = "auto",
    resume: bool = False,
    detach: bool = False,
    settings: str = "",
    sources: str = "",
) -> dict[str, Any]:
    """Train ``run`` to ``steps`` steps and return its results; prints a line per step and the results as JSON.

    What is not given has the default of its setting, and ``checkpoint_every`` 10; with ``resume``, the value in the
    checkpoint. Without ``run`` the run is named after this call. Adapters, events and checkpoints go to the data
    volume. If the container is lost, Modal repeats the call, and it resumes from the last checkpoint. With several
    GPUs, ``torchrun`` starts one process on each. With ``workers``, that many ``run_rollout`` calls play each batch,
    with ``engine`` as in ``InferenceEngine``; without them this container samples, with torch when it is ``auto``.
    ``settings`` are nested settings as JSON, instead of the other flags. ``sources`` is what ``send_sources`` returned;
    without it, those that the run had before.
    ``detach`` has no effect: it is here so that ``--detach`` after the function's name gets a note, not an error.

    Raises:
        GrpoError: a value is not allowed, the run is being trained already, or it cannot start or resume.
    """
    from grpo_core.cloud.modal_calls import fleet_of, is_running, show_logs, this_call
    from grpo_core.cloud.preflight import check_workers
    from grpo_core.cloud.run_claim import claim_run
    from grpo_core.cloud.sources import sources_of, use_sources
    from grpo_core.cloud.training import has_checkpoint, train_run, train_with_torchrun
    from grpo_core.schedule.runs.resumption import find_resumption

    flags = {
        "model": preset,
        "environment": environment,
        "horizon": horizon,
        "compact_prompts": compact_prompts,
        "use_state_cache": use_state_cache,
        "engine": None if engine == "auto" else engine,
        "groups": groups,
        "samples": samples,
        "steps": steps,
        "buffer_depth": buffer_depth,
        "policy_lag": policy_lag,
        "checkpoint_every": checkpoint_every,
    }
    given = settings_from_json(settings) if settings else put_flags({"run": run}, flags)
    name = given.pop("run", "") or this_call()
    home = Home.from_environment()
    reload()  # a warm container still sees what was there at its last call
    if resume:
        config = find_resumption(home, name, given).config
    else:
        config = build_config({**(given if settings else merged(TRAINING, given)), "run": name})
    check_workers(workers, GPU)
    show_logs()
    if detach:
        print("note: this run is not detached; --detach counts in front: modal run --detach app.py::train_grpo")
    is_again = claim_run(home, name, this_call(), is_running, commit=commit, reload=reload)
    resume = resume or (is_again and has_checkpoint(config, home))
    sources = sources_of(home, name, sources)
    if not modal.is_local():
        use_sources(home, sources, SCRATCH_FOLDER, reload)
    if num_gpus(GPU) > 1 and not modal.is_local():
        summary = train_with_torchrun(config, home, num_gpus(GPU), commit=commit, resume=resume)
    else:
        fleet = fleet_of(run_rollout, config, workers, engine, sources) if workers else None
        summary = train_run(config, home, commit=commit, resume=resume, fleet=fleet)
    print(json.dumps(summary))
    return summary


@app.function(volumes=VOLUMES, secrets=SECRETS, timeout=3600, retries=modal.Retries(max_retries=1, initial_delay=0.0))
def run_rollout(
    run: str,
    version: int = LATEST,
    index: int = 0,
    first_group: int = 0,
    num_groups: int = 0,
    environment: str = "arithmetic",
    preset: str = "tiny",
    groups: int = 4,
    samples: int = 4,
    horizon: int = 1,
    compact_prompts: bool = False,
    use_state_cache: bool = False,
    engine: str = "auto",
    settings: str = "",
    sources: str = "",
    with_batch: bool = False,
) -> dict[str, Any]:
    """Play batch ``index`` with a published ``version`` of ``run``; return its statistics, printed as JSON.

    This container plays on its CPU and asks ``InferenceEngine``, which keeps its adapters: a second call for a version
    logs ``Adapter already cached locally``. It plays ``num_groups`` groups from ``first_group`` on, all if 0.
    ``with_batch`` adds the played batch as ``batch``, and prints nothing. ``settings`` and ``sources`` are as in
    ``train_grpo``.

    Raises:
        AdapterNotFoundError: that version was never published, or was pruned.
        GrpoError: another value is not allowed.
    """
    from grpo_core.cloud.modal_calls import ask_engine, show_logs
    from grpo_core.cloud.sources import use_sources
    from grpo_core.cloud.worker import play_groups, summarize

    flags = {
        "model": preset,
        "environment": environment,
        "horizon": horizon,
        "compact_prompts": compact_prompts,
        "use_state_cache": use_state_cache,
        "groups": groups,
        "samples": samples,
    }
    config = build_config({**(settings_from_json(settings) if settings else put_flags({}, flags)), "run": run})
    show_logs()
    if not modal.is_local():
        use_sources(Home.from_environment(), sources, SCRATCH_FOLDER, reload)
    remote, find_latest = ask_engine(InferenceEngine, config, engine, reload)
    version = find_latest() if version == LATEST else version
    end_group = first_group + num_groups if num_groups else config.rollout.num_groups
    groups_here = range(first_group, end_group)
    try:
        batch, swap, accounts = play_groups(config, Home.from_environment(), remote, version, index, groups_here)
    finally:
        remote.close()
    if config.environment.use_state_cache:
        commit()
    summary = {"run": run, **summarize(batch, swap, remote.num_asked_again)}
    if with_batch:
        return {**summary, "batch": batch, "accounts": accounts}
    print(json.dumps(summary))
    return summary


@app.cls(image=engine_image, gpu=GPU, volumes=VOLUMES, secrets=SECRETS, timeout=3600, scaledown_window=300)
@modal.concurrent(max_inputs=64)
class InferenceEngine:
    """Serves every published version of one run. Overlapping calls decode as one batch, whatever versions they ask for;
    shared prefixes of prompts are computed once.

    ``engine`` is ``vllm``, ``torch``, ``plain``, or ``auto``: vLLM where there is a GPU, else the one of the settings.
    ``settings`` is as in ``train_grpo``.
    """

    preset: str = modal.parameter(default="tiny")
    run: str = modal.parameter(default="run")
    engine: str = modal.parameter(default="auto")
    settings: str = modal.parameter(default="")

    _opened: Any = None  # an EngineService; Modal resolves the annotations of this class

    @modal.enter()
    def load(self) -> None:
        """Load the model once per container."""
        self._open()

    def _open(self) -> "EngineService":
        if self._opened is None:  # for .local() of an async method, the SDK does not enter
            from grpo_core.cloud.engine_service import EngineService
            from grpo_core.cloud.modal_calls import show_logs

            show_logs()
            values = settings_from_json(self.settings) if self.settings else {"model": {"name": self.preset}}
            config = build_config({**values, "run": self.run})
            self._opened = EngineService(config, Home.from_environment(), reload, self.engine)
        return self._opened

    @modal.exit()
    async def close(self) -> None:
        """End the engine's threads and processes."""
        await self._open().close()

    @modal.method()
    async def generate(
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
        service = self._open()
        version = await service.latest() if version == LATEST else version
        return await service.generate(prompts, version, max_tokens, temperature, top_p, seed)

    @modal.method()
    async def sample(self, requests: list[Any], version: int) -> list[Any]:
        """As ``EngineService.sample``: how each request ended, a completion or the error that was its own."""
        return await self._open().sample(requests, version)

    @modal.method()
    async def prepare(self, version: int) -> Any:
        """As ``EngineService.prepare``."""
        return await self._open().prepare(version)

    @modal.method()
    async def latest(self) -> int:
        """The newest published version, 0 when there is none."""
        return await self._open().latest()


@app.function(volumes=VOLUMES, timeout=600)
def keep_sources(archive: bytes) -> str:
    """Keep an archive of the user's files on the data volume; returns its checksum."""
    from grpo_core.cloud import sources

    digest = sources.keep_sources(Home.from_environment(), archive)
    commit()
    return digest


def send_sources(module: str) -> str:
    """Send the files of the project, and ``module`` wherever it is, to the data volume: what ``train_grpo`` takes.

    Runs on your machine. Secrets stay there, and a printed line names them.

    Raises:
        ConfigError: the files are too large together, or there is no such module.
    """
    from grpo_core.errors import ConfigError
    from pytest_grpo.remote.project_files import TreeError
    from pytest_grpo.remote.sources import pack_sources

    try:
        packed = pack_sources(PROJECT_FOLDER, module)
    except TreeError as error:
        raise ConfigError(str(error)) from error
    if packed.note:
        print(packed.note)
    return keep_sources.remote(packed.archive)


@app.function(image=engine_image, gpu=GPU, volumes=VOLUMES, secrets=SECRETS, timeout=3600)
def measure(
    settings: str, profile_name: str, target: str, warmup: bool, traced: bool, sources: str = ""
) -> dict[str, Any]:
    """What ``grpo profile --modal`` and ``grpo benchmark --modal`` run here; ``settings`` and ``sources`` are as in
    ``train_grpo``.

    Returns the snapshot, which is also kept as ``/data/benchmarks/<profile_name>.json``; a trace goes to ``/traces``.

    Raises:
        GrpoError: a value is not allowed.
    """
    from rich.console import Console

    from grpo_core.cloud.modal_calls import show_logs
    from grpo_core.cloud.sources import use_sources
    from grpo_core.profiling import keep_measurement

    show_logs()
    reload()
    if not modal.is_local():
        use_sources(Home.from_environment(), sources, SCRATCH_FOLDER, reload)
    config = build_config(settings_from_json(settings))
    console = Console(highlight=False, width=100)
    try:
        return keep_measurement(
            config, Home.from_environment(), console, profile_name, target, warmup=warmup, traced=traced
        )
    finally:
        commit()


@app.function(volumes=VOLUMES)
def persist_profile_snapshot(profile_name: str, payload: dict[str, Any]) -> str:
    """Write ``payload`` to ``/data/benchmarks/<profile_name>.json`` and return that path.

    Raises:
        InvalidNameError: ``profile_name`` is not safe as a file name.
    """
    from grpo_core.telemetry import snapshots

    reload()
    path = snapshots.persist_profile_snapshot(Home.from_environment(), profile_name, payload)
    commit()
    return str(path)


@app.function(image=engine_image, gpu=GPU, volumes=CACHE, secrets=SECRETS, timeout=3600, single_use_containers=True)
def run_pytest(request: str, files: bytes) -> Iterator[str]:
    """Run the tests of one phase on the project's ``files`` and yield what happens, while it happens.

    ``request`` is a ``pytest_grpo.remote.protocol.Request`` as JSON; the messages are those of
    ``pytest_grpo.remote.worker.serve``.
    """
    from pytest_grpo.remote.worker import serve

    yield from serve(request, files, modal.current_function_call_id())


@app.function(image=engine_image, gpu=GPU, volumes=CACHE, secrets=SECRETS, timeout=3600, single_use_containers=True)
def record_pytest(request: str, files: bytes) -> list[str]:
    """As ``run_pytest``, for ``--modal-detach``: Modal keeps the messages until ``--modal-attach`` asks for them."""
    from pytest_grpo.remote.worker import serve

    return list(serve(request, files))
