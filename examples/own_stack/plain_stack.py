"""A stack that only samples: a plain loop over a `transformers` model, a prompt's completions together."""

import time

import numpy as np
import torch

from grpo_core import build_config, load_policy, load_tokenizer
from pytest_grpo import Completion, GrpoSystem, Rollout


class PlainStack(GrpoSystem):
    name = "plain_stack"

    def __init__(self, settings):
        config = build_config({"model": {"name": settings.model, "device": settings.device}})
        policy = load_policy(config.model)  # settings.model may be a preset; load your own model here
        self.model, self.device = policy.model, policy.device
        self.tokenizer = load_tokenizer(settings.model)

    def encode(self, text):
        return self.tokenizer.encode(text)

    def rollout(self, prompts, group_size, max_tokens, *, seed, batch_size=None, greedy=False):
        draw = torch.Generator(self.device).manual_seed(seed)
        start, size, groups = time.perf_counter(), batch_size or group_size, []
        for prompt in prompts:
            rows = [min(size, group_size - first) for first in range(0, group_size, size)]
            parts = [self._sample(prompt, num_rows, max_tokens, draw, greedy) for num_rows in rows]
            groups.append(tuple(completion for part in parts for completion in part))
        return Rollout(tuple(groups), time.perf_counter() - start)

    @torch.no_grad()
    def _sample(self, prompt, num_rows, max_tokens, draw, greedy):
        ids = torch.tensor(prompt, dtype=torch.long, device=self.device).expand(num_rows, -1)
        cache, tokens, logprobs = None, [], []
        for _ in range(max_tokens):
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
            scores = output.logits[:, -1].float().log_softmax(dim=-1)  # [rows, V], nats
            ids = scores.argmax(-1, keepdim=True) if greedy else torch.multinomial(scores.exp(), 1, generator=draw)
            cache = output.past_key_values
            tokens.append(ids)
            logprobs.append(scores.gather(1, ids))
        rows = zip(torch.cat(tokens, 1).tolist(), torch.cat(logprobs, 1).tolist(), strict=True)
        return [self._until_stop(*row) for row in rows]

    def _until_stop(self, ids, logprobs):
        """A completion ends with the stop token, which is part of it."""
        stop = self.tokenizer.stop_id
        length = ids.index(stop) + 1 if stop in ids else len(ids)
        return Completion(
            completion_ids=np.array(ids[:length], dtype=np.int32),
            completion_mask=np.ones(length, dtype=np.bool_),  # every token was chosen by the policy
            sampling_logprobs=np.array(logprobs[:length], dtype=np.float32),
        )
