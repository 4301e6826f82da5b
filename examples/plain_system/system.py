"""A whole GRPO stack over ``transformers`` and ``peft``: it samples, trains, publishes, and runs its own loop."""

import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.profiler import profile, record_function
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_grpo import Completion, EventFile, GrpoSystem, Rollout, StepRecord, TrainBatch, TrainStep

from .adapters import SAMPLED, TRAINED, Versions, read_gradients, read_weights, write_weights
from .scoring import Example, examples_of, logprobs_of, losses_of, split

MAX_GRAD_NORM = 1.0
STATE_FILE = "state.safetensors"


class PlainSystem(GrpoSystem):
    name = "plain_system"

    def __init__(self, settings):
        settings.only(self.name, packing=(None, "padded"), method=("lora",), engine=("torch",))
        settings.only(self.name, dtype=("float32",), precision=("float32",))
        lora = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            target_modules=list(settings.lora_targets),
            task_type="CAUSAL_LM",
        )
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            base = AutoModelForCausalLM.from_pretrained(settings.model_path, dtype=torch.float32)
            self.model = get_peft_model(base, lora)
            self.model.add_adapter(SAMPLED, lora)
        is_on_gpu = settings.device == "auto" and torch.cuda.is_available()
        self.model.to("cuda" if is_on_gpu else settings.device.replace("auto", "cpu")).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(settings.model_path)
        self.trained = [part for name, part in self.model.named_parameters() if f".{TRAINED}." in name]
        self.optimizer = torch.optim.AdamW(self.trained, weight_decay=0.0)
        self.versions = Versions(self.model, settings.home / "versions")
        self.event_file = EventFile()  # none yet
        self.num_steps = 0

    def encode(self, text):
        return np.array(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def rollout(self, prompts, group_size, max_tokens, *, seed, batch_size=None, greedy=False):
        draw = torch.Generator(self.model.device).manual_seed(seed)
        size, groups = batch_size or group_size, []
        start = time.perf_counter()
        with torch.no_grad(), self._sampler():
            for prompt in prompts:
                rows = [min(size, group_size - first) for first in range(0, group_size, size)]
                parts = [self._sample(prompt, num_rows, max_tokens, draw, greedy) for num_rows in rows]
                groups.append(tuple(completion for part in parts for completion in part))
        seconds = time.perf_counter() - start
        if self.settings.kl_coefficient and not greedy:
            groups = [self._with_reference(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]
        return Rollout(tuple(groups), seconds)

    @contextmanager
    def _sampler(self):
        """The sampler's adapter is the active one inside the block."""
        self.model.set_adapter(SAMPLED if self.versions.is_used else TRAINED)
        try:
            yield
        finally:
            self.model.set_adapter(TRAINED)

    def _sample(self, prompt, num_rows, max_tokens, draw, greedy):
        ids = torch.tensor(prompt, device=self.model.device).long().expand(num_rows, -1)
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
        stop = self.tokenizer.eos_token_id
        length = ids.index(stop) + 1 if stop in ids else len(ids)
        return Completion(
            completion_ids=np.array(ids[:length], dtype=np.int32),
            completion_mask=np.ones(length, dtype=np.bool_),  # every token was chosen by the policy
            sampling_logprobs=np.array(logprobs[:length], dtype=np.float32),
        )

    def _with_reference(self, prompt, group):
        """The same completions with the log-probabilities of the base model."""
        examples = [Example(prompt, completion, 0.0) for completion in group]
        with torch.no_grad(), self.model.disable_adapter():
            scored = logprobs_of(self.model, examples)
        return tuple(
            replace(item, ref_logprobs=logprobs.cpu().numpy()) for item, logprobs in zip(group, scored, strict=True)
        )

    def train_step(self, batch, *, learning_rate=0.0):
        start = time.perf_counter()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad()
        losses, logprobs, forward_s, backward_s = [], [], 0.0, 0.0
        micro_batches = split(examples_of(batch), self.settings.micro_batch_tokens)
        for examples in micro_batches:
            forward_start = time.perf_counter()
            with record_function("loss_forward"):
                scored = logprobs_of(self.model, examples)
                loss = losses_of(examples, scored, self.settings.kl_coefficient).sum() / batch.num_loss_tokens
            forward_end = time.perf_counter()
            with record_function("backward"):
                loss.backward()
            backward_s += time.perf_counter() - forward_end
            forward_s += forward_end - forward_start
            losses.append(loss.item())
            logprobs += [values.detach().cpu().numpy() for values in scored]
        with record_function("optimizer"):
            norm = torch.nn.utils.clip_grad_norm_(self.trained, MAX_GRAD_NORM)
            self.optimizer.step()
        whole_s = time.perf_counter() - start
        chosen = [item.completion_mask for item in batch.completions]
        return TrainStep(
            loss=sum(losses),
            grad_norm=norm.item(),
            loss_forward_ms=forward_s * 1e3,
            backward_ms=backward_s * 1e3,
            num_forward_passes=len(micro_batches),
            num_micro_batches=len(micro_batches),
            num_tokenizer_calls=0,
            num_loss_tokens=batch.num_loss_tokens,
            logprobs=tuple(values * mask for values, mask in zip(logprobs, chosen, strict=True)),
            other_ms=(whole_s - forward_s - backward_s) * 1e3,
        )

    def gradients(self):
        return read_gradients(self.model)

    def weights(self):
        return read_weights(self.model)

    def load_weights(self, weights):
        write_weights(self.model, weights)

    def publish_adapter(self):
        with record_function("publish"):
            return self.versions.publish()

    def swap_adapter(self, version, *, cached=True):
        return self.versions.swap(version, cached)

    def run(self, num_steps, plan):
        plan.in_turns(self.name)
        self.swap_adapter(self.publish_adapter())
        records = []
        for _ in range(num_steps):
            records.append(self._whole_step(plan, records[-1].train_s + records[-1].publish_s if records else 0.0))
            self.event_file.write(records[-1])
        return records

    def _whole_step(self, plan, sampler_wait_s):
        start = time.perf_counter()
        prompts = [self.encode(prompt) for prompt in plan.prompts]
        sampled = self.rollout(prompts, plan.group_size, plan.max_tokens, seed=plan.seed + 1000 * self.num_steps)
        rewards = [
            [plan.reward(prompt, (self._decode(completion),)) for completion in group]
            for prompt, group in zip(plan.prompts, sampled.completions, strict=True)
        ]
        batch = TrainBatch.from_rollout(prompts, sampled, rewards)
        sampled_at = time.perf_counter()
        step = self.train_step(batch, learning_rate=plan.learning_rate)
        trained_at = time.perf_counter()
        self.swap_adapter(self.publish_adapter())
        self.num_steps += 1
        end = time.perf_counter()
        return StepRecord(
            step=self.num_steps,
            reward_mean=float(np.mean(rewards)),
            loss=step.loss,
            grad_norm=step.grad_norm,
            policy_lag_steps=0,
            buffer_depth=1,
            trainer_wait_s=sampled_at - start,
            sampler_wait_s=sampler_wait_s,
            rollout_s=sampled_at - start,
            train_s=trained_at - sampled_at,
            publish_s=end - trained_at,
            finished_at_s=end,
            num_prompt_tokens=plan.group_size * sum(map(len, prompts)),
            num_completion_tokens=sampled.num_completion_tokens,
            num_loss_tokens=step.num_loss_tokens,
        )

    def _decode(self, completion):
        return self.tokenizer.decode(completion.completion_ids.tolist(), skip_special_tokens=True)

    def events(self, file):
        self.event_file = EventFile(file, run=self.name)
        return self.event_file

    @contextmanager
    def trace(self, folder):
        with profile() as profiler:
            yield
        profiler.export_chrome_trace(str(folder / "trace.json"))

    def save_state(self, folder):
        state = {f"weights.{name}": torch.from_numpy(values) for name, values in self.weights().items()}
        for place, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{place}.{name}": value for name, value in values.items()}
        save_file(state | {"num_steps": torch.tensor(self.num_steps)}, folder / STATE_FILE)

    def load_state(self, folder):
        state = load_file(folder / STATE_FILE)
        self.num_steps = int(state.pop("num_steps"))
        optimizer = {}
        for name in [name for name in state if name.startswith("optimizer.")]:
            _, place, key = name.split(".")
            optimizer.setdefault(int(place), {})[key] = state.pop(name)
        self.load_weights({name.removeprefix("weights."): values.numpy() for name, values in state.items()})
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer, "param_groups": groups})

    def decoders(self):
        return [self.model]

    def tokenizers(self):
        return [self.tokenizer]

    @property
    def counters(self):
        return {"adapter_cache_hits": self.versions.num_hits, "adapter_cache_misses": self.versions.num_misses}
