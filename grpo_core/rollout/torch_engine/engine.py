"""The embedded rollout engine: torch with compiled C code on a CPU, exact, on a CPU or one GPU.

It batches continuously: requests join and leave between two forward passes. A step prefills a chunk of the waiting
prompts, then decodes every running sequence: one drawn token, and the run of tokens that its constraint forces.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grpo_core.ledger import spans
from grpo_core.lora.cache import LoRACache
from grpo_core.model.policy import Policy
from grpo_core.rollout.protocol import (
    AdapterSwap,
    EngineCounters,
    GenerationRequest,
    Outcome,
    completions_or_error,
    run_requests,
)
from grpo_core.rollout.sequence import SequenceState, check_request, own_error
from grpo_core.rollout.torch_engine.admission import Admission, Prefill
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.row_batches import RowBatches
from grpo_core.rollout.torch_engine.cache.rows import Row, RowBatch
from grpo_core.rollout.torch_engine.capacity import out_of_memory
from grpo_core.rollout.torch_engine.decoding import Decoding
from grpo_core.rollout.torch_engine.finished import Finished
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.prefill import next_chunks, read_chunks
from grpo_core.rollout.torch_engine.requests import Requests
from grpo_core.rollout.torch_engine.scoring import ReferenceScorer
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, fuse_weights
from grpo_core.rollout.torch_engine.weights.versions import Versions
from grpo_core.types import Completion

DEFAULT_KV_BYTES = 2 << 30
MAX_PREFILL_TOKENS = 2048
PREFILL_TOKENS = {"cpu": 512}  # a larger chunk is no faster there, and takes more memory


class TorchEngine:
    """Implements ``LocalEngine``. One thread uses it at a time; its ``policy`` is its own copy of the weights.

    ``max_kv_bytes`` bounds the keys and values of prompts and completions together; unused prompts stay in the prefix
    cache until their memory is needed. A pass prefills at most ``prefill_tokens``; the default suits the device. Two
    switches lead to simpler paths: without ``jump_forward`` forced tokens are read one per pass, without ``native``
    torch computes what compiled code would on a CPU, equal up to rounding.
    """

    scores_in_one_pass = True

    def __init__(
        self,
        policy: Policy,
        stop_ids: Sequence[int],
        adapters: LoRACache,
        run: str,
        *,
        max_batch_sequences: int = 256,
        prefill_tokens: int | None = None,
        max_kv_bytes: int = DEFAULT_KV_BYTES,
        jump_forward: bool = True,
        native: bool = True,
    ) -> None:
        self.model_fingerprint = policy.fingerprint
        self._device = policy.device
        self._max_context_tokens = policy.max_context_tokens
        self._stop_ids = tuple(stop_ids)
        self._prefill_tokens = prefill_tokens or PREFILL_TOKENS.get(policy.device.type, MAX_PREFILL_TOKENS)
        base = fuse_weights(policy)
        self._passes = Passes(base, native=native)
        self._versions = Versions(base, policy.fingerprint, adapters, run, self._passes.products)
        self._prefixes = PrefixCache(base)
        self._requests = Requests(self._prefixes, self._versions)
        self._batches = RowBatches()
        self._admission = Admission(self._prefixes, self._batches, max_batch_sequences, max_kv_bytes)
        scorer = ReferenceScorer(base, self._prefixes, self._passes, self._prefill_tokens)
        self._finished = Finished(self._requests, scorer, self._admission, self._batches)
        self._decoding = Decoding(
            self._passes,
            self._versions,
            self._batches,
            self._admission,
            self._requests,
            self._finished,
            jump_forward=jump_forward,
        )

    @property
    def policy_version(self) -> int:
        return self._versions.active

    @property
    def is_batch_invariant(self) -> bool:
        return self._passes.are_exact

    @property
    def counters(self) -> EngineCounters:
        return self._requests.counters

    @property
    def num_under_way(self) -> int:
        """Requests that were submitted and have not been returned by ``step``."""
        not_decoding = (self._admission.waiting, self._admission.prefilling, self._finished.unscored)
        return sum(map(len, not_decoding)) + self._batches.num_rows + self._requests.num_ended

    @property
    def base_weights(self) -> DecoderWeights:
        """The base model's weights, as its forward passes use them."""
        return self._versions.base

    @property
    def num_kv_bytes_per_token(self) -> int:
        """Keys and values of one token, over all layers."""
        return self._prefixes.bytes_per_token

    @property
    def num_kv_bytes(self) -> int:
        """Keys and values held now, cached prompts included."""
        return self._admission.num_bytes

    @torch.inference_mode()
    def use_version(self, number: int) -> AdapterSwap:
        before, num_before = self._versions.active, self._versions.num_activations
        running = self._versions.weights_of(before).weights
        is_needed = self._versions.is_held(before)
        swap = self._versions.activate(number)
        if self._versions.num_activations != num_before:
            if is_needed:  # its requests finish on the version that they started with
                self._batches.move(running, self._versions.weights_of(before).weights)
            # The base model's prompts are dropped too, though their values stay right: a resumed run does not have
            # them, and where torch computes, the last bits depend on what is prefilled together.
            for version in {before, number, 0}:
                self._prefixes.drop(version)
            self._requests.count(num_adapter_swaps=int(number != 0))
        return swap

    def submit(self, request: GenerationRequest) -> int:
        ticket = self._requests.new_ticket()
        version = self._versions.active if request.policy_version is None else request.policy_version
        try:
            vocab_size = len(self._versions.base.embedding)
            check_request(request, self._max_context_tokens, vocab_size)
            stop_ids = frozenset() if request.sampling.ignore_stop else {*self._stop_ids, *request.sampling.stop_ids}
            sequence = SequenceState(ticket, request, version, frozenset(stop_ids), vocab_size)
            self._requests.begin(sequence)
        except Exception as error:  # a user's request may hold anything
            self._requests.refuse(ticket, own_error(error, "submitting it"))
            return ticket
        self._admission.waiting.append(sequence)
        return ticket

    @torch.inference_mode()  # slots are closed up in place
    def cancel(self, ticket: int) -> None:
        admission = self._admission
        for sequence in [sequence for sequence in admission.waiting if sequence.ticket == ticket]:
            admission.waiting.remove(sequence)
            self._requests.release(sequence, None)
            self._requests.count(num_cancelled=1)
        for sequence, leaf in [pair for pair in admission.prefilling if pair[0].ticket == ticket]:
            admission.prefilling.remove((sequence, leaf))
            self._requests.release(sequence, leaf)
            self._requests.count(num_cancelled=1)
        for batch in self._batches:
            for row in [row for row in batch.rows if row is not None and row.sequence.ticket == ticket]:
                self._leave(batch, row)
                self._requests.count(num_cancelled=1, num_lost_tokens=len(row.sequence.tokens))
        for sequence in [sequence for sequence in self._finished.unscored if sequence.ticket == ticket]:
            self._finished.unscored.remove(sequence)
            self._requests.count(num_cancelled=1, num_lost_tokens=len(sequence.tokens))
        self._requests.forget_ended(ticket)

    def forget_prompts(self) -> None:
        self._prefixes.evict(self._prefixes.num_bytes)

    def drawn_tokens(self) -> dict[int, list[int]]:
        """What has been drawn so far, by ticket, for the requests that are decoding now."""
        return {row.sequence.ticket: list(row.sequence.tokens) for row in self._batches.rows}

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return completions_or_error(run_requests(self, requests))

    def close(self) -> None:
        """There are no threads or processes to stop."""

    @torch.inference_mode()
    def step(self) -> list[Outcome]:
        with self._passes.leading(), spans.DECODE:
            with spans.PREFILL:
                if not self._finished.is_blocked:
                    self._admit()
                joined = self._read_prompts()
            for batch in self._batches:
                if batch.rows:
                    self._decoding.advance(batch)
            if joined:
                self._decoding.join(joined)
            self._finished.score()
            for batch in self._batches:
                batch.shrink(self._admission.free_bytes)
            self._batches.tidy(self._admission.free_bytes)
            return self._requests.take_ended()

    def _admit(self) -> None:
        begun, refused = self._admission.admit()
        for sequence, error in refused:
            self._requests.fail(sequence, None, error)
        seen: set[PrefixNode] = set()
        for _, leaf in begun:  # siblings of one prompt: all but the first reuse it
            path = leaf.path()
            self._requests.count(
                num_cached_tokens=sum(node.num_tokens if node in seen else node.num_ready for node in path)
            )
            seen.update(path)

    def _read_prompts(self) -> list[Prefill]:
        """Prefill one chunk of the prompts, or all of them while nothing decodes; return those that are ready."""
        while self._admission.prefilling:
            self._read_part()
            ready = self._admission.take_ready()
            if not self._admission.prefilling or self._batches.num_rows:
                return ready
            self._admission.prefilling[:0] = ready  # nothing decodes: they start together
        return []

    def _read_part(self) -> None:
        prefilling = self._admission.prefilling
        for version in dict.fromkeys(sequence.policy_version for sequence, _ in prefilling):
            leaves = [leaf for sequence, leaf in prefilling if sequence.policy_version == version]
            chunks = next_chunks(leaves, self._prefill_tokens)
            if not chunks:
                continue
            try:
                read_chunks(chunks, self._versions.weights_of(version), self._prefixes, self._passes)
            except torch.OutOfMemoryError as error:
                self._fail_prefill({chunk.node for chunk in chunks}, error)
            else:
                self._requests.count(num_prefill_tokens=sum(chunk.num_tokens for chunk in chunks))

    def _fail_prefill(self, nodes: set[PrefixNode], cause: Exception) -> None:
        failed = [pair for pair in self._admission.prefilling if nodes.intersection(pair[1].path())]
        for sequence, leaf in failed:
            self._admission.prefilling.remove((sequence, leaf))
            self._requests.fail(sequence, leaf, out_of_memory(sequence, "reading the prompt", cause))

    def _leave(self, batch: RowBatch, row: Row) -> None:
        batch.remove(row)
        batch.compact()
        self._requests.release(row.sequence, row.leaf)
