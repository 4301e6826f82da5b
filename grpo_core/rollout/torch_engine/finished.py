"""Sequences that have their last token: some wait for the base model's log-probabilities before they end."""

from __future__ import annotations

import numpy as np
import torch

from grpo_core.ledger import spans
from grpo_core.rollout.sequence import SequenceState
from grpo_core.rollout.torch_engine.admission import Admission
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixNode
from grpo_core.rollout.torch_engine.cache.row_batches import RowBatches
from grpo_core.rollout.torch_engine.capacity import no_room, out_of_memory
from grpo_core.rollout.torch_engine.requests import Requests, prompt_key
from grpo_core.rollout.torch_engine.scoring import ReferenceScorer


class Finished:
    """``unscored`` sequences wait for their siblings. While ``is_blocked`` they wait for memory, and nothing is
    admitted before them."""

    def __init__(self, requests: Requests, scorer: ReferenceScorer, admission: Admission, batches: RowBatches) -> None:
        self._requests = requests
        self._scorer = scorer
        self._admission = admission
        self._batches = batches
        self.unscored: list[SequenceState] = []
        self.is_blocked = False

    def add(self, sequence: SequenceState, leaf: PrefixNode) -> None:
        """Release what ``sequence`` holds. It ends now, unless its tokens are to be scored."""
        self._requests.release(sequence, leaf)
        if not sequence.request.want_ref_logprobs:
            self._requests.end(sequence, None)
        elif sequence.policy_version == 0:  # the policy is the base model
            self._requests.end(sequence, np.array(sequence.logprobs, dtype=np.float32))
        else:
            self.unscored.append(sequence)

    def score(self) -> None:
        """Score finished sequences under the base model, once no sibling that shares the prompt is still running."""
        ready = [sequence for sequence in self.unscored if not self._requests.has_siblings(sequence)]
        if not ready:
            self.is_blocked = False
            return
        ready.sort(key=prompt_key)
        self.unscored = [sequence for sequence in self.unscored if sequence not in ready]
        try:
            with spans.REFERENCE:
                while ready and (scores := self._scorer.score(ready, self._admission)):
                    for sequence, score in zip(ready, scores, strict=False):
                        self._requests.end(sequence, score)
                    del ready[: len(scores)]
        except torch.OutOfMemoryError as cause:
            for sequence in ready:
                self._requests.end(sequence, out_of_memory(sequence, "scoring", cause))
            ready = []
        if ready and not self._batches.num_rows and not self._admission.prefilling:
            self._requests.end(ready[0], no_room(ready[0], "scoring"))
            del ready[0]
        self.is_blocked = bool(ready)
        self.unscored.extend(ready)
