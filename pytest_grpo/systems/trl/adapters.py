"""Published adapters of a PEFT model: folders on disk, and beside the adapter in training those loaded last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_grpo.measuring.sampling.clock import now
from pytest_grpo.systems.protocol import AdapterSwap

TRAINED = "default"  # PEFT's name of the adapter in training
MAX_LOADED_ADAPTERS = 4


class PeftAdapters:
    """Saves with ``save_pretrained``, loads with ``load_adapter``, and switches with ``set_adapter``."""

    def __init__(self, model: Any, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._loaded: list[str] = []  # oldest first
        self._active = TRAINED
        self.num_hits = 0
        self.num_misses = 0

    def publish(self) -> int:
        """Save the adapter in training as the next version."""
        from grpo_core.home import write_folder

        version = 1 + max((int(folder.name) for folder in self._folder.glob("[0-9]*")), default=0)
        self._folder.mkdir(parents=True, exist_ok=True)
        with write_folder(self._folder / str(version)) as written:
            self._model.save_pretrained(str(written), selected_adapters=[TRAINED], save_embedding_layers=False)
        return version

    def swap(self, version: int, *, cached: bool) -> AdapterSwap:
        """Make ``version`` the active adapter.

        Raises:
            AdapterNotFoundError: it was never published.
        """
        name = f"v{version}"
        if not cached and name in self._loaded:
            self._unload(name)
        is_hit = name in self._loaded
        start = now()
        if not is_hit:
            self._load(name, self._folder / str(version))
        loaded = now()
        self._model.set_adapter(name, inference_mode=True)
        swapped = now()
        self._active = name
        self.num_hits += is_hit
        self.num_misses += not is_hit
        if len(self._loaded) > MAX_LOADED_ADAPTERS:
            self._unload(next(other for other in self._loaded if other != name))
        return AdapterSwap(is_hit, (loaded - start) * 1e3, (swapped - loaded) * 1e3)

    @contextmanager
    def training(self) -> Iterator[None]:
        """The adapter in training is the active one inside the block, that of the sampler again after it."""
        self._model.set_adapter(TRAINED)
        try:
            yield
        finally:
            self._model.set_adapter(self._active, inference_mode=self._active != TRAINED)

    def _load(self, name: str, folder: Path) -> None:
        from grpo_core.errors import AdapterNotFoundError

        if not folder.is_dir():
            raise AdapterNotFoundError(f"adapter {name}: not published by this system; publish it first")
        self._model.load_adapter(str(folder), name, is_trainable=False)
        self._loaded.append(name)

    def _unload(self, name: str) -> None:
        if self._active == name:
            self._model.set_adapter(TRAINED)
            self._active = TRAINED
        self._model.delete_adapter(name)
        self._loaded.remove(name)
