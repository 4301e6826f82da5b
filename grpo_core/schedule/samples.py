"""What was said: prompts, completions, rewards and advantages of some batches, as Parquet files of bounded size."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo_core.config import GrpoConfig
from grpo_core.errors import ConfigError, HomeError, first_line
from grpo_core.home import Home, check_name, write_atomic
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.training.advantages import group_advantages
from grpo_core.training.objective.penalty import overlong_penalised_groups
from grpo_core.training.objective.selected_groups import select_groups
from grpo_core.types import Batch, Group

logger = logging.getLogger(__name__)

_SCORE = "score_"
_NUMBERS = frozenset({"sample", "turn", "num_tokens", "reward"})
_TEXTS = frozenset({"group", "agent", "prompt", "completion", "finish_reason"})


def samples_folder(home: Home, run: str) -> Path:
    """Where the files of ``run`` are: ``step-000040.parquet``."""
    return home.samples / check_name(run, "run")


def sample_file_name(step: int) -> str:
    return f"step-{step:06d}.parquet"


class SampleFiles:
    """Writes the batch of every K-th step (``telemetry.samples_every_steps``), and removes the oldest files."""

    def __init__(self, config: GrpoConfig, home: Home, tokenizer: Tokenizer) -> None:
        self._config = config
        self._folder = samples_folder(home, config.run)
        self._tokenizer = tokenizer
        self._has_warned = False

    def is_due(self, step: int) -> bool:
        """After the first step, too: that is where a mistake in the prompts shows."""
        every = self._config.telemetry.samples_every_steps
        return every > 0 and (step == 1 or step % every == 0)

    def write(self, step: int, batch: Batch) -> Path | None:
        """Write the file of ``step``, which trained on ``batch``. A disk that is full costs the file, and no step."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = io.BytesIO()
        rows = list(sample_rows(step, batch, self._config, self._tokenizer))
        pq.write_table(pa.Table.from_pylist(rows), content)
        try:
            path = write_atomic(self._folder / sample_file_name(step), content.getvalue())
        except HomeError as error:
            if not self._has_warned:
                logger.warning("%s; training goes on without its samples", error)
            self._has_warned = True
            return None
        self._tidy(path)
        return path

    def _tidy(self, newest: Path) -> None:
        left = self._config.telemetry.max_samples_bytes
        for path in sorted(self._folder.glob("step-*.parquet"), reverse=True):
            left -= path.stat().st_size
            if left < 0 and path != newest:
                path.unlink()


def sample_files(home: Home, run: str) -> dict[int, Path]:
    """The files of ``run`` that are kept, by step."""
    paths = samples_folder(home, run).glob("step-*.parquet")
    return {int(number): path for path in sorted(paths) if (number := path.stem.partition("-")[2]).isdecimal()}


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, as ``sample_rows`` made them.

    Raises:
        ConfigError: it is damaged, or another program's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        for names, kind in ((_NUMBERS, pa.float64()), (_TEXTS, pa.string())):
            for name in names:
                table[name].cast(kind)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ConfigError(
            f"samples {path}: cannot be read ({first_line(error)}); delete it, or name another --step"
        ) from error
    return table.to_pylist()


def sample_rows(step: int, batch: Batch, config: GrpoConfig, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """A row per turn. ``advantage`` is None where the step left the group out; a KL penalty in it is not shown."""
    part = select_groups(batch.groups, drop_zero_variance=config.training.drop_zero_variance_groups)
    penalised = overlong_penalised_groups(part.groups)
    found = group_advantages(penalised, config.training.advantages)
    advantages = {group.group_id: values for group, values in zip(part.groups, found, strict=True)}
    for group in batch.groups:
        yield from _group_rows(step, group, advantages.get(group.group_id), tokenizer)


def _group_rows(step: int, group: Group, advantages: Any, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    for sample, trajectory in enumerate(group.trajectories):
        scores: Mapping[str, float | None] = {f"{_SCORE}{name}": value for name, value in trajectory.scores.items()}
        for number, turn in enumerate(trajectory.turns):
            yield {
                "step": step,
                "policy_version": turn.policy_version,
                "group": group.group_id,
                "sample": sample,
                "agent": trajectory.agent,
                "row": trajectory.row,
                "turn": number,
                "prompt": tokenizer.decode(turn.prompt_ids, keep_special=True),
                "completion": tokenizer.decode(turn.completion_ids),
                "num_tokens": len(turn.completion_ids),
                "finish_reason": turn.finish_reason,
                "reward": float(trajectory.reward),
                **scores,
                "advantage": None if advantages is None else float(advantages[sample]),
            }


def scores_of(row: Mapping[str, Any]) -> dict[str, float | None]:
    """What each reward function gave, by its name, of a row that was read back."""
    return {name.removeprefix(_SCORE): value for name, value in row.items() if name.startswith(_SCORE)}
