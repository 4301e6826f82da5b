"""``grpo doctor``: run the canaries against a rollout engine."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from grpo_core.config import ModelConfig
from grpo_core.errors import ConfigError
from grpo_core.home import write_json

if TYPE_CHECKING:
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model import Policy, Tokenizer
    from grpo_core.rollout.canaries import CanaryResult
    from grpo_core.rollout.protocol import RolloutEngine

RED_EXIT_CODE = 1
_RUN = "doctor"
_MAX_CACHED_ADAPTERS = 4
_MAX_CACHED_BYTES = 1 << 30
_VLLM_CONTEXT_TOKENS, _VLLM_KV_BYTES = 512, 64 << 20  # small: pages of it that fill later would look like a leak
_NUM_SWAPS, _NUM_REQUESTS = 500, 2000
_NUM_QUICK_SWAPS, _NUM_QUICK_REQUESTS = 40, 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", "--model", dest="model", default="tiny", metavar="NAME", help="as in grpo train")
    parser.add_argument("--engine", choices=("torch", "plain", "vllm"), default="torch", help="what is examined")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--quick", action="store_true", help=f"{_NUM_QUICK_SWAPS} adapter swaps for the memory, not {_NUM_SWAPS}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Run every canary in float32. 0 when all pass, 1 when one does not. GRPO_HOME stays as it is."""
    if flags.json is not None and not flags.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {flags.json}: no such folder; give a file in a folder that exists")

    from grpo_core.lora.store import AdapterStore
    from grpo_core.model import load_policy, load_tokenizer
    from grpo_core.rollout.canaries import canaries_for
    from grpo_core.rollout.canaries.patient import Patient

    config = ModelConfig(name=flags.model, device=flags.device)
    num_swaps, num_requests = (_NUM_QUICK_SWAPS, _NUM_QUICK_REQUESTS) if flags.quick else (_NUM_SWAPS, _NUM_REQUESTS)
    results: list[CanaryResult] = []
    with tempfile.TemporaryDirectory(prefix="grpo-doctor-") as folder, console.status("loading") as status:
        store = AdapterStore(Path(folder))
        tokenizer = load_tokenizer(config.name)
        policy = load_policy(config, any_architecture=True)
        with _open_engine(flags.engine, config, policy, tokenizer, store) as engine:
            patient = Patient(engine, store, _RUN, policy, tokenizer)
            for canary in canaries_for(patient, num_swaps=num_swaps, num_requests=num_requests):
                status.update(canary.name)
                results.append(canary.run(patient))
        title = f"{type(engine).__name__} with {config.name} on {policy.device.type}"
    console.print(_table(title, results))
    num_red = sum(not result.passed for result in results)
    console.print(f"{num_red} of {len(results)} canaries are red" if num_red else f"all {len(results)} canaries pass")
    if flags.json is not None:
        write_json(flags.json, {"examined": title, "canaries": [asdict(result) for result in results]})
    return RED_EXIT_CODE if num_red else 0


@contextmanager
def _open_engine(
    kind: str, config: ModelConfig, policy: Policy, tokenizer: Tokenizer, store: AdapterStore
) -> Iterator[RolloutEngine]:
    """An engine with a copy of the weights of its own. What the torch engine cannot drive, the plain one serves."""
    from grpo_core.lora.cache import LoRACache

    adapters = LoRACache(store, max_bytes=_MAX_CACHED_BYTES, max_adapters=_MAX_CACHED_ADAPTERS)
    if kind == "vllm":
        from grpo_core.rollout.teacher import RANK
        from grpo_core.rollout.vllm_engine.engine import VllmEngine

        with VllmEngine(
            config.name,
            tokenizer.stop_id,
            adapters,
            store,
            _RUN,
            fingerprint=policy.fingerprint,
            max_lora_rank=RANK,
            max_context_tokens=_VLLM_CONTEXT_TOKENS,
            kv_cache_bytes=_VLLM_KV_BYTES,
        ) as engine:
            yield engine
        return

    from grpo_core.model import load_policy
    from grpo_core.rollout.plain_engine import PlainEngine
    from grpo_core.rollout.torch_engine.engine import TorchEngine

    engine_class = TorchEngine if kind == "torch" and policy.takes_plan else PlainEngine
    yield engine_class(load_policy(config, any_architecture=True), tokenizer.stop_id, adapters, _RUN)


def _table(title: str, results: Sequence[CanaryResult]) -> Table:
    table = Table("canary", "", "what it saw", title=title)
    for result in results:
        table.add_row(result.name, "[green]pass[/]" if result.passed else "[red]RED[/]", result.detail)
    return table
