from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
import torch
from grpo_core.config import ModelConfig
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.torch_engine.engine import TorchEngine

native = sys.argv[2] == "native"
torch.set_num_threads(2)
policy = load_policy(ModelConfig(name=sys.argv[1], device="cpu"))
store = AdapterStore(Path(sys.argv[1]) / "none")
engine = TorchEngine(policy, (0,), LoRACache(store, 1, 1), "run", native=native)
prompt = np.arange(1, 200, dtype=np.int32)
requests = [GenerationRequest(prompt, SamplingParams(seed, max_tokens=6)) for seed in range(4)]

def answers():
    product = torch.ones(600, 600) @ torch.ones(600, 600) + torch.ones(600, 600).exp()
    return [each.completion_ids.tolist() for each in engine.generate(requests)], float(product.sum())

before = answers()
assert torch.get_num_threads() == 2
child = os.fork()
if child == 0:
    os._exit(0 if answers() == before and torch.get_num_threads() == 1 else 3)
_, status = os.waitpid(child, 0)
assert torch.get_num_threads() == 2
assert answers() == before
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", ["native", "torch"])
def test_a_child_that_is_forked_after_a_pass_of_two_threads_computes_the_same(path: str, model_folder: Path) -> None:
    """It would wait for the threads of its parent for ever."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(model_folder), path], start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
