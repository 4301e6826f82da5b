"""The table of ``grpo``'s commands, in the order and the groups of its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rich.console import Console

from grpo_core.commands import pytest_programs

Run = Callable[[argparse.Namespace, Console], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


def lazy_function(module: str, function: str) -> Callable[..., Any]:
    """``function`` of ``grpo_core/commands/<module>.py``, which is imported at its first call: another command may do
    without the packages that this one needs."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"grpo_core.commands.{module}"), function)(*arguments)

    return call


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand. Without ``add_arguments`` its arguments are handed over to another program as they are."""

    name: str
    summary: str
    run: Run
    add_arguments: AddArguments | None = None
    example: str | None = None
    when: str = ""
    """When to use it, and when another one; lines of the help."""


COMMANDS: Mapping[str, tuple[Command, ...]] = {
    "begin": (
        Command(
            "init",
            "write a starter into a project: settings, a test, thresholds, a CI workflow",
            lazy_function("init", "run"),
            lazy_function("init", "add_arguments"),
            "grpo init",
            "What exists is left as it is.",
        ),
    ),
    "judge": (
        Command(
            "bench",
            "run the phases and print a verdict per gate",
            lazy_function("bench", "run"),
            lazy_function("bench", "add_arguments"),
            "grpo bench --phase 2,5 -- --grpo-save before",
            "The phases are those of the folder bench/, or, where it has no tests, those that come with pytest-grpo.\n"
            "It judges the loop against thresholds. To only time one part: grpo benchmark.",
        ),
        Command("compare", "find the gates that lost between two stored results", pytest_programs.run_compare),
        Command("ab", "compare two versions in pairs: is one faster?", pytest_programs.run_ab),
        Command(
            "bisect", "find the first commit on which a phase fails or a quantity is slower", pytest_programs.run_bisect
        ),
        Command("history", "find the commits at which the stored results changed", pytest_programs.run_history),
        Command("judge", "judge a finished run of any stack by the log that it left", pytest_programs.run_judge),
        Command("thresholds", "show the thresholds and where each comes from", pytest_programs.run_thresholds),
        Command(
            "doctor",
            "run the canaries: does the engine sample what the trainer trains on?",
            lazy_function("doctor", "run"),
            lazy_function("doctor", "add_arguments"),
            "grpo doctor --quick",
        ),
    ),
    "measure one part": (
        Command(
            "benchmark",
            "time rollouts, the trainer or the whole loop, without a verdict",
            lazy_function("measure", "run_benchmark"),
            lazy_function("measure", "add_benchmark_arguments"),
            "grpo benchmark --profile e2e --buffer-depth 3 --policy-lag 2",
            "--profile chooses the part that is timed; no profiler runs.\n"
            "For a trace of the torch profiler: grpo profile. For verdicts: grpo bench.",
        ),
        Command(
            "profile",
            "trace rollouts or the trainer with the torch profiler",
            lazy_function("measure", "run_profile"),
            lazy_function("measure", "add_profile_arguments"),
            "grpo profile --target trainer --compact-prompts",
            "--target chooses the part. The trace says where the time goes; tracing itself takes time.\n"
            "For times without a trace: grpo benchmark --profile PART.",
        ),
    ),
    "train": (
        Command(
            "train",
            "train a policy",
            lazy_function("train", "run"),
            lazy_function("train", "add_arguments"),
            "grpo train --environment arithmetic --steps 60 --set training.loss=gspo",
            "--set reaches every setting, also those without a flag of their own. Without a model and an environment\n"
            "it trains the preset adder on sums of two numbers up to 14, of which one in five is never asked.",
        ),
        Command(
            "config",
            "show the configuration in effect, and where each value came from",
            lazy_function("config", "run"),
            lazy_function("config", "add_arguments"),
            "grpo config --config run.toml --set training.loss=gspo",
            "With a RUN: what that is trained with. The output is TOML, for --config.",
        ),
        Command(
            "evaluate",
            "ask a checkpoint held-out questions",
            lazy_function("evaluate", "run"),
            lazy_function("evaluate", "add_arguments"),
            "grpo evaluate watched --step 40",
            "While a run trains: --set evaluation.every_steps=N of grpo train.",
        ),
        Command(
            "export",
            "write a checkpoint as a folder for PEFT, transformers and vLLM",
            lazy_function("export", "run"),
            lazy_function("export", "add_arguments"),
            "grpo export first --step 200 --merge my-model",
        ),
        Command(
            "serve",
            "serve a checkpoint or a model to clients of OpenAI's API",
            lazy_function("serve", "run"),
            lazy_function("serve", "add_arguments"),
            "grpo serve first --step 200",
            "Agents that a run trains ask the run itself: see Agent in docs/your-data.md.",
        ),
    ),
    "look": (
        Command(
            "explain",
            "say where a run's time goes, and which setting to try",
            lazy_function("explain", "run"),
            lazy_function("explain", "add_arguments"),
            "grpo explain my-run",
            "It reads the ledger in the run's events. Whether a change helped, a phase says: grpo bench.",
        ),
        Command(
            "runs",
            "list what runs take on disk, and remove old ones",
            lazy_function("runs", "run"),
            lazy_function("runs", "add_arguments"),
            "grpo runs --prune --days 30",
            "Without --prune it changes nothing.",
        ),
        Command(
            "samples",
            "print what was said in a step, and what it earned",
            lazy_function("samples", "run"),
            lazy_function("samples", "add_arguments"),
            "grpo samples first --step 40 --worst 5",
        ),
        Command(
            "send",
            "send the events that Axiom or W&B missed",
            lazy_function("send", "run"),
            lazy_function("send", "add_arguments"),
            "grpo send --run first",
            "A run whose service was away says at its end how many events wait in its file.",
        ),
        Command(
            "dashboard",
            "look at runs and verdicts on a live page",
            lazy_function("dashboard", "run"),
            lazy_function("dashboard", "add_arguments"),
            "grpo dashboard --open",
            "It reads what runs write below GRPO_HOME, and changes nothing. For a terminal: grpo panels --watch.",
        ),
        Command(
            "trace",
            "open a trace of grpo profile in Perfetto",
            lazy_function("trace", "run"),
            lazy_function("trace", "add_arguments"),
            "grpo trace first",
            "The trace goes from this machine to your browser, and nowhere else.",
        ),
        Command(
            "axiom",
            "push the panels to Axiom as a dashboard, with monitors and annotations",
            lazy_function("axiom", "run"),
            lazy_function("axiom", "add_arguments"),
            "grpo axiom push --dry-run",
            "What is there already is brought up to date, and nothing is made twice.",
        ),
        Command(
            "wandb",
            "push stored verdicts to Weights & Biases, or save a view of the charts there",
            lazy_function("wandb", "run"),
            lazy_function("wandb", "add_arguments"),
            "grpo wandb push before --html report.html",
            "A second push of a name brings its run up to date, and a second view the one that was made.",
        ),
        Command(
            "panels",
            "show the dashboard's panels in the terminal",
            lazy_function("panels", "run"),
            lazy_function("panels", "add_arguments"),
            "grpo panels --watch",
        ),
    ),
}
