"""The real vLLM on the CPU, with a small model and the store that it reads."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_core.types import Adapter

if TYPE_CHECKING:
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import Policy
    from grpo_core.model.tokenizer import Tokenizer
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

HAS_VLLM = importlib.util.find_spec("vllm") is not None
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Bench:
    engine: VllmEngine
    policy: Policy
    tokenizer: Tokenizer
    store: AdapterStore
    cache: LoRACache
    folder: Path

    def publish_and_use(self, adapter: Adapter) -> None:
        self.store.publish(adapter)
        self.engine.use_version(adapter.version.number)

    def loaded_ids(self) -> set[int]:
        """Ids of the adapters that vLLM itself says it holds."""
        client: Any = self.engine._client
        return set(client._wait(client._llm.list_loras()))

    def peft(self, adapter: Adapter) -> Any:
        """The base model with ``adapter`` merged, by transformers and PEFT alone."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.folder)
        model: Any = PeftModel.from_pretrained(base, str(self.store.folder_of(adapter.version)))
        return model.merge_and_unload().eval()
