"""The values that pass between rooms: Observation -> Completion -> Trajectory -> Group -> Batch -> StepMetrics.

Shape letters: P prompt tokens, R completion tokens, A allowed ids over all tokens of a completion.
Arrays are numpy and read-only by convention; no torch logic lives here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_MIN_PACKED = 1024  # ids

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e6
"""What logits are divided by: beyond these, quotients of float32 numbers are no longer finite, or all alike."""

Message = Mapping[str, Any]
"""One message of a chat: ``{"role": "user", "content": "..."}``, and what else the model's chat template reads."""

FinishReason = Literal["stop", "length"]
EngineName = Literal["torch", "vllm", "plain"]
Questions = Literal["all", "training", "held_out"]
"""All questions of an environment, or those of one of its two parts."""
Packing = Literal["shared_prefix", "packed", "padded"]
"""How sequences are laid out for a forward pass: as a prefix tree, end to end, or a padded row for each."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one agent sees when it must act: a ``prompt``, or the ``messages`` of a chat so far.

    Messages go through the model's own chat template. Where they go on from the agent's last observation, with its
    answer as the assistant's message, the tokens that were sampled stay as they are. ``tools`` are shown by the
    template, too, in OpenAI's form.

    ``choices`` is the legal vocabulary of the answer: one tuple of lines per segment, the answer being one line of
    each segment, in order. ``None`` leaves the answer free. With ``distinct_choices`` a line may be chosen once only
    (Diplomacy's removals draw every segment from the same lines). Every line ends with ``"\\n"``. Instead of choices
    there may be a ``pattern``: a regular expression that the whole answer matches.
    """

    agent: str
    prompt: str = ""
    choices: tuple[tuple[str, ...], ...] | None = None
    distinct_choices: bool = False
    pattern: str | None = None
    messages: Sequence[Message] | None = None
    tools: Sequence[Mapping[str, Any]] = ()


PackedIds = Int32 | NDArray[np.uint8]
"""A set of token ids, or a bit for each id up to its largest."""


def pack_ids(ids: PackedIds) -> PackedIds:
    """``ids`` as bits where these take less memory: 19 kB where 120,000 of 151,936 ids would take 480."""
    if ids.dtype == np.uint8 or len(ids) < _MIN_PACKED or (ids[1:] <= ids[:-1]).any() or ids[0] < 0:
        return ids
    size = int(ids[-1]) + 1
    if size >= 32 * len(ids):
        return ids
    bits = np.zeros(size, dtype=np.bool_)
    bits[ids] = True
    return np.packbits(bits)


def unpack_ids(packed: PackedIds) -> Int32:
    """The set that ``pack_ids`` was given."""
    if packed.dtype != np.uint8:
        return packed.astype(np.int32, copy=False)
    return np.flatnonzero(np.unpackbits(packed.astype(np.uint8, copy=False))).astype(np.int32)


class RaggedIds:
    """A set of token ids per token: the ids of token ``i`` are ``ids[offsets[i]:offsets[i + 1]]``.

    Large sets are kept packed (``pack_ids``), and ``ids`` is made when it is asked for.
    """

    __slots__ = ("_sets", "offsets")

    def __init__(self, ids: Int32, offsets: Int32) -> None:
        """Of ``ids`` [A] and ``offsets`` [R + 1]."""
        self.offsets = offsets
        self._sets: list[PackedIds] | Int32 = ids
        if len(ids) >= _MIN_PACKED:
            sets = [pack_ids(ids[start:stop]) for start, stop in pairwise(offsets.tolist())]
            if any(each.dtype == np.uint8 for each in sets):
                self._sets = [each if each.dtype == np.uint8 else each.copy() for each in sets]

    @classmethod
    def of(cls, sets: Sequence[PackedIds]) -> RaggedIds:
        """Make one of a set per token, packed or not."""
        if not any(each.dtype == np.uint8 for each in sets):
            offsets = np.cumsum([0, *map(len, sets)], dtype=np.int32)
            return cls(np.concatenate([*sets, np.zeros(0, dtype=np.int32)]).astype(np.int32, copy=False), offsets)
        result = cls(np.zeros(0, dtype=np.int32), np.cumsum([0, *map(_size, sets)], dtype=np.int32))
        result._sets = list(sets)
        return result

    @property
    def ids(self) -> Int32:
        """The ids [A] of all tokens, end to end."""
        return self.between(0, len(self))

    def between(self, first: int, last: int) -> Int32:
        """The ids of tokens ``first:last``, end to end."""
        if isinstance(self._sets, np.ndarray):
            return self._sets[self.offsets[first] : self.offsets[last]] if last < len(self) or first else self._sets
        parts = [unpack_ids(each) for each in self._sets[first:last]]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def packed(self, index: int) -> PackedIds:
        """The set of token ``index``, as it is kept."""
        return self[index] if isinstance(self._sets, np.ndarray) else self._sets[index]

    def __getitem__(self, index: int) -> Int32:
        if isinstance(self._sets, np.ndarray):
            return self._sets[self.offsets[index] : self.offsets[index + 1]]
        return unpack_ids(self._sets[index])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"RaggedIds(ids={self.ids!r}, offsets={self.offsets!r})"


def _size(packed: PackedIds) -> int:
    return int(np.bitwise_count(packed).sum()) if packed.dtype == np.uint8 else len(packed)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the policy, with the log-probabilities of the distribution it was sampled from."""

    prompt_ids: Int32  # [P]
    completion_ids: Int32  # [R]
    completion_mask: Bool  # [R], True where the policy chose; False where a constraint forced the token
    sampling_logprobs: Float32  # [R], nats, 0 where forced
    policy_version: int
    temperature: float
    finish_reason: FinishReason
    allowed_ids: RaggedIds | None = None  # the support that was sampled from, when it was not the whole vocabulary
    ref_logprobs: Float32 | None = None  # [R], under the frozen base model, same temperature and support

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens, P + R."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All turns of one agent in one episode, and what they earned."""

    group_id: str
    agent: str
    turns: tuple[Completion, ...]
    reward: float
    overlong_penalty: float = 0.0  # 0 to -1, a part of what is trained on, and not of ``reward``
    scores: Mapping[str, float | None] = field(default_factory=dict)  # by reward function; None: it gave none
    row: int | None = None  # of the data set, counted from 1


@dataclass(frozen=True, slots=True)
class Group:
    """Sibling trajectories: one agent, one starting state, ``group_size`` episodes."""

    group_id: str
    trajectories: tuple[Trajectory, ...]

    @property
    def num_completion_tokens(self) -> int:
        """Completion tokens of all turns of all siblings, forced ones included."""
        return sum(len(turn.completion_ids) for trajectory in self.trajectories for turn in trajectory.turns)

    @property
    def has_spread(self) -> bool:
        """Its rewards differ: there is a winner, and so a gradient. A NaN reward differs from every other."""
        return any(trajectory.reward != self.trajectories[0].reward for trajectory in self.trajectories)


@dataclass(frozen=True, slots=True)
class RewardFunctionStats:
    """What a reward function took for one batch."""

    name: str
    duration_s: float
    num_failed: int  # answers for which it raised, hung, or gave no number


def added_up(stats: Iterable[RewardFunctionStats]) -> tuple[RewardFunctionStats, ...]:
    """One for each function, of several parts of a batch."""
    sums: dict[str, RewardFunctionStats] = {}
    for one in stats:
        before = sums.get(one.name, RewardFunctionStats(one.name, 0.0, 0))
        sums[one.name] = RewardFunctionStats(
            one.name, before.duration_s + one.duration_s, before.num_failed + one.num_failed
        )
    return tuple(sums.values())


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """Statistics of collecting one batch. They include starting states that were replaced."""

    duration_s: float
    num_prompt_tokens: int  # tokens of all prompts, as the policy saw them
    num_prefill_tokens: int  # prompt tokens actually computed: shared prefixes once
    num_completion_tokens: int
    num_completions: int
    num_failed_episodes: int = 0
    num_sampled_groups: int = 0  # starting states that were sampled
    num_replaced_groups: int = 0  # of these, the ones that are not in the batch because all their rewards were equal
    num_refilled_groups: int = 0  # starting states of the batch that are replacements with a gradient
    num_zero_variance_groups: int = 0  # starting states of the batch that have none
    num_trajectories: int = 0
    sampled_reward_mean: float = 0.0  # over all sampled trajectories: the policy's reward, unbiased by the replacements
    reward_functions: tuple[RewardFunctionStats, ...] = ()
    num_sampled_tokens: int = 0  # completion tokens that the engine drew or took as forced, whatever became of them
    num_preempted_tokens: int = 0  # of these, the ones of requests that were ended before their completion
    num_unused_tokens: int = 0  # of these, the ones of failed attempts and of openings
    num_replaced_tokens: int = 0  # of these, the ones of replaced starting states
    num_cached_tokens: int = 0  # prompt tokens that were read from the prefix cache
    num_decode_steps: int = 0
    num_decode_rows: int = 0  # requests that took part in a decode step, summed over the steps
    num_preemptions: int = 0
    kv_share_steps: float = 0.0  # share of the KV cache in use, summed over the steps; 0 where the engine cannot say
    num_read_bytes: int = 0  # of weights, from disk, after the version was loaded
    peak_memory_bytes: int = 0  # as that of StepMetrics, at the end of the collection

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of collection, environment time included."""
        return self.num_completion_tokens / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step consumes. ``policy_version`` is the oldest version that sampled any of it."""

    index: int
    policy_version: int
    groups: tuple[Group, ...]
    stats: RolloutStats


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One training step, measured. Counts are exact; see docs/metrics.md for what each value means."""

    step: int
    learning_rate: float  # of the step's updates, whatever the optimizer makes of it
    loss: float
    reward_mean: float
    reward_std: float
    overlong_penalty_mean: float
    advantage_abs_mean: float
    kl: float
    entropy: float
    mismatch_kl: float
    mismatch_ratio_min: float  # trainer's policy before the update to the sampler's
    mismatch_ratio_max: float
    ratio_min: float  # of the loss
    ratio_max: float
    clip_fraction: float  # both of the next two
    clip_fraction_low: float
    clip_fraction_high: float
    grad_norm: float
    num_dropped_groups: int
    num_sequences: int
    num_loss_tokens: int  # tokens that the policy chose: those with a loss
    num_effective_tokens: int  # of these, the ones that no mask removed
    num_masked_tokens: int
    num_forced_tokens: int  # of the same completions: a constraint left no choice, so they have no loss
    num_dropped_tokens: int  # of the groups that were dropped
    packing: str  # the layout that ran: a ``Packing``
    num_model_tokens: int  # tokens that went through the model after packing
    num_padded_tokens: int  # tokens that would have gone through it unpacked: sum of P + R
    num_forward_passes: int  # with a gradient
    num_scoring_passes: int  # without one, before the update: for missing old or reference log-probabilities
    num_micro_batches: int
    num_tokenizer_calls: int
    num_updates: int  # steps of the optimizer: none without a gradient, or with a non-finite one
    num_skipped_updates: int  # loss or gradient was non-finite
    is_skipped: bool  # so it was in all updates: the weights stay those of the previous version
    nonfinite_trajectories: str  # of skipped updates: what caused it, as "<group id>[<index>]" joined by "|"
    layout_ms: float
    scoring_ms: float
    loss_forward_ms: float
    backward_ms: float
    gradient_sum_ms: float
    optimizer_ms: float
    sums_ms: float
    peak_memory_bytes: int
    flops: float  # that the update needed at least, forward and backward, in all processes together
    conventional_flops: float  # 6 N T, as if nothing were shared, masked or frozen


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """Version ``number`` of the policy that ``run`` trains; 0 is the base model."""

    run: str
    number: int

    @property
    def name(self) -> str:
        """``<run>-v000003``, as logs and messages call it."""
        return f"{self.run}-v{self.number:06d}"


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA weights of one policy version, in PEFT's layout (``<module>.lora_A.weight``, ``.lora_B.weight``)."""

    version: PolicyVersion
    base_fingerprint: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class FullWeights:
    """All weights of one policy version, by their names in ``transformers``' state dict; tied ones once."""

    version: PolicyVersion
    base_fingerprint: str  # of the model that training began with
    architecture: Mapping[str, Any]  # transformers' config.json
    tensors: Mapping[str, torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


PolicyWeights = Adapter | FullWeights
"""What training publishes and rollouts sample from, as ``training.method`` has it."""
