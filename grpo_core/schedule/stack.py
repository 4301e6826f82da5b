"""The parts of one run, built and joined: engine, collector, trainer, and the adapter store between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from grpo_core.config import GrpoConfig
from grpo_core.config.packages import is_own
from grpo_core.environments import make_environment_factory
from grpo_core.environments.dataset.source import DatasetFactory
from grpo_core.environments.protocol import EnvironmentFactory
from grpo_core.evaluation.evaluator import check_held_out
from grpo_core.home import Home
from grpo_core.lora.background_store import BackgroundStore
from grpo_core.lora.cache import DEFAULT_MAX_BYTES, LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import context_of, load_policy
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.engines import check_engine, open_engine
from grpo_core.rollout.play.build import build_collector
from grpo_core.rollout.play.collector import Collector
from grpo_core.rollout.play.dataset_prompts import check_prompts
from grpo_core.rollout.play.episode import EpisodeFailure
from grpo_core.rollout.protocol import AdapterSwap, LocalEngine
from grpo_core.training.distributed.ranks import Ranks, SingleProcess
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch


class BatchCollector(Protocol):
    """What collects batches: a ``Collector`` in this process, or a fleet of workers elsewhere."""

    @property
    def failures(self) -> Sequence[EpisodeFailure]:
        """The attempts that failed since ``collect`` was last called."""
        ...

    def use_version(self, number: int) -> AdapterSwap:
        """Sample the next batch from this policy version. Raises as ``RolloutEngine.use_version``."""
        ...

    def collect(self, index: int) -> Batch:
        """Play batch ``index``. Raises as ``Collector.collect``."""
        ...


@dataclass(frozen=True, slots=True)
class Stack:
    """What the training loop needs. Of several processes that train together, only process 0 has one."""

    config: GrpoConfig
    home: Home
    store: AdapterStore
    collector: BatchCollector
    trainer: Trainer
    tokenizer: Tokenizer
    rows: str = field(default="", kw_only=True)
    """Digest of the data set whose rows are asked for; empty without one, and where other machines play."""

    @property
    def config_in_use(self) -> GrpoConfig:
        """``config`` with what was left to a default of the model's: the learning rate."""
        training = self.config.training.model_copy(update={"learning_rate": self.trainer.learning_rate})
        return self.config.model_copy(update={"training": training})

    @property
    def buffer_folder(self) -> Path:
        """The batches of this run that wait for the trainer, or that a checkpoint still needs."""
        return self.home.buffer / self.config.run

    @property
    def checkpoint_folder(self) -> Path:
        """The checkpoints of this run."""
        return self.home.checkpoints / self.config.run


@dataclass(frozen=True, slots=True)
class LocalStack(Stack):
    """A stack with an engine of its own. Engine and trainer each have a copy of the base weights.

    Close it, or use it as a context manager, to end the engine's processes.
    """

    collector: Collector
    adapters: LoRACache
    engine: LocalEngine

    def __enter__(self) -> LocalStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the engine: its threads and processes end. Twice is no error."""
        self.engine.close()


def build_trainer(config: GrpoConfig, ranks: Ranks) -> Trainer:
    """A trainer with its own copy of the base weights. Processes other than process 0 need nothing else.

    Raises:
        ModelError: there is no such model, or the run's torch engine does not support its architecture.
    """
    return Trainer(
        load_policy(config.model, any_architecture=config.rollout.engine != "torch"),
        config.model,
        config.training,
        run=config.run,
        seed=config.rollout.seed,
        num_steps=config.schedule.num_steps,
        ranks=ranks,
    )


def build_stack(config: GrpoConfig, home: Home, ranks: Ranks | None = None) -> LocalStack:
    """Load the models and join the parts. Nothing runs yet; only a preset that is not in the cache is written.

    With several ``ranks`` this is process 0; the others ``follow`` (``grpo_core.schedule.followers``).

    Raises:
        GrpoError: a model, environment or package that is not there, or an engine that does not start.
    """
    check_engine(config)
    factory = make_environment_factory(config.environment)  # what is wrong with it is said before a model is loaded
    held_out = check_held_out(config) if config.evaluation.every_steps else None
    tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
    tokenizer.chat(config.rollout.chat_template_arguments)  # refuses those that the template does not have
    _check_questions(config, factory, held_out, tokenizer)
    if is_own(config.environment.name):  # one of the user's own may ask for it
        factory = make_environment_factory(config.environment, tokenizer)
    trainer = build_trainer(config, ranks if ranks is not None else SingleProcess())
    store = BackgroundStore(home.adapters)
    adapters = LoRACache(store, max_bytes=DEFAULT_MAX_BYTES, max_adapters=config.schedule.max_policy_lag_steps + 2)
    engine = open_engine(config, tokenizer.stop_ids, adapters, store, fingerprint=trainer.base_fingerprint)
    return LocalStack(
        config=config,
        home=home,
        store=store,
        collector=build_collector(config, home, engine, tokenizer, factory),
        trainer=trainer,
        tokenizer=tokenizer,
        adapters=adapters,
        engine=engine,
        rows=factory.rows.digest if isinstance(factory, DatasetFactory) else "",
    )


def _check_questions(
    config: GrpoConfig, factory: EnvironmentFactory, held_out: EnvironmentFactory | None, tokenizer: Tokenizer
) -> None:
    """Raises ``ConfigError`` for a question of a file that the model of ``config`` cannot read."""
    own = factory if config.environment.name == "dataset" else None
    for key, dataset in (("environment.data.path", own), ("evaluation.path", held_out)):
        if isinstance(dataset, DatasetFactory):
            check_prompts(dataset, tokenizer, config.rollout, context_of(config.model.name), key)
