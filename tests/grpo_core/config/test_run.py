from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from grpo_core.config import EnvironmentConfig, GrpoConfig, build_config, read_config, variant_of
from grpo_core.errors import ConfigError, InvalidNameError


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def message_of(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        build_config(values)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_nothing_given_is_the_default() -> None:
    assert build_config({}) == GrpoConfig()
    assert build_config({"rollout": {"group_size": 4}}).rollout.group_size == 4


@pytest.mark.parametrize(
    ("prefix", "section"),
    [("", GrpoConfig)]
    + [(f"{name}.", type(getattr(GrpoConfig(), name))) for name in GrpoConfig.model_fields if name != "run"],
)
def test_an_unknown_key_is_named_with_the_allowed_ones(prefix: str, section: type[BaseModel]) -> None:
    message = message_of(nested(f"{prefix}grup_size", 1))

    meant = "did you mean group_size? " if "group_size" in section.model_fields else ""
    assert message.startswith(f"{prefix}grup_size: unknown key; {meant}allowed here: ")
    assert message.partition("here: ")[2].split(", ") == list(section.model_fields)


def test_the_allowed_keys_of_a_section_are_said_once() -> None:
    message = message_of({"training": {"lossy": 1, "stepz": 2}, "rollout": {"lossy": 1}})
    assert message.count("allowed here: method, ") == 1
    assert message.count("allowed here: ") == 2
    assert "training.stepz: unknown key" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.dtype", "float16"),
        ("model.lora_rank", 0),
        ("model.lora_alpha", -1.0),
        ("environment.horizon", 0),
        ("environment.opening_years", -1),
        ("rollout.group_size", 0),
        ("rollout.temperature", 0),
        ("rollout.temperature", 1e-39),
        ("rollout.top_p", 1.1),
        ("rollout.max_completion_tokens", 0),
        ("rollout.overlong_buffer_tokens", -1),
        ("rollout.max_refill_rounds", -1),
        ("training.learning_rate", -1e-3),
        ("training.advantages", "std"),
        ("training.clip_low", 1.0),
        ("training.kl_coefficient", "a"),
        ("training.method", "qlora"),
        ("training.packing", "none"),
        ("training.loss", "ppo"),
        ("training.kl_estimator", "k4"),
        ("training.kl_in", "advantage"),
        ("training.old_logprobs", "old"),
        ("training.mismatch_correction", "truncate"),
        ("training.mismatch_low", 1.0),
        ("training.mismatch_high", 1.0),
        ("training.clip_dual", 1.0),
        ("training.loss_length_tokens", 0),
        ("training.top_entropy_share", 0.0),
        ("training.entropy_coefficient", -0.1),
        ("schedule.num_steps", 0),
        ("schedule.max_policy_lag_steps", -1),
        ("schedule.buffer_depth", 0),
        ("telemetry.wandb", "on"),
        ("telemetry.gpu_stats_interval_s", 0),
    ],
)
def test_an_impossible_value_is_named_with_what_is_allowed(path: str, value: object) -> None:
    message = message_of(nested(path, value))

    assert message.startswith(f"{path}: {value!r} is not allowed: Input should be")


def test_a_value_in_the_place_of_a_section_names_its_keys() -> None:
    assert message_of({"training": {"betas": 0.9}}) == (
        'training.betas: 0.9 is not allowed: give a list, such as [1, 2] or ["a", "b"]'
    )
    assert message_of({"rollout": 3}).startswith("rollout: 3 is not allowed: it is a section; set one of its keys: eng")


@pytest.mark.parametrize(
    ("path", "value"),
    [("rollout.seed", True), ("training.learning_rate", False), ("training.betas", [False, 0.9])],
)
def test_true_and_false_are_no_numbers(path: str, value: object) -> None:
    shown = "true" if value is True else "false"
    assert message_of(nested(path, value)) == f"{path}: {shown} is no number; give one"
    assert build_config({"model": {"add_bos": True}}).model.add_bos is True


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {"path": "~/q.jsonl", "rewards": ["a:b"]}
    config = build_config(
        {"model": {"name": "~/m"}, "environment": {"data": data}, "evaluation": {"path": "~/held_out.jsonl"}}
    )
    assert config.model.name == str(tmp_path / "m")
    assert config.environment.data.path == str(tmp_path / "q.jsonl")
    assert config.evaluation.path == str(tmp_path / "held_out.jsonl")


@pytest.mark.parametrize("path", ["model.name", "environment.data.path", "evaluation.path"])
def test_an_empty_path_is_refused(path: str) -> None:
    assert message_of(nested(path, "")).startswith(f"{path}: ")


def test_every_bad_key_is_named_at_once() -> None:
    message = message_of({"rollout": {"group_size": 0, "top": 1}, "schedule": {"num_steps": 0}})

    assert all(key in message for key in ("rollout.group_size:", "rollout.top:", "schedule.num_steps:"))


@pytest.mark.parametrize("advantages", ["group_std", "batch_std", "leave_one_out"])
def test_a_group_of_one_has_no_siblings(advantages: str) -> None:
    message = message_of({"rollout": {"group_size": 1}, "training": {"advantages": advantages}})

    assert f"rollout.group_size 1 has no siblings to compare with (training.advantages '{advantages}')" in message
    assert "mean_only" in message
    build_config({"rollout": {"group_size": 1}, "training": {"advantages": "mean_only"}})


def test_a_depth_that_would_grow_too_old_is_refused() -> None:
    message = message_of({"schedule": {"buffer_depth": 3, "max_policy_lag_steps": 1}})

    assert message.startswith("schedule: buffer_depth 3 cannot be reached with max_policy_lag_steps 1")
    build_config({"schedule": {"buffer_depth": 3, "max_policy_lag_steps": 2}})
    build_config({"schedule": {"buffer_depth": 1, "max_policy_lag_steps": 0}})


@pytest.mark.parametrize(
    ("values", "match", "mended"),
    [
        ({"clip_dual": 3.0, "loss": "cispo"}, "clip_dual 3.0 has no meaning for loss 'cispo'", {"loss": "grpo"}),
        ({"clip_dual": 3.0, "loss": "sapo"}, "clip_dual 3.0 has no meaning for loss 'sapo'", {"clip_dual": None}),
        ({"clip_dual": 1.2, "clip_high": 0.3}, "clip_dual 1.2 is not above 1 + clip_high 0.3", {"clip_high": 0.1}),
        ({"loss": "dr_grpo"}, "loss_length_tokens None does not go with loss 'dr_grpo'", {"loss_length_tokens": 64}),
        ({"loss_length_tokens": 64}, "loss_length_tokens 64 does not go with loss 'dapo'", {"loss": "dr_grpo"}),
        (
            {"kl_bias_correction": True, "kl_in": "reward"},
            "kl_bias_correction does not go with kl_in 'reward'",
            {"kl_in": "loss"},
        ),
        (
            {"kl_bias_correction": True, "kl_estimator": "k2"},
            "kl_bias_correction does not go with kl_estimator 'k2'",
            {"kl_estimator": "k1"},
        ),
        (
            {"mismatch_correction": "token_truncate"},
            "mismatch_correction 'token_truncate' needs old_logprobs 'recomputed'",
            {"old_logprobs": "recomputed"},
        ),
        (
            {"mismatch_correction": "sequence_truncate"},
            "mismatch_correction 'sequence_truncate' needs old_logprobs 'recomputed'",
            {"mismatch_correction": "sequence_mask"},
        ),
        (
            {"top_entropy_share": 0.2},
            "top_entropy_share 0.2 needs old_logprobs 'recomputed'",
            {"old_logprobs": "recomputed"},
        ),
    ],
)
def test_choices_of_the_objective_that_contradict_each_other_are_named_together(
    values: dict[str, object], match: str, mended: dict[str, object]
) -> None:
    message = message_of({"training": values})

    assert message.startswith(f"training: {match}")
    assert "\n" not in message
    build_config({"training": {**values, **mended}})


def test_single_episodes_are_not_replaced_for_their_equal_rewards() -> None:
    rollout = {"group_size": 1, "max_refill_rounds": 2}
    message = message_of({"rollout": rollout, "training": {"advantages": "mean_only"}})

    assert message.startswith("rollout: max_refill_rounds 2 does not go with group_size 1")
    build_config({"rollout": {**rollout, "group_size": 2}})


def test_an_overlong_buffer_is_a_part_of_the_answer() -> None:
    message = message_of({"rollout": {"overlong_buffer_tokens": 65}})

    assert message.startswith("rollout: overlong_buffer_tokens 65 is more than max_completion_tokens 64")
    build_config({"rollout": {"overlong_buffer_tokens": 64}})


@pytest.mark.parametrize(("key", "value"), [("lora_rank", 8), ("lora_alpha", 16.0), ("lora_targets", ["q_proj"])])
def test_full_fine_tuning_has_no_adapter(key: str, value: object) -> None:
    message = message_of({"model": {key: value}, "training": {"method": "full"}})

    assert message.startswith(f"model.{key} ")
    assert "does not go with training.method 'full'" in message
    assert "\n" not in message
    build_config({"model": {key: value}, "training": {"method": "lora"}})
    full = build_config({"training": {"method": "full"}})
    assert build_config(full.model_dump(mode="json")) == full


def test_vllm_samples_no_full_weights() -> None:
    message = message_of({"rollout": {"engine": "vllm"}, "training": {"method": "full"}})

    assert message.startswith("rollout.engine 'vllm' does not go with training.method 'full'")
    build_config({"rollout": {"engine": "plain"}, "training": {"method": "full"}})


@pytest.mark.parametrize(
    ("hidden_size", "adapter", "full"),
    [(64, 2e-3, 3e-4), (512, 2e-3, 3e-4), (896, 1.6e-4, 2.4e-5), (3584, 1.0e-5, 1.5e-6), (8192, 2.0e-6, 2.9e-7)],
)
def test_the_default_learning_rate_is_that_of_the_method_and_the_size(
    hidden_size: int, adapter: float, full: float
) -> None:
    rates = [
        build_config({"training": training}).training.learning_rate_for(hidden_size)
        for training in ({}, {"method": "full"}, {"method": "full", "learning_rate": 0.0})
    ]
    assert rates == [pytest.approx(adapter, rel=0.03), pytest.approx(full, rel=0.03), 0.0]


def test_full_fine_tuning_has_no_frozen_weights_to_shard() -> None:
    message = message_of({"training": {"method": "full", "shard_base_weights": True}})

    assert message.startswith("training: shard_base_weights does not go with method 'full'")
    build_config({"training": {"method": "lora", "shard_base_weights": True}})


@pytest.mark.parametrize("run", ["", "a/b", "..", "a b"])
def test_a_run_must_be_a_safe_name(run: str) -> None:
    with pytest.raises(InvalidNameError, match="run '"):
        build_config({"run": run})


def test_the_tree_cannot_be_changed() -> None:
    config = GrpoConfig()
    with pytest.raises(ValidationError):
        config.rollout.group_size = 3


def test_a_dumped_config_builds_the_same_one() -> None:
    config = build_config({"run": "a", "model": {"lora_targets": ["q_proj"]}, "environment": {"opening_years": 0}})

    assert build_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("use_state_cache", "opening_years", "expected"), [(False, None, 0), (True, None, 1), (True, 0, 0), (False, 3, 3)]
)
def test_the_state_cache_implies_an_opening(use_state_cache: bool, opening_years: int | None, expected: int) -> None:
    config = EnvironmentConfig(use_state_cache=use_state_cache, opening_years=opening_years)

    assert config.effective_opening_years == expected


def test_a_file_is_read_as_nested_values(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('run = "a"\n[rollout]\ngroup_size = 4\nunchecked = true\n')

    assert read_config(path) == {"run": "a", "rollout": {"group_size": 4, "unchecked": True}}


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("run = \n")
    deep, long = tmp_path / "deep.toml", tmp_path / "long.toml"
    deep.write_text("run = " + 5000 * "[")
    long.write_text("run = " + 5000 * "1")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, match in [(tmp_path / "missing.toml", "readable"), (binary, "readable")] + [
        (path, "not TOML") for path in (broken, deep, long)
    ]:
        with pytest.raises(ConfigError, match=match) as error:
            read_config(path)
        assert str(error.value).startswith(f"config {path}: ")
        assert "\n" not in str(error.value)


VARIANTS = {"bench": {"variants": {"compact": {"environment": {"compact_prompts": True}}}}}


def test_a_variant_is_the_run_with_other_settings() -> None:
    config = build_config({**VARIANTS, "environment": {"name": "diplomacy", "horizon": 2}})
    variant = variant_of(config, "compact")
    assert variant.environment == config.environment.model_copy(update={"compact_prompts": True})
    assert variant.bench.variants == {}


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"environment": {"compact": True}}}, "bench.variants.a: environment.compact: unknown key"),
        ({"a": {"rollout": {"group_size": 1}}}, "bench.variants.a: rollout.group_size 1 has no siblings"),
        ({"a": {"bench": {"variants": {}}}}, "bench.variants.a: a variant has no variants of its own"),
        ({"a": {"environment": 3}}, "bench.variants.a.environment: 3 is not allowed"),
        ({"A B": {}}, "should match pattern"),
    ],
)
def test_a_variant_that_is_not_allowed_is_named(variants: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?i){re.escape(message)}"):
        build_config({"bench": {"variants": variants}})


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ConfigError, match="no variant 'full'; there are: compact"):
        variant_of(build_config(VARIANTS), "full")


@pytest.mark.parametrize("section", ["model", "environment", "rollout", "training", "schedule", "telemetry"])
def test_every_number_has_bounds(section: str) -> None:
    """A slip of a few digits runs for ever, or takes all memory, or is a segmentation fault somewhere below."""
    schema = GrpoConfig.model_json_schema()
    properties = schema["$defs"][f"{section.capitalize()}Config"]["properties"]
    for name, described in properties.items():
        for kind in described.get("anyOf", [described]):
            if kind.get("type") in ("integer", "number"):
                assert {"maximum", "exclusiveMaximum"} & set(kind), f"{section}.{name} has no upper bound"
                assert {"minimum", "exclusiveMinimum"} & set(kind), f"{section}.{name} has no lower bound"
