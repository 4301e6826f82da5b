"""``grpo doctor``: run the canaries against a rollout engine."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.table import Column, Table

from grpo_core.config import GrpoConfig, ModelConfig, RolloutConfig
from grpo_core.errors import ConfigError
from grpo_core.home import SHARED, write_json
from grpo_core.types import EngineName

if TYPE_CHECKING:
    from grpo_core.rollout.canaries import CanaryResult

RED_EXIT_CODE = 1
_RUN = "doctor"
_MAX_CACHED_ADAPTERS = 4
_VLLM_KV_BYTES = 64 << 20  # few: pages of it that fill later would look like a leak
_NUM_SWAPS, _NUM_REQUESTS = 500, 2000
_NUM_QUICK_SWAPS, _NUM_QUICK_REQUESTS = 40, 160
_MAX_MEMORY_S, _MAX_QUICK_MEMORY_S = 240.0, 40.0  # of the memory canary: a large vocabulary takes seconds per swap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", "--model", dest="model", default="tiny", metavar="NAME", help="as in grpo train")
    parser.add_argument("--engine", choices=get_args(EngineName), default="torch", help="the engine to examine")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of the weights")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"shorter: the memory canary swaps adapters at most {_NUM_QUICK_SWAPS} times, not {_NUM_SWAPS}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Run every canary. 0 when all pass, 1 when one does not. GRPO_HOME stays as it is."""
    if flags.json is not None and not flags.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {flags.json}: no such folder; give a file in a folder that exists")

    start = time.perf_counter()
    from grpo_core.lora.cache import DEFAULT_MAX_BYTES, LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import load_policy
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.rollout.canaries import canaries_for
    from grpo_core.rollout.canaries.subject import Subject
    from grpo_core.rollout.engines import check_engine, open_engine

    config = _config(flags, flags.engine)
    check_engine(config)
    num_swaps, num_requests = (_NUM_QUICK_SWAPS, _NUM_QUICK_REQUESTS) if flags.quick else (_NUM_SWAPS, _NUM_REQUESTS)
    max_memory_s = _MAX_QUICK_MEMORY_S if flags.quick else _MAX_MEMORY_S
    results: list[CanaryResult] = []
    with tempfile.TemporaryDirectory(prefix="grpo-doctor-") as folder, console.status("loading") as status:
        store = AdapterStore(Path(folder))
        adapters = LoRACache(store, max_bytes=DEFAULT_MAX_BYTES, max_adapters=_MAX_CACHED_ADAPTERS)
        tokenizer = load_tokenizer(config.model.name)
        policy = load_policy(config.model, any_architecture=True)
        if flags.engine == "torch" and not policy.takes_plan:  # the plain one serves what the torch engine cannot drive
            config = _config(flags, "plain")
        opened = open_engine(config, tokenizer.stop_ids, adapters, store, fingerprint=policy.fingerprint)
        with closing(opened) as engine:
            subject = Subject(engine, store, _RUN, policy, tokenizer)
            for canary in canaries_for(
                subject, num_swaps=num_swaps, num_requests=num_requests, max_memory_s=max_memory_s
            ):
                status.update(canary.name)
                results.append(canary.run(subject))
        dtype = "" if flags.dtype == "float32" else f" in {flags.dtype}"
        title = f"{type(engine).__name__} with {config.model.name}{dtype} on {policy.device.type}"
    console.print(_table(title, results))
    num_red = sum(not result.passed for result in results)
    verdict = f"{num_red} of {len(results)} canaries are red" if num_red else f"all {len(results)} canaries pass"
    console.print(f"{verdict}; {time.perf_counter() - start:.0f} s in all")
    if flags.json is not None:
        write_json(flags.json, {"examined": title, "canaries": [asdict(result) for result in results]}, SHARED)
    return RED_EXIT_CODE if num_red else 0


def _config(flags: argparse.Namespace, engine: EngineName) -> GrpoConfig:
    """What the engine is opened with: its adapters are the reference's."""
    from grpo_core.rollout.canaries.reference import RANK

    rollout = RolloutConfig(engine=engine)
    if engine == "vllm":
        rollout = rollout.model_copy(update={"max_kv_bytes": _VLLM_KV_BYTES})
    model = ModelConfig(name=flags.model, device=flags.device, dtype=flags.dtype, lora_rank=RANK)
    return GrpoConfig(run=_RUN, model=model, rollout=rollout)


def _table(title: str, results: Sequence[CanaryResult]) -> Table:
    table = Table("canary", "", Column("seconds", justify="right"), "what it saw", title=title)
    for result in results:
        verdict = "[green]pass[/]" if result.passed else "[red]RED[/]"
        table.add_row(result.name, verdict, f"{result.duration_s:.1f}", result.detail)
    return table
