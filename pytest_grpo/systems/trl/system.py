"""TRL's ``GRPOTrainer`` as a system: its loss on the tensors it would build, its generation, PEFT's adapter files.

The probability ratio is relative to the sampler's log-probabilities, as in all systems here; on-policy, TRL itself
would use those of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_grpo.measuring.clock import now
from pytest_grpo.systems.peft_gradients import adapter_gradients
from pytest_grpo.systems.protocol import (
    MAX_GRAD_NORM,
    AdapterSwap,
    Completion,
    Rollout,
    SystemSettings,
    TrainBatch,
    TrainStep,
    UnsupportedError,
)
from pytest_grpo.systems.trl.adapters import TRAINED, PeftAdapters
from pytest_grpo.systems.trl.trainer import build_trainer, row_tensors, step_tensors, unpad

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pytest_grpo.systems.protocol import Float32, Int32


class TrlSystem:
    """One copy of the weights samples and trains. Published adapters are loaded beside the one in training.

    TRL keeps no log-probabilities when it samples through transformers. They are computed afterwards, as TRL does
    off-policy, and not timed.
    """

    name = "trl"

    def __init__(self, settings: SystemSettings) -> None:
        if settings.packing == "shared_prefix":
            raise UnsupportedError("system trl: cannot share a prompt among its completions; use packing 'padded'")
        self._settings = settings
        self._trainer = build_trainer(settings, settings.home / "trl")
        self._device: torch.device = self._trainer.accelerator.device
        self._model = self._trainer.model
        self._adapters = PeftAdapters(self._model, settings.home / "trl" / "adapters")
        self._model.train()  # TRL's loss differs in evaluation mode; there is no dropout
        self._optimizer = self._trainer.create_optimizer()
        self._num_prefill_tokens = 0
        self._num_completion_tokens = 0
        self._num_tokenizer_calls = 0
        self._count_tokenizer_calls()

    def _count_tokenizer_calls(self) -> None:
        """All calls of a tokenizer go through these two methods."""
        tokenizer = self._trainer.processing_class
        for method in ("_encode_plus", "_decode"):
            setattr(tokenizer, method, self._counted(getattr(tokenizer, method)))

    def _counted(self, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._num_tokenizer_calls += 1
            return method(*args, **kwargs)

        return call

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
        scored = self._score(inputs, bare)
        reference: Sequence[Float32 | None] = [None] * len(bare)
        if self._trainer.beta > 0:
            with self._model.disable_adapter():
                reference = self._score(inputs, bare)
        return [
            replace(completion, sampling_logprobs=logprobs, ref_logprobs=ref)
            for completion, logprobs, ref in zip(bare, scored, reference, strict=True)
        ]

    def _score(self, inputs: dict[str, Tensor], completions: Sequence[Completion]) -> tuple[Float32, ...]:
        import torch

        with torch.no_grad():
            logprobs, _, _ = self._trainer._get_per_token_logps_and_entropies(
                self._model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].shape[1],
                batch_size=self._rows_per_forward(inputs),
            )
        return unpad(logprobs, completions)

    def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
        import torch

        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate
        tokenizer_calls = self._num_tokenizer_calls
        with self._adapters.training(), self._watched_forward() as passes:
            other_start = now()
            self._optimizer.zero_grad(set_to_none=True)
            inputs = step_tensors(self._trainer, batch)
            other_s = now() - other_start
            size = self._rows_per_forward(inputs)
            losses: list[Tensor] = []
            logprobs: list[Tensor] = []
            forward_s = backward_s = 0.0
            for first in range(0, len(inputs["prompt_ids"]), size):
                part = {key: value[first : first + size] if value.ndim else value for key, value in inputs.items()}
                start = now()
                loss = self._trainer.compute_loss(self._model, part)
                forward_end = now()
                self._trainer.accelerator.backward(loss)
                backward_s += now() - forward_end
                forward_s += forward_end - start
                losses.append(loss.detach())
                logprobs.append(next(scored for scored in reversed(passes) if scored is not None))
            other_start = now()
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
            num_tokenizer_calls=self._num_tokenizer_calls - tokenizer_calls,
            num_loss_tokens=batch.num_loss_tokens,
            logprobs=unpad(torch.cat(logprobs)[:, -inputs["completion_ids"].shape[1] :], batch.completions),
            other_ms=other_s * 1e3,
        )

    def gradients(self) -> Mapping[str, Float32]:
        return adapter_gradients(self._model.named_parameters())

    def _rows_per_forward(self, inputs: Mapping[str, Tensor]) -> int:
        width = inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1]
        return max(1, self._settings.micro_batch_tokens // width)

    @contextmanager
    def _watched_forward(self) -> Iterator[list[Tensor | None]]:
        """One entry per forward pass: the log-probabilities [B, P + R] for the loss; None for any other pass."""
        from trl.trainer.utils import FusedCausalLMOutput  # pyright: ignore[reportMissingImports]

        passes: list[Tensor | None] = []

        def watch(module: Any, args: Any, output: Any) -> None:
            is_trained = isinstance(output, FusedCausalLMOutput) and output.log_probs.requires_grad
            passes.append(output.log_probs.detach() if is_trained else None)

        with self._model.get_base_model().register_forward_hook(watch):
            yield passes

    def weights(self) -> Mapping[str, Float32]:
        from peft import get_peft_model_state_dict

        from grpo_core.lora.layout import PEFT_PREFIX

        state = get_peft_model_state_dict(self._model, adapter_name=TRAINED, save_embedding_layers=False)
        return {name.removeprefix(PEFT_PREFIX): tensor.cpu().numpy().copy() for name, tensor in state.items()}

    def load_weights(self, weights: Mapping[str, Float32]) -> None:
        import torch
        from peft import set_peft_model_state_dict

        from grpo_core.lora.layout import PEFT_PREFIX

        tensors = {f"{PEFT_PREFIX}{name}": torch.from_numpy(values) for name, values in weights.items()}
        set_peft_model_state_dict(self._model, tensors, adapter_name=TRAINED)

    def publish_adapter(self) -> int:
        return self._adapters.publish()

    def swap_adapter(self, version: int, *, cached: bool = True) -> AdapterSwap:
        return self._adapters.swap(version, cached=cached)

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
