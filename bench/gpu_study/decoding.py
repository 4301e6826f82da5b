"""Decoding: tokens per second, and the share of the bandwidth that reading the weights in each step takes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_study.row import Row, Work
from bench.gpu_study.setup import LORA_RANK, config_of
from bench.rollout_arms.adapter import RUN, AdapterPublisher
from bench.rollout_arms.arm import Setup, Workload
from bench.rollout_arms.torch_arm import TorchArm
from grpo_core.training.utilization.bandwidth import Reads
from grpo_core.types import Int32
from pytest_grpo.measuring.sampling.clock import now

SHORT_TOKENS = 8
NUM_ROUNDS = 2  # the first one compiles


def measure_decoding(work: Work) -> Iterator[Row]:
    """This project's engine, with an adapter on all linear maps, one prompt and a group of each size."""
    setup = _setup(work)
    versions = AdapterPublisher(setup.folder / "adapters", setup.model)
    arm = TorchArm(setup, versions)
    reads = Reads.measure(torch.device(work.device), _weight_bytes(Path(work.model)), torch.get_num_threads())
    for rows in work.decode_rows:
        samples = [arm.run(_workload(work, rows, seed, versions.vocab_size)) for seed in range(1, NUM_ROUNDS + 1)]
        sample = min(samples, key=lambda sample: sample.decode_seconds or sample.seconds)
        assert sample.decode_seconds is not None
        yield from _rows("torch", rows, work.new_tokens - 1, sample.decode_seconds, reads)


def measure_vllm(work: Work) -> Iterator[Row]:
    """vLLM with CUDA graphs, its prefix cache and the same adapter."""
    if find_spec("vllm") is None:
        yield Row(name="decode_tokens_per_second_vllm", value=None, note="vllm is not installed")
        return
    setup = _setup(work)
    versions = AdapterPublisher(setup.folder / "vllm-adapters", setup.model)
    reads = Reads.measure(torch.device(work.device), _weight_bytes(Path(work.model)), torch.get_num_threads())
    engine, adapter = _open_vllm(work, versions.publish(1))
    for rows in work.decode_rows:
        seconds = []
        for seed in range(1, NUM_ROUNDS + 1):
            prompt = _prompt(work, seed, versions.vocab_size)
            took = {num: _vllm_seconds(engine, adapter, prompt, rows, num) for num in (SHORT_TOKENS, work.new_tokens)}
            seconds.append(took[work.new_tokens] - took[SHORT_TOKENS])
        yield from _rows("vllm", rows, work.new_tokens - SHORT_TOKENS, min(seconds), reads)


def _rows(engine: str, rows: int, num_steps: int, seconds: float, reads: Reads) -> Iterator[Row]:
    speed = rows * num_steps / seconds
    yield Row(name=f"decode_tokens_per_second_{engine}_{rows}", value=speed, unit="tokens/s")
    yield Row(name=f"decode_bandwidth_share_{engine}_{rows}", value=reads.share(num_steps, seconds))


def _setup(work: Work) -> Setup:
    return Setup(config_of(work).model, torch.get_num_threads(), max(work.decode_rows), Path(work.folder))


def _workload(work: Work, rows: int, seed: int, vocab_size: int) -> Workload:
    return Workload((_prompt(work, seed, vocab_size),), rows, work.new_tokens, seed)


def _prompt(work: Work, seed: int, vocab_size: int) -> Int32:
    return np.random.default_rng(seed).integers(1, vocab_size, work.prompt_tokens, dtype=np.int32)


def _weight_bytes(model: Path) -> int:
    """Of the files, which have tied embeddings once."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def _open_vllm(work: Work, lora: Path) -> tuple[Any, Any]:
    from vllm import LLM  # pyright: ignore[reportMissingImports]
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

    engine = LLM(
        work.model,
        dtype=work.dtype,
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
        enable_lora=True,
        max_loras=1,
        max_lora_rank=LORA_RANK,
        max_num_seqs=max(work.decode_rows),
        max_model_len=work.prompt_tokens + work.new_tokens,
    )
    return engine, LoRARequest(f"{RUN}-v000001", 1, str(lora))


def _vllm_seconds(engine: Any, adapter: Any, prompt: Int32, rows: int, num_tokens: int) -> float:
    from vllm import SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]

    sampling = SamplingParams(n=rows, temperature=1.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
    start = now()
    engine.generate([TokensPrompt(prompt_token_ids=prompt.tolist())], sampling, use_tqdm=False, lora_request=adapter)
    return now() - start
