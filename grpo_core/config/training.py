"""The section of the configuration about the training step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpo_core.config.section import Section
from grpo_core.types import Packing


class TrainingConfig(Section):
    """One GRPO update."""

    method: Literal["lora", "full"] = "lora"
    """What is trained: an adapter on frozen weights (``model.lora_*``), or all weights, which are then published."""
    learning_rate: float | None = Field(default=None, ge=0, le=10)
    """Default: 2e-3 for an adapter, 3e-4 for all weights, up to a hidden size of 512, which the presets have. Above
    that, times (256 / hidden size)²: 1e-5 and 1.5e-6 at 3584, a model of 7 billion weights."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls over ``schedule.num_steps`` after the warm-up. It is one number for each step."""
    warmup_steps: int = Field(default=0, ge=0, le=10**9)
    """Steps over which the rate rises: step k of W has k / W of it."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: the layers' matrices, an adapter's included, take orthogonalised steps (torch 2.9's own), scaled so
    that AdamW's rate and decay fit; with full fine-tuning all other weights keep AdamW."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """How fast AdamW's two moments decay."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decoupled: each update shrinks the weights by the rate times this."""
    updates_per_batch: int = Field(default=1, ge=1, le=1_000)
    """Optimizer steps on each batch (``num_iterations`` in TRL). The ratio of the loss stays that to the batch's
    start."""
    mini_batches: int = Field(default=1, ge=1, le=1_000)
    """Parts of the batch's groups; each update trains on the next one (``ppo_mini_batch_size`` in verl, as a count).
    ``updates_per_batch`` is a multiple: as often as it has these parts, the whole batch is trained on."""
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "sapo"] = "dapo"
    """The policy term and its normalisation; docs/training.md has the formula of each."""
    advantages: Literal["group_std", "batch_std", "mean_only", "leave_one_out"] = "group_std"
    """Scale of the group-relative advantages."""
    drop_zero_variance_groups: bool = False
    """Leave groups out whose rewards are all equal: no forward pass, and no part in any mean."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios below 1 - clip_low are clipped. Not in ``cispo`` and ``sapo``."""
    clip_high: float = Field(default=0.2, gt=0, le=1e6)
    """Ratios above 1 + clip_high are clipped; ``gspo`` wants about 4e-4, ``cispo`` 4. Not in ``sapo``."""
    clip_dual: float | None = Field(default=None, gt=1, le=1e6)
    """Largest ratio where the advantage is negative. Default: none."""
    sapo_temperature_positive: float = Field(default=1.0, gt=0, le=1e6)
    """How fast ``sapo`` fades tokens out whose advantage is positive."""
    sapo_temperature_negative: float = Field(default=1.05, gt=0, le=1e6)
    """The same for the others."""
    loss_length_tokens: int | None = Field(default=None, ge=1, le=2**20)
    """The constant length that ``dr_grpo`` divides by, for instance ``rollout.max_completion_tokens``."""
    kl_coefficient: float = Field(default=0.01, ge=0, le=1e6)
    """Weight of the KL divergence to the base model. At 0 it is not computed."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """``k1`` belongs in the reward: in the loss its gradient has mean 0, unless ``kl_bias_correction`` is on."""
    kl_in: Literal["loss", "reward"] = "loss"
    """A term of the loss, or a penalty on the reward of the trajectory, before the advantages."""
    kl_bias_correction: bool = False
    """Multiply the KL term of a token by its ratio to ``old_logprobs``, so that its gradient is the divergence's own
    (DeepSeek-V3.2; ``use_bias_correction_kl`` in TRL)."""
    old_logprobs: Literal["sampling", "recomputed"] = "sampling"
    """What the ratio of the loss is to: the sampler's log-probabilities, or the trainer's own, from one more forward
    pass before the update."""
    mismatch_correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "none"
    """What becomes of tokens or sequences whose ratio of the trainer's policy to the sampler's is out of bounds: the
    weight is cut to ``mismatch_high``, or they are left out."""
    mismatch_low: float = Field(default=0.5, ge=0, lt=1)
    """Lower bound of the masks. ``truncate`` has none."""
    mismatch_high: float = Field(default=5.0, gt=1, le=1e6)
    """Upper bound of the masks and of the weights."""
    mask_overlong: bool = False
    """No loss for a trajectory whose last turn was cut off at its length. Its reward still counts in its group."""
    entropy_coefficient: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the entropy bonus: the mean over the tokens with a loss, whatever ``loss`` is."""
    top_entropy_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens, those of highest entropy, that the policy term is about. The paper has 0.2."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e12)
    """Gradients whose norm is larger are scaled down to it."""
    micro_batch_tokens: int = Field(default=8192, ge=1, le=2**31 - 1)
    """Packed tokens per forward pass. Completions that share tokens are never split."""
    packing: Packing = "shared_prefix"
    """``shared_prefix`` computes what sequences begin with alike once, ``packed`` lays them end to end, ``padded`` is
    the plain path, a row for each. A model for which one is not exact takes the next; StepMetrics say which ran."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number type of the matrix products. The adapter, its gradient and the optimizer are float32 in both."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and run the layer again in the backward pass: less memory, more time."""
    shard_base_weights: bool = False
    """With several processes, each keeps its part of every layer's frozen weights and gathers a layer when it runs
    (FSDP2). Off: each has a copy (as DDP)."""

    def learning_rate_for(self, hidden_size: int) -> float:
        """``learning_rate``, or where it is None its default for a model of ``hidden_size``."""
        if self.learning_rate is not None:
            return self.learning_rate
        of_presets = 3e-4 if self.method == "full" else 2e-3
        return of_presets if hidden_size <= 512 else of_presets * (256 / hidden_size) ** 2

    @model_validator(mode="after")
    def _method_is_consistent(self) -> TrainingConfig:
        if self.method == "full" and self.shard_base_weights:
            raise ValueError(
                "shard_base_weights does not go with method 'full': no weights stay frozen; turn it off, and each "
                "process has a copy"
            )
        return self

    @model_validator(mode="after")
    def _updates_are_whole_passes(self) -> TrainingConfig:
        if self.updates_per_batch % self.mini_batches:
            raise ValueError(
                f"updates_per_batch {self.updates_per_batch} is no multiple of mini_batches {self.mini_batches}: some "
                f"groups would be trained on more than others; set it to {self.mini_batches}, or twice that"
            )
        if self.updates_per_batch > 1 and self.mismatch_correction != "none" and self.old_logprobs == "sampling":
            raise ValueError(
                f"mismatch_correction {self.mismatch_correction!r} with updates_per_batch {self.updates_per_batch} "
                "needs old_logprobs 'recomputed': it is about the policy before the first update"
            )
        return self

    @model_validator(mode="after")
    def _objective_is_consistent(self) -> TrainingConfig:
        if self.clip_dual is not None and self.loss in ("cispo", "sapo"):
            raise ValueError(f"clip_dual {self.clip_dual} has no meaning for loss {self.loss!r}; leave it out")
        if self.clip_dual is not None and self.clip_dual <= 1 + self.clip_high:
            raise ValueError(
                f"clip_dual {self.clip_dual} is not above 1 + clip_high {self.clip_high}: it is the wider bound of the "
                "two; raise it"
            )
        if (self.loss_length_tokens is not None) != (self.loss == "dr_grpo"):
            raise ValueError(
                f"loss_length_tokens {self.loss_length_tokens} does not go with loss {self.loss!r}: it is what "
                "'dr_grpo', and no other, divides by; set both or neither"
            )
        if self.kl_bias_correction and self.kl_in == "reward":
            raise ValueError(
                "kl_bias_correction does not go with kl_in 'reward': a reward has no gradient to correct; set kl_in to "
                "'loss', or leave it out"
            )
        if self.kl_bias_correction and self.kl_estimator == "k2":
            raise ValueError(
                "kl_bias_correction does not go with kl_estimator 'k2', which is biased whatever weighs it; use 'k3', "
                "or 'k1'"
            )
        if self.mismatch_correction.endswith("truncate") and self.old_logprobs == "sampling":
            raise ValueError(
                f"mismatch_correction {self.mismatch_correction!r} needs old_logprobs 'recomputed': with 'sampling' "
                "the ratio of the loss is the sampler's mismatch already, and the loss clips it"
            )
        if self.top_entropy_share < 1 and self.old_logprobs == "sampling":
            raise ValueError(
                f"top_entropy_share {self.top_entropy_share} needs old_logprobs 'recomputed': which entropies are the "
                "highest is known only after a forward pass over the whole step"
            )
        return self
