"""``GrpoSystem``, the interface of a GRPO stack under test, and its inputs and outputs. Arrays are numpy, not torch.

Legend: P prompt tokens, R completion tokens, G completions of one prompt. Log-probabilities are in nats, at
temperature 1 over the whole vocabulary, so that any stack can compute them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pytest_grpo.systems.figures import check_figures
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord
from pytest_grpo.systems.train_step import AdapterSwap, TrainStep
from pytest_grpo.systems.unsupported import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    Int32 = NDArray[np.int32]
    Float32 = NDArray[np.float32]
    Bool = NDArray[np.bool_]

CLIP = 0.2
"""Probability ratios are clipped to 1 - CLIP .. 1 + CLIP."""
MAX_GRAD_NORM = 1.0
ADVANTAGE_EPSILON = 1e-4

NumberType = Literal["float32", "bfloat16"]
Packing = Literal["shared_prefix", "packed", "padded"]

STEP_ANNOTATIONS = ("loss_forward", "backward", "optimizer", "publish")
"""What the trace of a training step and its publication has: the first two once per micro-batch."""


@dataclass(frozen=True, slots=True)
class SystemSettings:
    """The settings that a system is built from: those of the run that the phases judge."""

    home: Path
    """A folder for adapters and other files of this system."""
    model: str = "tiny"
    """A preset, a model folder, or a hub id."""
    dtype: NumberType = "float32"
    """Of the base weights. What is trained is float32."""
    precision: NumberType = "float32"
    """Of the matrix products of a training step."""
    method: Literal["lora", "full"] = "lora"
    """What is trained: an adapter, or all weights; then ``lora_*`` means nothing."""
    engine: str = "torch"
    """What samples, for systems that have a choice."""
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj")
    kl_coefficient: float = 0.0
    device: str = "auto"
    """A torch device, or ``auto`` for the GPU when there is one."""
    packing: Packing | None = None
    """The layout of a training step: each prompt once, sequences end to end, or one padded row per sequence. None: the
    system's default."""
    micro_batch_tokens: int = 8192
    """Maximum tokens, padding included, per forward pass of a training step."""
    max_kv_bytes: int = 2 << 30
    """Keys and values that the sampler may hold."""
    seed: int = 0
    """Seed of the initial adapter weights."""

    def only(self, system: str, **allowed: tuple[object, ...]) -> None:
        """For a system without a choice: refuse other values of these fields, e.g. ``only("mine", method=("lora",))``.

        Raises:
            UnsupportedError: a field has another value.
        """
        values = asdict(self)
        for name, known in allowed.items():
            if values[name] not in known:
                has = ", ".join(map(repr, known))
                raise UnsupportedError(f"system {system}: has no {name} {values[name]!r}; what it has is {has}")

    @property
    def model_path(self) -> str:
        """What ``from_pretrained`` takes: ``model``, or the folder of a preset, which is built where it is missing.

        Raises:
            ModelError: there is no such model.
        """
        from grpo_core.model.source import locate_model

        return locate_model(self.model)


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer. ``completion_mask`` is False for tokens that the policy did not choose: they have no loss."""

    completion_ids: Int32  # [R]
    completion_mask: Bool  # [R]
    sampling_logprobs: Float32  # [R], of the distribution sampled from
    ref_logprobs: Float32 | None = None  # [R], of the base model; needed where kl_coefficient is above 0

    def __post_init__(self) -> None:
        assert len(self.completion_ids) == len(self.completion_mask) == len(self.sampling_logprobs)
        assert self.ref_logprobs is None or len(self.ref_logprobs) == len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Rollout:
    """G completions per prompt, and the seconds that sampling took."""

    completions: tuple[tuple[Completion, ...], ...]
    seconds: float

    def __post_init__(self) -> None:
        check_figures(self, beside=("completions",))

    @property
    def num_completion_tokens(self) -> int:
        """Tokens of all completions, the stop tokens included."""
        return sum(len(completion.completion_ids) for group in self.completions for completion in group)


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """The completions of one prompt and their rewards."""

    prompt_ids: Int32  # [P]
    completions: tuple[Completion, ...]  # [G]
    rewards: tuple[float, ...]  # [G]

    def __post_init__(self) -> None:
        assert len(self.completions) == len(self.rewards)

    @property
    def advantages(self) -> Float32:
        """[G]: rewards less their mean, over their sample standard deviation (Shao et al. 2024, section 4.1.2)."""
        import numpy as np

        rewards = np.array(self.rewards, dtype=np.float64)
        if np.ptp(rewards) == 0:
            return np.zeros(len(rewards), dtype=np.float32)
        return ((rewards - rewards.mean()) / (rewards.std(ddof=1) + ADVANTAGE_EPSILON)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """The input of one training step."""

    groups: tuple[TrainGroup, ...]

    @classmethod
    def from_rollout(cls, prompts: Sequence[Int32], rollout: Rollout, rewards: Sequence[Sequence[float]]) -> TrainBatch:
        """A batch of all completions of ``rollout``, and ``rewards[prompt][completion]``, what each earned."""
        groups = zip(prompts, rollout.completions, rewards, strict=True)
        return cls(tuple(TrainGroup(prompt, completions, tuple(earned)) for prompt, completions, earned in groups))

    @property
    def completions(self) -> tuple[Completion, ...]:
        """The completions of all groups, in order."""
        return tuple(completion for group in self.groups for completion in group.completions)

    @property
    def num_loss_tokens(self) -> int:
        """Tokens that the policy chose: those with a loss."""
        return sum(int(completion.completion_mask.sum()) for completion in self.completions)


@runtime_checkable
class GrpoSystem(Protocol):
    """A GRPO stack: a policy with a LoRA adapter, a sampler and a trainer.

    A class that derives from this one may leave methods out: they raise ``UnsupportedError``, and the gates that need
    them do not apply. Repeat each signature as it stands here; a type checker compares them.

    ``encode`` to ``swap_adapter`` are the parts of a training step, ``run`` is the system's own loop over them, and
    ``events`` to ``logprob_tolerance`` show its events, its trace, its state and what it computes with.
    """

    name: str

    def encode(self, text: str) -> Int32:
        """Ids [P] of ``text``, without special tokens."""
        raise _unsupported(self, "encode")

    def rollout(
        self,
        prompts: Sequence[Int32],
        group_size: int,
        max_tokens: int,
        *,
        seed: int,
        batch_size: int | None = None,
        greedy: bool = False,
    ) -> Rollout:
        """Sample ``group_size`` completions of each prompt, at temperature 1 from the whole vocabulary.

        A completion ends with the stop token, which it includes, or after ``max_tokens``. At most ``batch_size``
        sequences decode together; None leaves that to the system. ``greedy`` takes the most probable token at each
        step, so that outputs are deterministic; such completions are not for training.

        The policy is that of the last ``swap_adapter``. Before the first one it is the base model or the policy in
        training, which are equal until the first update.
        """
        raise _unsupported(self, "rollout")

    def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
        """Forward, backward, and one AdamW update. With a learning rate of 0 the same step can be repeated.

        The loss is the mean over all chosen tokens of the batch of -min(r A, clip(r) A) + kl_coefficient * KL, with
        r = exp(logprobs - sampling_logprobs) and the unbiased "k3" estimate of KL (Yu et al. 2025, DAPO, section 3.3).
        The gradient's norm is clipped to ``MAX_GRAD_NORM``. AdamW has betas 0.9 and 0.999, epsilon 1e-8 and no weight
        decay.
        """
        raise _unsupported(self, "train_step")

    def gradients(self) -> Mapping[str, Float32]:
        """A copy of the gradient that the optimizer took in the last step, after clipping, named as ``weights``."""
        raise _unsupported(self, "gradients")

    def weights(self) -> Mapping[str, Float32]:
        """A copy of the weights in training. An adapter is in PEFT's layout: ``<module>.lora_A.weight`` [rank, inputs],
        and so on. Full weights have their names in ``transformers``' state dict, tied ones once."""
        raise _unsupported(self, "weights")

    def load_weights(self, weights: Mapping[str, Float32]) -> None:
        """Continue training from ``weights``, e.g. from another system's ``weights()``."""
        raise _unsupported(self, "load_weights")

    def publish_adapter(self) -> int:
        """Write the adapter in training to disk for samplers, and return its version: 1 or above."""
        raise _unsupported(self, "publish_adapter")

    def swap_adapter(self, version: int, *, cached: bool = True) -> AdapterSwap:
        """Sample from this published version from now on. ``cached=False`` loads it from disk, as in a new process."""
        raise _unsupported(self, "swap_adapter")

    def run(self, num_steps: int, plan: RunPlan) -> Sequence[StepRecord]:
        """Train for ``num_steps`` whole steps from the present weights on, and tell of each.

        Batch k is ``plan.num_episodes`` episodes, sampled from weights that are at most ``plan.max_policy_lag_steps``
        updates old when the k-th step begins. Batches are sampled one after the other. From the same state a run gives
        the same steps, as far as ``logprob_tolerance`` allows. A part of the plan that the system cannot do is an
        ``UnsupportedError``, before anything runs. Versions that were published before may be gone afterwards.
        """
        raise _unsupported(self, "run")

    def events(self, file: Path) -> AbstractContextManager[object]:
        """Inside the block, each step of ``run`` appends its events to ``file``: one JSON object per line, with
        ``kind``, ``time`` (seconds since 1970), ``run`` (a name) and the fields of ``StepRecord.events``."""
        raise _unsupported(self, "events")

    def trace(self, folder: Path) -> AbstractContextManager[object]:
        """Write a trace of the block to ``folder/trace.json``, in Chrome's format. The parts of a step have annotations
        with the names ``STEP_ANNOTATIONS``, of the category ``user_annotation``: ``torch.profiler.record_function``
        makes them."""
        raise _unsupported(self, "trace")

    def save_state(self, folder: Path) -> None:
        """Write all that ``run`` goes on from to ``folder``, which is empty: weights, the optimizer's state, counters
        and random numbers."""
        raise _unsupported(self, "save_state")

    def load_state(self, folder: Path) -> None:
        """Go on from what a system with the same settings saved: this one, or one in an earlier process."""
        raise _unsupported(self, "load_state")

    def decoders(self) -> Sequence[nn.Module]:
        """The modules each call of which is one pass through a decoder; none is a part of another one.

        Their calls are counted. Without any, counts are as the system tells them.
        """
        return ()

    def tokenizers(self) -> Sequence[object]:
        """All tokenizers that the system uses. The calls of their methods are counted, as those of ``decoders``."""
        return ()

    @property
    def logprob_tolerance(self) -> float:
        """How much two log-probabilities of the same token and weights may differ, in nats: sampled alone and in a
        batch, sampled and trained. 0: the system is exact but for the rounding of float32."""
        return 0.0

    @property
    def counters(self) -> Mapping[str, int]:
        """Exact totals since the system was built, by name; a counter that the system lacks is absent.

        Common names: ``adapter_cache_hits``, ``adapter_cache_misses``, ``num_completion_tokens``,
        ``num_prefill_tokens`` (prompt tokens that were computed).
        """
        return {}


@runtime_checkable
class ClosableSystem(Protocol):
    """A system that holds processes, threads or memory until it is closed."""

    def close(self) -> None:
        """End them. Nothing is called after it. Twice is no error."""
        ...


def _unsupported(system: GrpoSystem, what: str) -> UnsupportedError:
    return UnsupportedError(f"system {system.name}: has no {what}; leave out the tests that need it")
