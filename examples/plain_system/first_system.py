import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_grpo import Completion, GrpoSystem, Rollout


class FirstSystem(GrpoSystem):
    name = "first_system"

    def __init__(self, settings):
        self.model = AutoModelForCausalLM.from_pretrained(settings.model_path)
        self.tokenizer = AutoTokenizer.from_pretrained(settings.model_path)

    def encode(self, text):
        return np.array(self.tokenizer.encode(text), dtype=np.int32)

    @torch.no_grad()
    def rollout(self, prompts, group_size, max_tokens, *, seed, batch_size=None, greedy=False):
        torch.manual_seed(seed)
        start = time.perf_counter()
        groups = [self.sample(torch.tensor(prompt).long().expand(group_size, -1), max_tokens) for prompt in prompts]
        return Rollout(tuple(groups), time.perf_counter() - start)

    def sample(self, rows, max_tokens):
        num_prompt_tokens, logprobs = rows.shape[1], []
        for _ in range(max_tokens):
            scores = self.model(input_ids=rows).logits[:, -1].log_softmax(dim=-1)  # [rows, V], nats
            drawn = torch.multinomial(scores.exp(), 1)
            rows = torch.cat([rows, drawn], dim=1)
            logprobs.append(scores.gather(1, drawn))
        answers = zip(rows[:, num_prompt_tokens:].int().numpy(), torch.cat(logprobs, 1).numpy(), strict=True)
        return tuple(Completion(ids, np.ones(max_tokens, dtype=bool), nats) for ids, nats in answers)

    def decoders(self):
        return [self.model]

    def tokenizers(self):
        return [self.tokenizer]
