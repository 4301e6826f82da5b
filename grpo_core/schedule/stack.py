"""The parts of one run, built and joined: who samples, who plays, who trains, and where adapters go between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import GrpoConfig
from grpo_core.environments import make_environment_factory
from grpo_core.environments.state_cache import StateCache
from grpo_core.home import Home
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model import Tokenizer, load_policy, load_tokenizer
from grpo_core.rollout.collector import Collector
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.parallel import Ranks, SingleProcess
from grpo_core.training.trainer import Trainer

MAX_CACHED_ADAPTER_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Stack:
    """All of it lives in one process; the engine and the trainer have a copy of the base weights each. Of several
    processes that train together, only the first has one."""

    config: GrpoConfig
    home: Home
    tokenizer: Tokenizer
    adapters: LoRACache
    store: AdapterStore
    engine: TorchEngine
    collector: Collector
    trainer: Trainer

    @property
    def buffer_folder(self) -> Path:
        return self.home.buffer / self.config.run

    @property
    def checkpoint_folder(self) -> Path:
        return self.home.checkpoints / self.config.run


def build_trainer(config: GrpoConfig, ranks: Ranks) -> Trainer:
    """A trainer with base weights of its own: all that a process needs which only helps to train.

    Raises:
        ModelError: there is no such model.
    """
    return Trainer(
        load_policy(config.model),
        config.model,
        config.training,
        run=config.run,
        seed=config.rollout.seed,
        ranks=ranks,
    )


def build_stack(config: GrpoConfig, home: Home, ranks: Ranks | None = None) -> Stack:
    """Load the models and join the parts. Nothing runs yet, nothing but the preset is written.

    With several ``ranks`` this is process 0; the others ``follow`` (``grpo_core.schedule.followers``).

    Raises:
        GrpoError: a model, environment or package that is not there.
    """
    factory = make_environment_factory(config.environment)
    tokenizer = load_tokenizer(config.model.name)
    policy = load_policy(config.model)
    store = AdapterStore(home.adapters)
    adapters = LoRACache(
        store, max_bytes=MAX_CACHED_ADAPTER_BYTES, max_adapters=config.schedule.max_policy_lag_steps + 2
    )
    engine = TorchEngine(
        policy,
        tokenizer.stop_id,
        adapters,
        config.run,
        max_batch_sequences=config.rollout.max_batch_sequences,
        max_kv_bytes=config.rollout.max_kv_bytes,
    )
    return Stack(
        config=config,
        home=home,
        tokenizer=tokenizer,
        adapters=adapters,
        store=store,
        engine=engine,
        collector=Collector(
            engine,
            tokenizer,
            factory,
            config.rollout,
            model_fingerprint=policy.fingerprint,
            state_cache=StateCache(home.states) if config.environment.use_state_cache else None,
            want_ref_logprobs=config.training.kl_coefficient > 0,
        ),
        trainer=build_trainer(config, ranks if ranks is not None else SingleProcess()),
    )
