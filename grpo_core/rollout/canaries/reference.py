"""The oracle of the canaries: log-probabilities by ``transformers`` and PEFT alone, one sequence at a time.

It computes in float32, also for a model in bfloat16: from the same weights, with what bfloat16 has left of them.

Legend: R completion tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, linear_modules
from grpo_core.model.proof import ordinary_ids, own_logits
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.types import Adapter, Completion, Float32, Float64, Int32, PolicyVersion

RANK, ALPHA = 4, 8.0  # of its adapters; unequal, so that a forgotten alpha/rank shows
NUM_ROUNDED_TEXTS, NUM_ROUNDED_TOKENS = 4, 64
SLACK = 1e-3  # nats, or probability mass: tokens so close to a limit may fall on either side of it


class Reference:
    """Publishes random adapters of ``run``, and computes what each version samples from. Version 0 is the base.

    ``rounding`` is what transformers itself is off by in the precision of ``policy``, in nats; 0 in float32.
    """

    def __init__(self, policy: Policy, store: AdapterStore, run: str) -> None:
        self._policy = policy
        self.rounding = _widen(policy)
        self._store = store
        self._run = run
        inside = {id(module) for module in policy.decoder.modules()}
        self._linears = {name: part for name, part in linear_modules(policy.model).items() if id(part) in inside}
        self._number = 0
        self._model: Any = policy.model  # with version ``_number`` on it

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the linear modules of the decoder, which an adapter can be for."""
        return tuple(sorted({name.rpartition(".")[2] for name in self._linears}))

    def publish(self, targets: tuple[str, ...], update_size: float = 0.2) -> int:
        """The new version of a random adapter for ``targets`` in every layer.

        Its update of a weight has ``update_size`` times the weight's Frobenius norm.
        """
        latest = self._store.latest(self._run)
        version = PolicyVersion(self._run, latest.number + 1 if latest is not None else 1)
        generator = torch.Generator().manual_seed(version.number)
        tensors: dict[str, Tensor] = {}
        for name, linear in self._linears.items():
            if name.rpartition(".")[2] not in targets:
                continue
            down = torch.randn(RANK, linear.in_features, generator=generator) / linear.in_features**0.5
            up = torch.randn(linear.out_features, RANK, generator=generator)
            size = float((up @ down).norm()) * ALPHA / RANK
            tensors[f"{name}.lora_A.weight"] = down
            tensors[f"{name}.lora_B.weight"] = up * (update_size * float(linear.weight.float().norm()) / size)
        self._store.publish(Adapter(version, self._policy.fingerprint, RANK, ALPHA, targets, tensors))
        return version.number

    def forget_before(self, number: int) -> None:
        """Remove the versions older than ``number`` from the store."""
        versions = self._store.versions(self._run)
        self._store.prune(self._run, keep_last=sum(version.number >= number for version in versions))

    @torch.inference_mode()
    def logits(self, completion: Completion, number: int) -> Float32:
        """Logits [R, V] that version ``number`` has for each token of ``completion``, before temperature."""
        ids = np.concatenate([completion.prompt_ids, completion.completion_ids]).astype(np.int64)
        input_ids = torch.from_numpy(ids)[None].to(self._policy.device)
        logits = self._load(number)(input_ids=input_ids, use_cache=False).logits[0]
        return logits[len(completion.prompt_ids) - 1 : -1].float().cpu().numpy()

    def logprobs(self, completion: Completion, number: int) -> Float32:
        """Log-probabilities [R] of ``completion`` under version ``number``; 0 where the token was forced.

        Temperature and support are the ones that ``completion`` has.
        """
        return score(self.logits(completion, number), completion)

    @torch.inference_mode()
    def greedy(self, prompt_ids: Int32, number: int, max_tokens: int, stop_id: int) -> list[int]:
        """What ``transformers.generate`` continues ``prompt_ids`` with, without sampling.

        It stops where the model's own generation configuration says, and at ``stop_id``, the tokenizer's.
        """
        own = self._policy.model.generation_config
        assert isinstance(own, GenerationConfig)
        input_ids = torch.from_numpy(prompt_ids.astype(np.int64))[None].to(self._policy.device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=own.eos_token_id,
            pad_token_id=stop_id,
            repetition_penalty=1.0,  # some checkpoints come with another one
        )
        ids = self._load(number).generate(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), generation_config=config
        )
        drawn: list[int] = ids[0, len(prompt_ids) :].tolist()
        return drawn[: drawn.index(stop_id) + 1] if stop_id in drawn else drawn

    def _load(self, number: int) -> Any:
        """The model with version ``number`` on it, unmerged, as PEFT reads it from the store's folder."""
        if number != self._number:
            if self._number != 0:
                self._model.unload()
            self._number, self._model = 0, self._policy.model
        if number != self._number:
            folder = self._store.folder_of(PolicyVersion(self._run, number))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT reads a name that transformers 5.23 has renamed
                loaded = PeftModel.from_pretrained(self._model, folder, torch_device=str(self._policy.device))
            self._model = loaded.eval()
            self._number = number
        return self._model


def _widen(policy: Policy) -> float:
    """Let ``policy`` compute in float32 from now on. By how many nats it was off before on random ids, at most."""
    if next(policy.model.parameters()).dtype == torch.float32:
        return 0.0
    rng = np.random.default_rng(0)
    texts = [rng.choice(ordinary_ids(policy), size=NUM_ROUNDED_TOKENS) for _ in range(NUM_ROUNDED_TEXTS)]
    with torch.inference_mode():
        before = [_next_logprobs(policy, ids) for ids in texts]
        policy.model.float()
        after = [_next_logprobs(policy, ids) for ids in texts]
    return max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))


def _next_logprobs(policy: Policy, ids: Int32) -> Tensor:
    """[T - 1]: of each of ``ids`` [T] but the first."""
    targets = torch.from_numpy(ids[1:].astype(np.int64))[:, None]
    return own_logits(policy, ids)[:-1].log_softmax(dim=-1).gather(-1, targets)[:, 0]


def score(logits: Float32 | Float64, completion: Completion) -> Float32:
    """Log-probabilities [R] of ``completion`` from its ``logits`` [R, V]; 0 where the token was forced."""
    scores = np.zeros(len(completion.completion_ids), dtype=np.float32)
    for index in np.flatnonzero(completion.completion_mask).tolist():
        row = logits[index].astype(np.float64) / completion.temperature
        support = row if completion.allowed_ids is None else row[completion.allowed_ids[index]]
        scores[index] = row[completion.completion_ids[index]] - _log_sum(support)
    return scores


def _log_sum(row: Float64) -> float:
    """The log of the summed exponentials of ``row`` [V]; NaN where the row is no distribution.

    By numpy: a row is too small to share among threads, which wait for each other on a busy machine.
    """
    with np.errstate(all="ignore"):
        top = row.max(initial=-np.inf)
        return float(top + np.log(np.exp(row - top).sum()))


def support_problem(
    logits: Float32 | Float64, request: GenerationRequest, completion: Completion, slack: float = SLACK
) -> str | None:
    """What is wrong with the support and the forced tokens that ``completion`` records, if anything is.

    ``logits`` [R, V] are those of the version that it was sampled from, right to within ``slack``.
    """
    sampling = request.sampling
    if request.constraint is None and sampling.top_p == 1 and not sampling.top_k and not sampling.min_p:
        is_free = completion.allowed_ids is None and bool(completion.completion_mask.all())
        return None if is_free else "a free completion has forced tokens or a support"
    if completion.allowed_ids is None:
        return "no allowed_ids recorded, though not every token could be drawn"
    cursor = request.constraint.start() if request.constraint is not None else None
    candidates = np.arange(logits.shape[-1])
    for index, token in enumerate(completion.completion_ids.tolist()):
        if cursor is not None:
            candidates = np.asarray(cursor.allowed())
            if token not in candidates:
                return f"token {index}: {token} is not what the constraint allows"
            if bool(completion.completion_mask[index]) != (len(candidates) > 1):
                return f"token {index}: forced by the constraint, or so recorded, but not both"
            cursor.advance(token)
        row = logits[index].astype(np.float64)[candidates] / sampling.temperature
        recorded = completion.allowed_ids[index]
        if (
            not _may_leave(row, np.isin(candidates, recorded), sampling, slack)
            or not np.isin(recorded, candidates).all()
        ):
            return f"token {index}: its {len(recorded)} allowed_ids are not those that the sampling parameters leave"
    return None


def _may_leave(row: Float64, recorded: NDArray[np.bool_], sampling: SamplingParams, slack: float) -> bool:
    """Whether top-k, min-p and then top-p may leave of ``row`` [C] what is ``recorded`` [C].

    They leave at least what they leave with limits that are ``slack`` narrower, at most what wider ones leave.
    """
    logprobs = row - _log_sum(row)
    order = np.argsort(-logprobs) if sampling.top_k or sampling.top_p < 1 else np.arange(len(row))
    logprobs, recorded = logprobs[order], recorded[order]
    surely, possibly = (_left(logprobs, sampling, each) for each in (-slack, slack))
    return not (surely & ~recorded).any() and not (recorded & ~possibly).any()


def _left(logprobs: Float64, sampling: SamplingParams, slack: float) -> NDArray[np.bool_]:
    """What is left of ``logprobs`` [C], descending where ranks count; rather more where ``slack`` is above 0."""
    is_left = logprobs > -np.inf
    if sampling.top_k:
        last, next_one = sampling.top_k - 1, sampling.top_k
        limit = logprobs[last if slack > 0 else next_one] if next_one < len(logprobs) else -np.inf
        is_left &= logprobs >= limit - slack
    if sampling.min_p:
        is_left &= logprobs >= logprobs.max() + np.log(sampling.min_p) - slack
    if sampling.top_p < 1:
        mass = np.where(is_left, np.exp(logprobs), 0.0)
        mass /= mass.sum()
        is_within = mass.cumsum() - mass < sampling.top_p + slack
        edge = logprobs[is_left & is_within].min(initial=np.inf)  # what ties with it may be in its place
        is_left &= logprobs >= edge - slack
    return is_left
