"""The arms of other libraries, and what the speed of an arm is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from bench.model_shapes import BUILT, SHAPES, ModelShape, built_model
from bench.reporting.neighbours import busy_neighbours
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.agreement import FLOAT32, check_agreement, equal_greedy
from bench.rollout_arms.arm import RolloutSample, Setup
from bench.rollout_arms.figures import limit_figures, neighbour_figures, speed_figures
from bench.rollout_arms.gguf_file import check_writable, gguf_name, gguf_tensors
from bench.rollout_arms.limits import Limits, Machine, ModelSize
from bench.rollout_arms.llama_context import ContextShape
from bench.rollout_arms.merged import merged_model, merged_weights
from bench.rollout_arms.rounds import FREE, RolloutShape, Timed, beside, run_rounds
from bench.rollout_arms.torch_arm import TorchArm
from grpo_core.errors import ModelError
from grpo_core.model.policy import load_policy
from grpo_core.training.utilization.flops import ModelCost
from grpo_core.types import Float32, Int32

SHAPE = RolloutShape(num_sequences=(8,), group_size=8, num_prompt_tokens=100, num_tokens=11, vocab_size=50)
COST = ModelCost(
    num_layers=2,
    num_linear_weights=1000,
    num_first_weights=100,
    attention_width=10,
    hidden_size=10,
    vocab_size=50,
    num_adapter_weights=20,
    is_full=False,
)


def timed(kind: str, number: int, seconds: float, arm: str = "torch") -> Timed:
    sample = RolloutSample(88, seconds, num_prefill_tokens=100, decode_seconds=seconds / 2)
    return Timed(kind, arm, 1, 8, number, sample, foreign_s=0.0)


class MergedArm:
    """transformers' model with the adapter merged; ``shift`` is a mistake in its logits."""

    def __init__(self, setup: Setup, versions: AdapterPublisher, shift: float = 0.0) -> None:
        self.model = merged_model(setup.model.name, versions.publish(1 << 20))
        self.shift = shift

    @torch.no_grad()
    def logprobs(self, prompt: Int32, completion: Int32) -> Float32:
        ids = torch.from_numpy(np.concatenate([prompt, completion])[None].astype(np.int64))
        found = self.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return found.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy() + self.shift

    @torch.no_grad()
    def greedy(self, prompt: Int32, num_tokens: int) -> Int32:
        ids = torch.from_numpy(prompt[None].astype(np.int64))
        for _ in range(num_tokens):
            ids = torch.cat([ids, self.model(ids).logits[:, -1:].argmax(-1)], dim=1)
        return ids[0, len(prompt) :].numpy().astype(np.int32)


class Choosing:
    """Continues with ``ids``, and finds every token ``gap`` nats less probable than 5."""

    def __init__(self, ids: list[int], gap: float) -> None:
        self.ids, self.gap = ids, gap

    def greedy(self, prompt: Int32, num_tokens: int) -> Int32:
        return np.array(self.ids, dtype=np.int32)

    def logprobs(self, prompt: Int32, completion: Int32) -> Float32:
        return np.array([-1.0 if token == 5 else -1.0 - self.gap for token in completion], dtype=np.float32)


@pytest.mark.slow
def test_a_merged_model_computes_what_this_engine_does(setup: Setup) -> None:
    versions = AdapterPublisher(setup.folder / "adapters", setup.model)
    ours = TorchArm(setup, versions)
    found = check_agreement("merged", MergedArm(setup, versions), ours, versions.vocab_size, FLOAT32)
    assert found.largest_difference < 1e-4
    assert (found.num_equal, found.num_greedy) == (48, 48)
    with pytest.raises(ArithmeticError, match=r"off and torch do not compute the same: log-probabilities differ by"):
        check_agreement("off", MergedArm(setup, versions, shift=0.01), ours, versions.vocab_size, FLOAT32)
    with pytest.raises(ArithmeticError, match="differ by nan"):
        check_agreement("nan", MergedArm(setup, versions, shift=float("nan")), ours, versions.vocab_size, FLOAT32)


def test_greedy_tokens_may_differ_at_a_tie_alone() -> None:
    prompt, ours = np.arange(3, dtype=np.int32), np.array([4, 5, 6], dtype=np.int32)
    assert equal_greedy("arm", Choosing([4, 5, 6], 1.0), prompt, ours, FLOAT32) == 3
    assert equal_greedy("arm", Choosing([4, 7, 6], 1e-4), prompt, ours, FLOAT32) == 1
    with pytest.raises(ArithmeticError, match=r"token 1 of a greedy completion is 7 and 5, 0.5 nats apart"):
        equal_greedy("arm", Choosing([4, 7, 6], 0.5), prompt, ours, FLOAT32)
    with pytest.raises(ArithmeticError, match="arm gave 2 tokens of 3"):
        equal_greedy("arm", Choosing([4, 5], 0.5), prompt, ours, FLOAT32)


def test_every_weight_has_a_name_in_gguf(setup: Setup) -> None:
    versions = AdapterPublisher(setup.folder / "adapters", setup.model)
    model = merged_model(setup.model.name, versions.publish(1))
    weights = merged_weights(model)
    check_writable(model.config)
    found = dict(gguf_tensors(weights, model.config, half=True))
    assert len(found) == len(weights) == 2 + 4 * 12  # tied embeddings are written once
    assert np.array_equal(found["blk.3.attn_q.bias"], weights["model.layers.3.self_attn.q_proj.bias"].numpy())
    kinds = {name: values.dtype for name, values in found.items()}
    assert kinds["blk.0.ffn_down.weight"] == kinds["token_embd.weight"] == np.float16
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.0.attn_k.bias"] == np.float32
    base = load_policy(setup.model).model.state_dict()["model.layers.0.self_attn.v_proj.weight"]
    assert not np.allclose(found["blk.0.attn_v.weight"], base.numpy(), atol=0.01)  # the adapter is in it
    assert {values.dtype for _, values in gguf_tensors(weights, model.config, half=False)} == {np.dtype(np.float32)}
    with pytest.raises(ModelError, match=r"weight 'model.layers.0.mlp.router.weight': llama.cpp has no name for it"):
        gguf_name("model.layers.0.mlp.router.weight")


def test_llamas_queries_and_keys_are_rotated_in_pairs() -> None:
    """Row k of the first half of a head goes to 2 k, and of the second to 2 k + 1; values stay."""
    config = LlamaConfig(
        hidden_size=8,
        num_hidden_layers=1,
        intermediate_size=8,
        vocab_size=9,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    weights = {
        name: torch.arange(weight.numel(), dtype=torch.float32).reshape(weight.shape)
        for name, weight in merged_weights(LlamaForCausalLM(config)).items()
    }
    found = dict(gguf_tensors(weights, config, half=False))
    assert found["blk.0.attn_q.weight"][:, 0].tolist() == [0, 16, 8, 24, 32, 48, 40, 56]
    assert found["blk.0.attn_k.weight"][:, 0].tolist() == [0, 16, 8, 24]
    assert found["blk.0.attn_v.weight"][:, 0].tolist() == [0, 8, 16, 24]
    assert "output.weight" in found
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ModelError, match="rope_type 'linear'"):
        check_writable(config)


def test_a_memory_of_llama_cpp_holds_a_shared_prompt_once() -> None:
    shape = ContextShape(8, num_shared_tokens=944, num_own_tokens=64, num_prompt_tokens=944, is_unified=True)
    assert (shape.num_cells, shape.num_batch_tokens) == (1536, 944)  # 944 + 8 * 64 = 1456
    apart = ContextShape(8, num_shared_tokens=944, num_own_tokens=64, num_prompt_tokens=944, is_unified=False)
    assert apart.num_cells == 8 * 1024


def test_ratios_to_other_libraries_have_keys() -> None:
    arms = {"torch": 1.0, "openvino": 2.0, "llama_cpp": 0.5, "llama_cpp_f16": 0.25}
    figures = speed_figures([timed(FREE, 0, seconds, arm) for arm, seconds in arms.items()], 100)
    found = {key: figure.median for key, figure in figures.items() if key.startswith("tokens_per_second")}
    keys = {"openvino": 2.0, "llama_cpp": 0.5, "llama_cpp_f16": 0.25}
    assert found == {f"tokens_per_second_vs_{arm}{end}": ratio for arm, ratio in keys.items() for end in ("", "_8")}
    assert figures["tokens_per_second_vs_openvino"].reached == "yes"
    assert figures["tokens_per_second_vs_llama_cpp_8"].reached == "no"


def test_slowdowns_are_taken_round_by_round() -> None:
    samples = [timed(FREE, number, seconds) for number, seconds in enumerate((1.0, 2.0, 4.0))]
    samples += [timed(beside(4), number, seconds) for number, seconds in enumerate((3.0, 4.0, 40.0))]
    figures = neighbour_figures(samples, (4,))
    assert figures.keys() == {"slowdown_beside_4", "slowdown_beside_4_torch", "slowdown_beside_4_torch_8"}
    assert (figures["slowdown_beside_4"].median, figures["slowdown_beside_4"].high) == (3.0, 10.0)
    assert speed_figures(samples, 100).keys() >= {"prefill_tokens_per_group"}


def test_arms_run_beside_as_many_processes_as_asked_for() -> None:
    seen: list[int] = []

    class Counting:
        def run(self, workload: object) -> RolloutSample:
            seen.append(len(psutil.Process().children()))
            return RolloutSample(1, 1.0)

        def close(self) -> None: ...

    before = len(psutil.Process().children())
    samples = list(run_rounds({"torch": Counting()}, SHAPE, 2, np.random.default_rng(0), None, (1, 3)))
    assert [number - before for number in seen] == [0, 1, 3] * 2
    assert [one.kind for one in samples] == [FREE, "free beside 1", "free beside 3"] * 2
    assert len(psutil.Process().children()) == before


def test_neighbours_end_with_an_error_too() -> None:
    ids: list[int] = []

    def fail() -> None:
        with busy_neighbours(2) as started:
            ids.extend(number for number in started if psutil.pid_exists(number))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(ids) == 2
    assert not any(psutil.pid_exists(number) for number in ids)


def test_the_bound_of_a_step_is_the_larger_of_operations_and_bytes() -> None:
    """Ten steps of 8 sequences behind one prompt of 100 tokens; they attend to 6 of their own on average."""
    size = ModelSize(COST, num_weight_bytes=6080, num_kv_bytes=100)
    flops, num_bytes = size.step_flops(8, 106), size.step_bytes(100 + 8 * 6)
    assert flops == 8 * (2 * (1000 + 20 + 500) + 4 * 2 * 10 * 106)
    assert num_bytes == 6080 + 100 * 148
    by_flops = Limits(size, Machine(flop_rate=flops, byte_rate=1e9), SHAPE)
    assert by_flops.share_of_bound(timed(FREE, 0, 40.0)) == pytest.approx(0.5)  # 10 s in 20 s
    by_bytes = Limits(size, Machine(flop_rate=1e9, byte_rate=num_bytes), SHAPE)
    assert by_bytes.share_of_bound(timed(FREE, 0, 40.0)) == pytest.approx(0.5)
    prefill = 2 * 1020 * (100 + 1) / 2 + 4 * 2 * 10 * (5050 + 100) / 2 + 2 * 500
    assert by_flops.prefill_rate(timed(FREE, 0, 40.0)) == pytest.approx(prefill / 20)
    figures = limit_figures([timed(FREE, 0, 40.0), timed(FREE, 1, 80.0)], by_bytes)
    assert figures["decode_share_of_bound"] == figures["decode_share_of_bound_8"]
    assert {"prefill_gflops", "prefill_gflops_8", "matrix_rate", "read_rate"} <= figures.keys()


def test_the_size_of_a_policy_is_that_of_its_weights(setup: Setup) -> None:
    arm = TorchArm(setup, AdapterPublisher(setup.folder / "adapters", setup.model))
    limits = Limits.of(arm, SHAPE, num_threads=1)
    weights = 4 * (2 * 256 * 128 + 2 * 256 * 256 + 3 * 256 * 896) + 256 * 2048 + arm.num_adapter_weights
    assert limits.size.num_weight_bytes == 4 * weights
    assert limits.size.num_kv_bytes == 4 * 2 * 128 * 4
    assert limits.machine.flop_rate > 0
    assert limits.machine.byte_rate > 0


def test_a_shape_is_built_once_with_random_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT, "narrow", ModelShape(32, 2, 2, 1, 48, 3000))
    where = built_model("narrow", tmp_path)
    config = AutoConfig.from_pretrained(where)
    assert (config.vocab_size, config.num_key_value_heads, config.rope_parameters["rope_theta"]) == (3000, 1, 1e6)
    first = Path(where, "model.safetensors").stat().st_mtime_ns
    assert built_model("narrow", tmp_path) == where
    assert Path(where, "model.safetensors").stat().st_mtime_ns == first
    assert built_model("tiny", tmp_path) == "tiny"
    assert SHAPES["qwen2.5-0.5b"] == ModelShape(896, 24, 14, 2, 4864, 151_936)
    assert SHAPES["tiny-wide"].vocab_size == 151_936


@pytest.mark.parametrize("half", [False, True])
def test_llama_cpp_computes_the_same(setup: Setup, half: bool) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from bench.rollout_arms.agreement import FLOAT16, LLAMA_CPP
    from bench.rollout_arms.llama_cpp_arm import LlamaCppArm

    versions = AdapterPublisher(setup.folder / "adapters", setup.model)
    arm = LlamaCppArm(setup, versions.publish(1 << 20), half=half, num_tokens=8)
    tolerance = FLOAT16 if half else LLAMA_CPP
    check_agreement("llama_cpp", arm, TorchArm(setup, versions), versions.vocab_size, tolerance)
    arm.close()


def test_openvino_computes_the_same(setup: Setup) -> None:
    pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    from bench.rollout_arms.openvino_arm import OpenVinoArm

    versions = AdapterPublisher(setup.folder / "adapters", setup.model)
    arm = OpenVinoArm(setup, versions.publish(1 << 20))
    check_agreement("openvino", arm, TorchArm(setup, versions), versions.vocab_size, FLOAT32)
