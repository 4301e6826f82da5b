"""Train and sample every causal language model of transformers, small and with random weights, and print a table.

    uv run python -m bench.architectures [NAME ...] [--markdown FILE]

A row says which layout was proved for training, how far its log-probabilities and gradients are from those of
transformers and PEFT on separate sequences, how the plain engine reads tokens, and how far its log-probabilities are
from transformers' without a cache. What is refused is refused in one line.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.logging import set_verbosity_error

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.errors import GrpoError, ModelError
from grpo_core.home import write_atomic
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import SUPPORTED_MODEL_TYPES, Policy, linear_modules, load_policy
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, Completion, Group, RolloutStats, Trajectory

MAX_PARAMETERS = 20_000_000
RANK, ALPHA = 4, 8.0
TOLERANCES = (1e-3, 1e-4)  # of gradients, relative to the largest, and of log-probabilities, in nats
REFUSED_BY_PEFT = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate", "out_proj"}
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "embed_dim", "d_embed"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "intermediate_size_mlp", "shared_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "moe_ffn_hidden_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "resid_pdrop"), 0.0),
    **dict.fromkeys(("embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    **dict.fromkeys(("initializer_range", "init_std"), 0.1),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("state_size", ), 16),
    "vocab_size": 384, "head_dim": 16, "rotary_dim": 8, "sliding_window": 6,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What one architecture does here; an empty field where it was not reached."""

    architecture: str
    layout: str = ""
    training_gap: str = ""
    reading: str = ""
    sampling_gap: str = ""
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        engine = "torch" if self.architecture in SUPPORTED_MODEL_TYPES else "plain"
        return (
            self.architecture, self.layout, self.training_gap, engine if self.reading else "", self.reading,
            self.sampling_gap, self.note,
        )  # fmt: skip


HEADER = ("architecture", "layout", "training, off by", "engine", "reads", "sampling, off by", "note")


def small_config(kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A configuration of ``kind`` with small sizes, wherever it calls them by a name that is known."""
    settings = kind().to_dict()
    changed: dict[str, Any] = {
        name: value
        for name, value in SMALL.items()
        if name in settings and (settings[name] is not None or name == "num_key_value_heads")
    } | {"max_position_embeddings": 256}
    changed |= {name: SMALL[name] for name in ("vocab_size", "hidden_size") if name in settings}
    for name, part in settings.items():
        if name.endswith("_config") and isinstance(part, dict):
            changed[name] = {key: value for key, value in SMALL.items() if part.get(key) is not None}
    if "head_dim" not in settings:
        changed.pop("head_dim", None)
    return kind(**changed)


def check(architecture: str, kind: type[PreTrainedConfig]) -> Result:
    """Build, train and sample one architecture. Failures that are no one-line refusals are marked."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(small_config(kind))
            if sum(parameter.numel() for parameter in model.parameters()) > MAX_PARAMETERS:
                return Result(architecture, note="not built: too large with small sizes")
            model.save_pretrained(folder)
        except Exception as error:  # any of a hundred configurations, with sizes that it does not take
            return Result(architecture, note=f"not built: {_line(error)}")
        found = Result(architecture)
        try:
            layout, gap = _train(Path(folder))
            found = Result(architecture, layout, f"{gap:.1e}")
            reading, gap = _sample(Path(folder))
            found = Result(architecture, layout, found.training_gap, reading, f"{gap:.1e}")
            is_right = float(found.training_gap) <= TOLERANCES[0] and gap <= TOLERANCES[1]
            return found if is_right else Result(*_fields(found), note="**WRONG**")
        except GrpoError as error:
            return Result(*_fields(found), note=f"refused: {_line(error).split(': ', 1)[-1]}")
        except Exception as error:  # this is what the sweep is there to find
            return Result(*_fields(found), note=f"**traceback** {type(error).__name__}: {_line(error)}")


def _fields(found: Result) -> tuple[str, ...]:
    return found.architecture, found.layout, found.training_gap, found.reading, found.sampling_gap


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _completions(policy: Policy) -> list[Completion]:
    rng = np.random.default_rng(0)
    shared = rng.integers(3, policy.vocab_size, 21, dtype=np.int32)
    return [
        Completion(
            prompt_ids=shared,
            completion_ids=rng.integers(3, policy.vocab_size, num, dtype=np.int32),
            completion_mask=np.ones(num, dtype=np.bool_),
            sampling_logprobs=np.full(num, -5.0, dtype=np.float32),
            policy_version=0,
            temperature=1.0,
            finish_reason="length",
        )
        for num in (5, 9, 3)
    ]


def _targets(policy: Policy, *, all_linear: bool) -> tuple[str, ...]:
    """Names of the decoder's linear modules; without ``all_linear`` not those by which PEFT knows experts or Mamba."""
    names = {name.rpartition(".")[2] for name in linear_modules(policy.decoder)}
    return tuple(sorted(names if all_linear else names - REFUSED_BY_PEFT))


def _train(folder: Path) -> tuple[str, float]:
    """The layout of a step, and the largest difference of a gradient from PEFT's, relative to the largest gradient."""
    model = ModelConfig(name=str(folder), device="cpu", lora_rank=RANK, lora_alpha=ALPHA)
    training = TrainingConfig(
        learning_rate=0.0, max_grad_norm=1e9, old_logprobs="recomputed", kl_coefficient=0.0, advantages="mean_only"
    )
    policy, trainer = _open_trainer(model, training)
    for index, parameter in enumerate(trainer.trained.parameters):
        parameter.data = _random(parameter.shape, index)
    completions = _completions(policy)
    rewards = (1.0, 0.0, 0.3)
    trajectories = [Trajectory("0", "a", (each,), reward) for each, reward in zip(completions, rewards, strict=True)]
    metrics = trainer.step(Batch(0, 0, (Group("0", tuple(trajectories)),), RolloutStats(1.0, 0, 0, 0, 0)))
    ours = [parameter.grad for parameter in trainer.trained.parameters]

    plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    names = [name for name, module in policy.model.named_modules() if hasattr(module, "lora_A")]
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names)  # pyright: ignore[reportArgumentType]
    peft = get_peft_model(plain, lora).eval()
    theirs = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    for index, parameter in enumerate(theirs):
        parameter.data = _random(parameter.shape, index)
    advantages = np.array(rewards) - np.mean(rewards)
    num = sum(len(each.completion_ids) for each in completions)
    loss = -sum(
        float(value) * _logprobs(peft, each).sum() / num for each, value in zip(completions, advantages, strict=True)
    )
    loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
    pairs = [(one, other.grad) for one, other in zip(ours, theirs, strict=True)]
    largest = max((float(other.abs().max()) for _, other in pairs if other is not None), default=0.0)
    gaps = [_gap(one, other) for one, other in pairs]
    return metrics.packing, max(gaps) / max(largest, 1e-12)


def _open_trainer(model: ModelConfig, training: TrainingConfig) -> tuple[Policy, Trainer]:
    """With an adapter on every linear module of the decoder, as far as PEFT takes them."""
    for all_linear in (True, False):
        policy = load_policy(model, any_architecture=True)
        targets = _targets(policy, all_linear=all_linear)
        try:
            return policy, Trainer(policy, model.model_copy(update={"lora_targets": targets}), training, run="run")
        except ModelError as error:
            if "PEFT" not in str(error) or not all_linear:
                raise
    raise AssertionError("the second attempt returns or raises")


def _random(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def _gap(one: torch.Tensor | None, other: torch.Tensor | None) -> float:
    if one is None or other is None:
        given = one if other is None else other
        return 0.0 if given is None else float(given.abs().max())
    return float((one - other).abs().max())


def _logprobs(model: Any, completion: Completion) -> torch.Tensor:
    ids = np.concatenate([completion.prompt_ids, completion.completion_ids]).astype(np.int64)
    logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0]
    targets = torch.from_numpy(ids[len(completion.prompt_ids) :])[:, None]
    return logits[len(completion.prompt_ids) - 1 : -1].log_softmax(dim=-1).gather(-1, targets)[:, 0]


@torch.no_grad()
def _sample(folder: Path) -> tuple[str, float]:
    """How the plain engine reads, and how far its log-probabilities are from transformers' without a cache, in nats."""
    policy = load_policy(ModelConfig(name=str(folder), device="cpu"), any_architecture=True)
    engine = PlainEngine(policy, (2,), LoRACache(AdapterStore(folder / "adapters"), 1 << 20, 1), "run")
    prompt = np.random.default_rng(1).integers(3, policy.vocab_size, 21, dtype=np.int32)
    requests = [GenerationRequest(prompt, SamplingParams(seed, max_tokens=12, ignore_stop=True)) for seed in range(2)]
    plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    gaps = [
        float((torch.from_numpy(each.sampling_logprobs) - _logprobs(plain, each)).abs().max())
        for each in engine.generate(requests)
    ]
    return engine.reading, max(gaps)


def rows(results: list[Result]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{'---|' * len(HEADER)}"
    for result in results:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in result.cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; default: all")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    flags = parser.parse_args()
    set_verbosity_error()
    logging.getLogger("grpo_core").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kinds = sorted({kind.model_type: kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING}.items())
    results = []
    for architecture, kind in kinds:
        if flags.names and architecture not in flags.names:
            continue
        start = time.perf_counter()
        results.append(check(architecture, kind))
        print(f"{time.perf_counter() - start:5.1f} s  {'  '.join(results[-1].cells)}", flush=True)
    if flags.markdown is not None:
        write_atomic(flags.markdown, ("\n".join(rows(results)) + "\n").encode())
    sys.exit(any("**" in result.note for result in results))


if __name__ == "__main__":
    main()
