"""W&B: training steps, rollouts and device statistics under readable names, online or offline."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from grpo_core.config import GrpoConfig, TelemetryConfig
from grpo_core.errors import ConfigError, CredentialsError
from grpo_core.home import Home, check_name, make_folder, parse_json, write_json
from grpo_core.telemetry.addresses import check_header, check_url
from grpo_core.telemetry.delivery.delivery import DeliveryError
from grpo_core.telemetry.events import Record
from grpo_core.telemetry.wandb.names import AXES, BATCH, SECONDS, STEP, SUMMARIES
from grpo_core.telemetry.wandb.rows import Row, rows_of

Mode = Literal["online", "offline"]

_MAX_TABLE_ROWS = 200
_MAX_TAG = 64  # of W&B
_TIMEOUT_S = 15.0  # less than a sink waits in close; by itself W&B waits for minutes


def open_wandb(
    config: GrpoConfig, home: Home, environment: Mapping[str, str] = os.environ, *, continues: bool
) -> WandbConnection | None:
    """The connection to W&B that the configuration and ``WANDB_*`` ask for, or None. What ``continues`` an earlier
    process goes on in the same run there.

    Raises:
        ConfigError: ``WANDB_MODE`` is not ``online``, ``offline`` or ``disabled``.
        CredentialsError: ``WANDB_MODE`` is ``online`` without ``WANDB_API_KEY``; or that, or ``WANDB_BASE_URL``, is
            invalid.
        HomeError: the folder of offline runs cannot be written.
    """
    mode = choose_mode(config.telemetry, environment)
    if mode is None:
        return None
    project = project_of(environment)
    identity = environment.get("WANDB_RUN_ID") or run_id_of(home, config.run, continues=continues)
    return WandbConnection(config, make_folder(home.data), mode, project, identity)


def choose_mode(config: TelemetryConfig, environment: Mapping[str, str]) -> Mode | None:
    """``offline`` and ``off`` in the configuration win, then ``WANDB_MODE``, then whether ``WANDB_API_KEY`` is set."""
    if config.wandb == "off":
        return None
    mode = "offline" if config.wandb == "offline" else _mode_of(environment)
    if mode is not None:
        if url := environment.get("WANDB_BASE_URL"):  # W&B refuses one without a scheme, offline as well
            check_url("WANDB_BASE_URL", url)
        check_header("WANDB_API_KEY", environment.get("WANDB_API_KEY", ""))
    return mode


def _mode_of(environment: Mapping[str, str]) -> Mode | None:
    has_key = bool(environment.get("WANDB_API_KEY"))
    mode = environment.get("WANDB_MODE") or ("online" if has_key else "disabled")
    if mode not in {"online", "offline", "disabled"}:
        raise ConfigError(f"WANDB_MODE {mode!r}: only 'online', 'offline' and 'disabled' are allowed; set one of these")
    if mode == "online" and not has_key:
        raise CredentialsError("WANDB_MODE is 'online' without WANDB_API_KEY: set the key, or WANDB_MODE to 'offline'")
    return None if mode == "disabled" else mode  # type: ignore[return-value]


def project_of(environment: Mapping[str, str]) -> str:
    return environment.get("WANDB_PROJECT") or "pytest-grpo"


def wandb_settings() -> Any:
    """W&B says nothing on the terminal, looks at no code, and waits for seconds only."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=_TIMEOUT_S,
        finish_timeout=_TIMEOUT_S,
        finish_timeout_raises=True,
        x_disable_stats=True,  # gpu_stats has them
    )


def run_id_of(home: Home, run: str, *, continues: bool) -> str:
    """The id of ``run`` in W&B, which its next process has, too, when it ``continues`` this one.

    Raises:
        HomeError: the folder cannot be written.
    """
    path = home.deliveries / f"{run}.wandb-id.json"
    if continues:
        try:
            return check_name(str(parse_json(path.read_bytes())["id"]), "id")
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it was trained without W&B until now
    identity = secrets.token_hex(8)
    write_json(path, {"id": identity})
    return identity


class WandbConnection:
    """One W&B run. Offline it is a folder below ``<folder>/wandb``, for ``wandb sync``.

    What it was given is in its own file, and W&B's service sends it from there, through outages as well.
    """

    name = "wandb"

    def __init__(self, config: GrpoConfig, folder: os.PathLike[str], mode: Mode, project: str, identity: str) -> None:
        self._config = config
        self._folder = folder
        self._mode: Mode = mode
        self._project = project
        self._identity = identity
        self._started_s: float | None = None
        self._run: Any | None = None  # while it is not started, and after its service has died

    def open(self) -> None:
        """Raises ``DeliveryError`` when the run cannot be started: no network, or a key that is refused."""
        import wandb

        try:
            run = wandb.init(
                project=self._project,
                id=self._identity,
                resume=None if self._mode == "offline" else "allow",  # offline, wandb sync puts both parts together
                name=self._config.run,
                group=os.environ.get("WANDB_RUN_GROUP") or self._config.environment.name,
                job_type="train",
                tags=None if "WANDB_TAGS" in os.environ else self._tags(),
                dir=self._folder,
                mode=self._mode,
                config=self._config.model_dump(mode="json"),
                settings=wandb_settings(),
                reinit="create_new",
            )
        except (wandb.Error, OSError) as error:
            raise self._failure(error) from error
        for pattern, axis in AXES.items():
            run.define_metric(pattern, step_metric=axis)
        for name, summary in SUMMARIES.items():
            axis = BATCH if name.startswith("rollout/") else STEP
            run.define_metric(name, step_metric=axis, summary=summary)
        self._run = run

    def send(self, records: Sequence[Record]) -> int:
        """Raises ``DeliveryError`` when the W&B service has died."""
        import wandb

        if self._run is None:
            self.open()
        assert self._run is not None
        try:
            for row in rows_of(records, self._samples):
                self._log(row)
        except (wandb.Error, OSError) as error:
            self._run = None  # the next try opens another one
            raise self._failure(error) from error
        return 0

    def _log(self, row: Row) -> None:
        """With the time of the events: they may arrive much later."""
        assert self._run is not None
        if self._started_s is None:
            self._started_s = row.time_s
        seconds = max(0.0, row.time_s - self._started_s)  # what comes of no step is logged first
        self._run.log({**row.values, SECONDS: seconds, "_timestamp": row.time_s})

    def _samples(self, record: Record) -> dict[str, Any]:
        """What was said as a table, if the file is still there."""
        import pyarrow.parquet as pq
        import wandb

        path = Path(self._folder) / "samples" / self._config.run / str(record["file"])
        if not path.is_file():
            return {}
        rows = pq.read_table(path).slice(0, _MAX_TABLE_ROWS)
        table = wandb.Table(columns=rows.column_names, data=[list(row.values()) for row in rows.to_pylist()])
        return {STEP: record["step"], "samples": table}

    def _tags(self) -> list[str]:
        config = self._config
        return [config.environment.name[:_MAX_TAG], config.rollout.engine, config.training.loss, config.training.method]

    def close(self) -> None:
        """Raises ``DeliveryError`` when the run cannot be finished in time."""
        import wandb

        if self._run is None:
            return
        folder = Path(self._run.dir).parent
        try:
            self._run.finish()
        except (wandb.Error, OSError) as error:
            raise DeliveryError(f"{self._failure(error)}; send the rest with: wandb sync {folder}") from error

    def _failure(self, error: Exception) -> DeliveryError:
        reason = str(error).partition("\n")[0] or type(error).__name__  # what follows is advice about W&B's settings
        return DeliveryError(f"project {self._project!r}: {reason}")
