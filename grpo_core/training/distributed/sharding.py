"""Sharded base weights: each process keeps a shard of every layer and gathers the layer when it runs.

This is torch's FSDP2 (Zhao et al. 2023, "PyTorch FSDP"). The adapter, the embeddings and the head are not sharded: each
process has them whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import nn

from grpo_core.model.policy import Policy


def shard_layers(policy: Policy, trained: Sequence[nn.Parameter]) -> None:
    """Keep only this process's shard of the layers' frozen weights. Needs the process group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(policy.device.type, (dist.get_world_size(),))
    layers = policy.decoder.get_submodule("layers")
    in_layers = set(layers.parameters())
    outside = {parameter for parameter in policy.decoder.parameters() if parameter not in in_layers}
    for layer in layers.children():
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=set(trained))
    fully_shard(policy.decoder, mesh=mesh, reshard_after_forward=True, ignored_params={*trained, *outside})
