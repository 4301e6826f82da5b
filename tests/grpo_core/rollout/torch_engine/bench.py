"""An engine with the store that it reads."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from torch import nn

from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter


@dataclass
class Bench:
    policy: Policy
    store: AdapterStore
    engine: TorchEngine

    def publish_and_use(self, adapter: Adapter) -> None:
        self.store.publish(adapter)
        self.engine.use_version(adapter.version.number)


def peft_model(bench: Bench, adapter: Adapter, plain_model: nn.Module) -> nn.Module:
    """``plain_model`` with ``adapter`` as PEFT loads it from the store's folder, unmerged."""
    return PeftModel.from_pretrained(plain_model, bench.store.folder_of(adapter.version)).eval()  # type: ignore[arg-type]
