"""A saved view of a W&B project: the charts of a run in the order in which one looks at them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.errors import CredentialsError
from grpo_core.home import Home, make_folder, parse_json, write_json
from grpo_core.telemetry.wandb.connection import wandb_settings
from grpo_core.telemetry.wandb.names import BATCH, SECONDS, STEP

logger = logging.getLogger(__name__)

NAME = "GRPO"


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines of ``metrics`` over ``axis``."""

    title: str
    metrics: tuple[str, ...]
    axis: str = STEP


SECTIONS: Mapping[str, tuple[Chart, ...]] = {
    "Learning": (
        Chart("Reward", ("reward/mean",)),
        Chart("Loss", ("loss/policy",)),
        Chart("KL", ("loss/kl",)),
        Chart("Entropy", ("loss/entropy",)),
        Chart("Norm of the gradient", ("loss/grad_norm",)),
        Chart("Held-out questions", ("evaluation/greedy_passed", "evaluation/pass_at_k")),
    ),
    "Is it sound?": (
        Chart("Sampler against trainer, KL", ("loss/mismatch_kl",)),
        Chart("Clipped tokens", ("loss/clip_fraction_low", "loss/clip_fraction_high")),
        Chart("Skipped updates", ("loss/num_skipped_updates",)),
        Chart("Groups without a gradient", ("reward/num_dropped_groups",)),
        Chart("Failed episodes", ("rollout/num_failed_episodes",), BATCH),
    ),
    "Speed": (
        Chart("Step, s", ("timing/step_s",)),
        Chart("Rollout, s", ("timing/rollout_s",), BATCH),
        Chart("Completion tokens per second", ("timing/tokens_per_second",), BATCH),
        Chart("Forward and backward, ms", ("timing/loss_forward_ms", "timing/backward_ms")),
    ),
    "Schedule": (
        Chart("Policy lag", ("schedule/policy_lag_steps", "schedule/max_policy_lag_steps")),
        Chart("Buffer depth", ("schedule/buffer_depth", "schedule/configured_buffer_depth")),
        Chart("Learning rate", ("schedule/learning_rate",)),
    ),
    "Machine": (
        Chart("GPU 0, %", ("gpu/0/utilization_percent",), SECONDS),
        Chart("GPU 0, bytes", ("gpu/0/memory_used_bytes",), SECONDS),
        Chart("Host, %", ("host/utilization_percent",), SECONDS),
        Chart("Largest memory of a step, bytes", ("compute/peak_memory_bytes",)),
    ),
}
"""The names are those of ``names.py``."""


def save_view(home: Home, entity: str | None, project: str) -> str:
    """Make the view in ``project`` of ``entity`` (None: the user's own), or bring the one up to date that was made from
    ``home``. Returns its address.

    Raises:
        CredentialsError: W&B cannot be used.
        HomeError: ``home`` cannot be written.
    """
    import wandb

    path = make_folder(home.data) / "wandb-views.json"
    try:
        wandb.setup(wandb_settings())
        entity = entity or wandb.Api().default_entity
        if not entity:
            raise CredentialsError("W&B: the key has no entity; name one with --entity")
        place = f"{entity}/{project}"
        views = _read(path)
        view = _opened(views.get(place), entity, project)
        view.save()
        url = str(view.url)
    except (wandb.Error, OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # it trusts answers
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CredentialsError(f"W&B, project {project!r}: {reason}") from error
    write_json(path, {**views, place: url})
    return url


def _opened(url: str | None, entity: str, project: str) -> Any:
    """The view at ``url`` with today's sections; a new one where there is none, or none any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, about how the package is written
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    sections = [
        workspaces.Section(
            name=name,
            is_open=True,
            panels=[reports.LinePlot(title=chart.title, x=chart.axis, y=list(chart.metrics)) for chart in charts],
        )
        for name, charts in SECTIONS.items()
    ]
    if url is not None:
        try:
            view = workspaces.Workspace.from_url(url)
        except ValueError as error:
            logger.info("W&B: %s is no view any more (%s): making another one", url, error)
        else:
            view.sections = sections
            return view
    return workspaces.Workspace(entity=entity, project=project, name=NAME, sections=sections)


def _read(path: Path) -> dict[str, str]:
    """The views that were made, by entity and project."""
    try:
        return {str(place): str(url) for place, url in parse_json(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
