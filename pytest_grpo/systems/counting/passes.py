"""Passes through decoders, seen by hooks on their modules and in torch itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass. ``num_tokens`` has the padding, too."""

    num_tokens: int
    has_gradient: bool


@dataclass
class Passes:
    """The passes of one block of code, as two watchers see them: each may see what the other one misses."""

    at_modules: list[Pass] = field(default_factory=list)
    """Calls of the modules, by any thread."""
    at_tables: list[Pass] = field(default_factory=list)
    """Look-ups in a table as long as the vocabulary, by the calling thread, in whichever module: each pass begins with
    one."""

    @property
    def seen(self) -> Sequence[Pass]:
        """What the watcher saw that saw more."""
        return max(self.at_modules, self.at_tables, key=len)


@contextmanager
def watch_passes(decoders: Iterable[nn.Module], vocab_size: int | None = None) -> Iterator[Passes]:
    """The passes inside the block. Without ``vocab_size`` only ``decoders`` are watched."""
    import torch

    passes = Passes()

    def called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        named = [kwargs[name] for name in ("input_ids", "inputs_embeds") if name in kwargs]
        passes.at_modules.append(Pass(_num_tokens([*named, *args, *kwargs.values()]), torch.is_grad_enabled()))

    with ExitStack() as watchers:
        for decoder in decoders:
            watchers.callback(decoder.register_forward_pre_hook(called, with_kwargs=True).remove)
        if vocab_size is not None:
            watchers.enter_context(_watch_tables(vocab_size, passes.at_tables))
        yield passes


def _num_tokens(inputs: Sequence[Any]) -> int:
    """Tokens of a decoder's first tensor: ids [...], or embeddings [..., width]."""
    import torch

    tensor = next((value for value in inputs if isinstance(value, torch.Tensor)), None)
    if tensor is None:
        return 0
    return tensor[..., 0].numel() if tensor.is_floating_point() else tensor.numel()


def _watch_tables(vocab_size: int, passes: list[Pass]) -> Any:
    """A mode of torch's dispatcher. It also sees models that nobody shows."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class TableWatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.embedding.default and len(args[0]) == vocab_size:
                passes.append(Pass(args[1].numel(), torch.is_grad_enabled()))
            return func(*args, **(kwargs or {}))

    return TableWatch()
