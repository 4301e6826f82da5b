"""TRL's ``GRPOTrainer`` as a system: its loss on the tensors it would build, its generation, PEFT's adapter files.

The probability ratio is relative to the sampler's log-probabilities, as in all systems here; on-policy, TRL itself
would use those of the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_grpo.measuring.sampling.clock import now
from pytest_grpo.systems.counting.tokenizer_calls import watch_tokenizers
from pytest_grpo.systems.event_file import EventFile
from pytest_grpo.systems.peft_gradients import adapter_gradients
from pytest_grpo.systems.protocol import (
    MAX_GRAD_NORM,
    AdapterSwap,
    Completion,
    GrpoSystem,
    Rollout,
    SystemSettings,
    TrainBatch,
    TrainStep,
)
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord
from pytest_grpo.systems.trl.adapters import TRAINED, PeftAdapters
from pytest_grpo.systems.trl.forward import rows_per_forward, score, watched_forward
from pytest_grpo.systems.trl.runs import TrlRuns
from pytest_grpo.systems.trl.state import load_state, save_state
from pytest_grpo.systems.trl.trainer import build_trainer, row_tensors, step_tensors, unpad

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pytest_grpo.systems.protocol import Float32, Int32


class TrlSystem(GrpoSystem):
    """One copy of the weights samples and trains. Published adapters are loaded beside the one in training.

    TRL keeps no log-probabilities when it samples through transformers. They are computed afterwards, as TRL does
    off-policy, and not timed.
    """

    name = "trl"

    def __init__(self, settings: SystemSettings) -> None:
        settings.only(self.name, packing=(None, "padded"), method=("lora",), engine=("torch",))
        settings.only(self.name, dtype=("float32",), precision=("float32",))
        self._settings = settings
        self._trainer = build_trainer(settings, settings.home / "trl")
        self._device: torch.device = self._trainer.accelerator.device
        self._model = self._trainer.model
        self._adapters = PeftAdapters(self._model, settings.home / "trl" / "adapters")
        self._model.train()  # TRL's loss differs in evaluation mode; there is no dropout
        self._optimizer = self._trainer.create_optimizer()
        self._num_prefill_tokens = 0
        self._num_completion_tokens = 0
        self._runs = TrlRuns(settings, settings.home / "trl" / "runs")

    def encode(self, text: str) -> Int32:
        import numpy as np

        return np.array(self._trainer.processing_class.encode(text, add_special_tokens=False), dtype=np.int32)

    def rollout(
        self,
        prompts: Sequence[Int32],
        group_size: int,
        max_tokens: int,
        *,
        seed: int,
        batch_size: int | None = None,
        greedy: bool = False,
    ) -> Rollout:
        import torch

        rows = [prompt.tolist() for prompt in prompts for _ in range(group_size)]
        size = batch_size or len(rows)
        self._trainer.generation_config.max_new_tokens = max_tokens
        self._trainer.generation_config.do_sample = not greedy
        sampled: list[list[int]] = []
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(seed)
            start = now()
            for first in range(0, len(rows), size):
                part = rows[first : first + size]
                sampled += self._trainer._generate_single_turn(part, None, {}, group_size)[0]
            seconds = now() - start
        self._num_prefill_tokens += sum(map(len, rows))
        self._num_completion_tokens += sum(map(len, sampled))
        completions = self._completions(rows, sampled, greedy=greedy)
        groups = (tuple(completions[first : first + group_size]) for first in range(0, len(rows), group_size))
        return Rollout(tuple(groups), seconds)

    def _completions(self, prompts: list[list[int]], sampled: list[list[int]], *, greedy: bool) -> list[Completion]:
        import numpy as np

        bare = [
            Completion(
                completion_ids=np.array(ids, dtype=np.int32),
                completion_mask=np.ones(len(ids), dtype=np.bool_),
                sampling_logprobs=np.zeros(len(ids), dtype=np.float32),
            )
            for ids in sampled
        ]
        if greedy:
            return bare
        inputs = row_tensors(self._trainer, [np.array(ids, dtype=np.int32) for ids in prompts], bare)
        scored = score(self._trainer, inputs, bare, self._settings.micro_batch_tokens)
        reference: Sequence[Float32 | None] = [None] * len(bare)
        if self._trainer.beta > 0:
            with self._model.disable_adapter():
                reference = score(self._trainer, inputs, bare, self._settings.micro_batch_tokens)
        return [
            replace(completion, sampling_logprobs=logprobs, ref_logprobs=ref)
            for completion, logprobs, ref in zip(bare, scored, reference, strict=True)
        ]

    def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
        import torch
        from torch.autograd.profiler import record_function

        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate
        with (
            self._adapters.training(),
            watched_forward(self._model) as passes,
            watch_tokenizers(self.tokenizers()) as tokenizer_calls,
        ):
            other_start = now()
            self._optimizer.zero_grad(set_to_none=True)
            inputs = step_tensors(self._trainer, batch)
            other_s = now() - other_start
            size = rows_per_forward(inputs, self._settings.micro_batch_tokens)
            losses: list[Tensor] = []
            logprobs: list[Tensor] = []
            forward_s = backward_s = 0.0
            for first in range(0, len(inputs["prompt_ids"]), size):
                part = {key: value[first : first + size] if value.ndim else value for key, value in inputs.items()}
                start = now()
                with record_function("loss_forward"):
                    loss = self._trainer.compute_loss(self._model, part)
                forward_end = now()
                with record_function("backward"):
                    self._trainer.accelerator.backward(loss)
                backward_s += now() - forward_end
                forward_s += forward_end - start
                losses.append(loss.detach())
                logprobs.append(next(scored for scored in reversed(passes) if scored is not None))
            other_start = now()
            with record_function("optimizer"):
                grad_norm = self._trainer.accelerator.clip_grad_norm_(self._model.parameters(), MAX_GRAD_NORM)
                self._optimizer.step()
            other_s += now() - other_start
        return TrainStep(
            loss=float(sum(losses)),
            grad_norm=float(grad_norm),
            loss_forward_ms=forward_s * 1e3,
            backward_ms=backward_s * 1e3,
            num_forward_passes=len(passes),
            num_micro_batches=len(losses),
            num_tokenizer_calls=tokenizer_calls.num_calls,
            num_loss_tokens=batch.num_loss_tokens,
            logprobs=unpad(torch.cat(logprobs)[:, -inputs["completion_ids"].shape[1] :], batch.completions),
            other_ms=other_s * 1e3,
        )

    def gradients(self) -> Mapping[str, Float32]:
        return adapter_gradients(self._model.named_parameters())

    def weights(self) -> Mapping[str, Float32]:
        from grpo_core.lora.layout import PEFT_PREFIX

        return {name.removeprefix(PEFT_PREFIX): tensor.cpu().numpy().copy() for name, tensor in self._state().items()}

    def load_weights(self, weights: Mapping[str, Float32]) -> None:
        import torch

        from grpo_core.lora.layout import PEFT_PREFIX

        self._load({f"{PEFT_PREFIX}{name}": torch.from_numpy(values) for name, values in weights.items()})

    def _state(self) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(self._model, adapter_name=TRAINED, save_embedding_layers=False)

    def _load(self, state: Mapping[str, Tensor]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self._model, dict(state), adapter_name=TRAINED)

    def publish_adapter(self) -> int:
        from torch.autograd.profiler import record_function

        with record_function("publish"):
            return self._adapters.publish()

    def swap_adapter(self, version: int, *, cached: bool = True) -> AdapterSwap:
        return self._adapters.swap(version, cached=cached)

    def run(self, num_steps: int, plan: RunPlan) -> Sequence[StepRecord]:
        plan.in_turns(self.name)
        state, records = self._runs.run(num_steps, plan, self._state(), self._optimizer)
        self._load(state)
        return records

    def events(self, file: Path) -> EventFile:
        return self._runs.open_events(file, self.name)

    def trace(self, folder: Path) -> AbstractContextManager[object]:
        from grpo_core.telemetry.traces.profiler import trace

        return trace(folder)

    def save_state(self, folder: Path) -> None:
        save_state(folder, self._state(), self._optimizer, self._runs.num_steps)

    def load_state(self, folder: Path) -> None:
        state, self._runs.num_steps = load_state(folder, self._optimizer)
        self._load(state)

    def decoders(self) -> Sequence[nn.Module]:
        return (self._model.get_base_model(),)

    def tokenizers(self) -> Sequence[object]:
        return (self._trainer.processing_class,)

    @property
    def counters(self) -> Mapping[str, int]:
        return {
            "adapter_cache_hits": self._adapters.num_hits,
            "adapter_cache_misses": self._adapters.num_misses,
            "num_completion_tokens": self._num_completion_tokens,
            "num_prefill_tokens": self._num_prefill_tokens,
        }

    def _cuda_devices(self) -> list[torch.device]:
        return [self._device] if self._device.type == "cuda" else []
