"""The steps of a run in a terminal or a log file, and at its end the learning curve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grpo_core.config import GrpoConfig
from grpo_core.schedule.reward_chart import reward_chart
from grpo_core.schedule.step_line import step_line

if TYPE_CHECKING:
    from grpo_core.schedule.reports import OnStep, StepReport, TrainResult

MIN_CHART_STEPS = 10
"""A shorter run has no curve."""


@contextmanager
def show_steps(console: Console, config: GrpoConfig) -> Iterator[OnStep]:
    """What shows a finished step: a bar on a terminal, else one line per step, written at once."""
    if not console.is_terminal:
        yield lambda report: print(step_line(report), file=console.file, flush=True)
        return
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task(config.run, total=config.schedule.num_steps, text="collecting the first batch")

        def show(report: StepReport) -> None:
            text = (
                f"{report.step_s:.2f} s/step  reward {report.rollout.sampled_reward_mean:.3f}  "
                f"{report.rollout.tokens_per_second:.0f} tok/s  lag {report.policy_lag_steps}  "
                f"rate {report.metrics.learning_rate:.2g}"
            )
            progress.update(task, completed=report.metrics.step, text=text)

        yield show


def print_result(console: Console, rewards: list[float], first_step: int, result: TrainResult) -> None:
    """The curve of ``rewards``, one per step, and the means of its first and last tenth."""
    if not rewards:
        console.print("no step finished")
        return
    if len(rewards) >= MIN_CHART_STEPS:
        chart = reward_chart(rewards, first_step, ascii_only=console.options.ascii_only)
        console.print("\n".join(chart), highlight=False, soft_wrap=True)
    tenth = max(1, len(rewards) // 10)
    first, last = sum(rewards[:tenth]) / tenth, sum(rewards[-tenth:]) / tenth
    console.print(
        f"{len(rewards)} steps in {result.duration_s:.0f} s; mean reward of the first {tenth}: {first:.3f}, "
        f"of the last {tenth}: {last:.3f}"
    )
