"""The adapter of a PEFT model as arrays, and its published versions on disk."""

import time

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from pytest_grpo import AdapterSwap

PREFIX = "base_model.model."  # PEFT's, before every name
TRAINED, SAMPLED = "default", "sampled"  # PEFT's names of the two adapters
MAX_LOADED = 4


class Versions:
    """Versions 1, 2, ... of the adapter in training. The model has a second adapter for the one to sample from."""

    def __init__(self, model, folder):
        self._model = model
        self._folder = folder
        self._loaded = {}  # by version, in memory
        self.is_used = False  # whether the sampler has one
        self.num_hits = self.num_misses = 0

    def publish(self):
        self._folder.mkdir(parents=True, exist_ok=True)
        version = 1 + len(list(self._folder.iterdir()))
        save_file(get_peft_model_state_dict(self._model, adapter_name=TRAINED), self._file(version))
        return version

    def swap(self, version, cached):
        is_hit = cached and version in self._loaded
        start = time.perf_counter()
        if not is_hit:
            self._loaded[version] = load_file(self._file(version))
            if len(self._loaded) > MAX_LOADED:
                self._loaded.pop(next(iter(self._loaded)))
        loaded = time.perf_counter()
        set_peft_model_state_dict(self._model, self._loaded[version], adapter_name=SAMPLED)
        swapped = time.perf_counter()
        self.is_used = True
        self.num_hits += is_hit
        self.num_misses += not is_hit
        return AdapterSwap(is_hit, (loaded - start) * 1e3, (swapped - loaded) * 1e3)

    def _file(self, version):
        return self._folder / f"{version}.safetensors"


def read_weights(model):
    state = get_peft_model_state_dict(model, adapter_name=TRAINED)
    return {name.removeprefix(PREFIX): tensor.cpu().numpy().copy() for name, tensor in state.items()}


def write_weights(model, weights):
    state = {PREFIX + name: torch.from_numpy(values) for name, values in weights.items()}
    set_peft_model_state_dict(model, state, adapter_name=TRAINED)


def read_gradients(model):
    return {
        name.removeprefix(PREFIX).replace(f".{TRAINED}.", "."): part.grad.cpu().numpy().copy()
        for name, part in model.named_parameters()
        if part.grad is not None
    }
