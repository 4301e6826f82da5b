"""The KV cache of prompts: a radix tree per policy version that stores shared prefixes once.

Prompts share prefixes in pages of ``PAGE_TOKENS``; the rest of a prompt after its last whole page is a leaf of its own.
Entries belong to a version and are never stale: ``drop`` removes a version's tree, and nodes that running requests
still use are freed with the last of them.

Legend: L layers, K key heads, D head size, n tokens of a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from grpo_core.model.common_prefix import num_common_tokens
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.types import Int32

PAGE_TOKENS = 16


class PrefixNode:
    """Some consecutive tokens of one or more prompts. ``keys`` and ``values`` are [L, K, n, D] once allocated."""

    def __init__(self, tokens: Int32, start: int, parent: PrefixNode | None) -> None:
        self.tokens = tokens
        self.start = start
        self.parent = parent
        self.children: dict[bytes, PrefixNode] = {}
        self.num_ready = 0  # tokens with computed keys and values
        self.num_users = 0  # requests with a prompt that ends here
        self.last_used = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.end_hidden: Tensor | None = None  # [hidden] after the last token: the next one is drawn from it

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def is_ready(self) -> bool:
        return self.num_ready == len(self.tokens)

    def path(self) -> list[PrefixNode]:
        """The nodes from the beginning of the prompt to this one."""
        nodes: list[PrefixNode] = []
        node: PrefixNode | None = self
        while node is not None and node.parent is not None:  # the root has no tokens
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class PrefixCache:
    """All trees. The caller bounds their size by ``evict``, which frees the least recently used prompts first."""

    def __init__(self, weights: DecoderWeights) -> None:
        self._weights = weights
        self._roots: dict[int, PrefixNode] = {}
        self._clock = 0
        self.bytes_per_token = weights.kv_bytes_per_token
        self.num_bytes = 0

    def acquire(self, version: int, prompt_ids: Int32) -> PrefixNode:
        """The node at which ``prompt_ids`` ends, with one more user. The caller computes what is not ready."""
        node = self._roots.setdefault(version, PrefixNode(np.empty(0, np.int32), 0, None))
        tail = len(prompt_ids) - len(prompt_ids) % PAGE_TOKENS
        place = 0
        while place < tail:
            child = node.children.get(_key(prompt_ids[place:tail]))
            if child is None:
                node = _add(node, prompt_ids[place:tail])
                break
            num_shared = _num_shared(child.tokens, prompt_ids[place:tail])
            node = child if num_shared == child.num_tokens else self._split(child, num_shared)
            place = node.end
        if tail < len(prompt_ids):
            rest = prompt_ids[tail:]
            node = node.children.get(_key(rest)) or _add(node, rest)
        node.num_users += 1
        self._touch(node)
        return node

    def split_bytes(self, version: int, prompt_ids: Int32) -> int:
        """Bytes that ``acquire`` takes for a moment, where it splits a node: half the node's, keys or values."""
        node = self._roots.get(version)
        tail = len(prompt_ids) - len(prompt_ids) % PAGE_TOKENS
        place = 0
        while node is not None and place < tail:
            node = node.children.get(_key(prompt_ids[place:tail]))
            if node is not None and _num_shared(node.tokens, prompt_ids[place:tail]) < node.num_tokens:
                return self._bytes_of(node) // 2 if node.keys is not None else 0
            place = node.end if node is not None else tail
        return 0

    def missing_bytes(self, nodes: Iterable[PrefixNode]) -> int:
        """Bytes that ``allocate`` takes for ``nodes``."""
        return sum(self._bytes_of(node) for node in nodes if node.keys is None)

    def release(self, node: PrefixNode) -> None:
        """One user less. The node stays cached, unless its version was dropped or it is not computed."""
        node.num_users -= 1
        if node.num_users == 0 and (self._is_dropped(node) or not _path_is_ready(node)):
            self._free_upwards(node)

    def drop(self, version: int) -> None:
        """Remove the tree of ``version``. Nodes in use are freed with their last user."""
        root = self._roots.pop(version, None)
        for node in list(_leaves(root)) if root is not None else []:
            self._free_upwards(node)

    def evict(self, num_bytes: int) -> None:
        """Free unused prompts, least recently used first, until ``num_bytes`` are freed or none is left."""
        target = self.num_bytes - num_bytes
        while self.num_bytes > target:
            unused = [node for root in self._roots.values() for node in _leaves(root) if not node.num_users]
            if not unused:
                return
            self._free(min(unused, key=lambda node: node.last_used))

    def allocate(self, node: PrefixNode) -> tuple[Tensor, Tensor]:
        """Allocate the keys and values of ``node``, unless they are."""
        if node.keys is None or node.values is None:
            weights = self._weights
            shape = (len(weights.layers), weights.num_key_heads, node.num_tokens, weights.head_size)
            node.keys, node.values = weights.embedding.new_empty(shape), weights.embedding.new_empty(shape)
            self.num_bytes += self._bytes_of(node)
        return node.keys, node.values

    def _split(self, node: PrefixNode, num_tokens: int) -> PrefixNode:
        """Make the first ``num_tokens`` of ``node`` a node of their own, above it. ``node`` keeps its end."""
        assert node.parent is not None
        upper = PrefixNode(node.tokens[:num_tokens], node.start, node.parent)
        upper.last_used = node.last_used
        node.parent.children[_key(node.tokens)] = upper
        if node.keys is not None and node.values is not None:
            # Copies, not views: a view of one half would keep the memory of both. The old keys go before the values.
            upper.keys, node.keys = _parted(node.keys, num_tokens)
            upper.values, node.values = _parted(node.values, num_tokens)
        upper.num_ready, node.num_ready = min(node.num_ready, num_tokens), max(0, node.num_ready - num_tokens)
        node.tokens, node.start, node.parent = node.tokens[num_tokens:], node.start + num_tokens, upper
        upper.children[_key(node.tokens)] = node
        return upper

    def _touch(self, node: PrefixNode) -> None:
        self._clock += 1
        for each in node.path():
            each.last_used = self._clock

    def _is_dropped(self, node: PrefixNode) -> bool:
        root = node
        while root.parent is not None:
            root = root.parent
        return root not in self._roots.values()

    def _free_upwards(self, node: PrefixNode) -> None:
        """Free ``node`` and its ancestors, as far as they have no other children and no users."""
        current: PrefixNode | None = node
        while current is not None and current.parent is not None and not current.children and not current.num_users:
            parent = current.parent
            if parent.children.get(_key(current.tokens)) is current:
                self._free(current)
            if parent.is_ready and parent.parent is not None and not self._is_dropped(parent):
                return  # still a valid cache entry
            current = parent

    def _free(self, node: PrefixNode) -> None:
        assert node.parent is not None
        assert not node.children
        del node.parent.children[_key(node.tokens)]
        if node.keys is not None:
            self.num_bytes -= self._bytes_of(node)
        node.keys = node.values = node.end_hidden = None
        node.num_ready = 0

    def _bytes_of(self, node: PrefixNode) -> int:
        return node.num_tokens * self.bytes_per_token


def _parted(tensor: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    return tensor[:, :, :num_tokens].clone(), tensor[:, :, num_tokens:].clone()


def _key(tokens: Int32) -> bytes:
    return tokens[:PAGE_TOKENS].tobytes()


def _add(parent: PrefixNode, tokens: Int32) -> PrefixNode:
    node = PrefixNode(tokens, parent.end, parent)
    parent.children[_key(tokens)] = node
    return node


def _num_shared(one: Int32, other: Int32) -> int:
    """Tokens of their longest common prefix, in whole pages."""
    num_common = num_common_tokens(one, other)
    return num_common - num_common % PAGE_TOKENS


def _leaves(root: PrefixNode) -> Iterator[PrefixNode]:
    waiting = list(root.children.values())
    while waiting:
        node = waiting.pop()
        if node.children:
            waiting.extend(node.children.values())
        else:
            yield node


def _path_is_ready(node: PrefixNode) -> bool:
    return all(each.is_ready for each in node.path())


def gather(nodes: list[PrefixNode], layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values [K, sum of n, D] of consecutive ``nodes``."""
    keys = [node.keys[layer] for node in nodes if node.keys is not None]
    values = [node.values[layer] for node in nodes if node.values is not None]
    assert len(keys) == len(nodes)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)
