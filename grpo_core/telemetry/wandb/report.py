"""A stored baseline and its HTML page in W&B: the verdicts as a table, both as artifacts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_core.errors import ConfigError, CredentialsError, GrpoError
from grpo_core.home import Home, check_name, make_folder, parse_json
from grpo_core.telemetry.wandb.connection import Mode, wandb_settings

_COLUMNS = ("metric", "verdict", "measured", "low", "high", "threshold", "unit", "reason", "system")


def push_report(home: Home, name: str, html: Path | None, mode: Mode, project: str) -> Path:
    """Make a run of the baseline ``name`` in ``project``, or bring its run up to date. Returns the run's folder.

    Raises:
        ConfigError: there is no such baseline, or no such page.
        CredentialsError: W&B cannot be used.
    """
    import wandb

    content = _read(home, name)
    if html is not None and not html.is_file():
        raise ConfigError(f"--html {html}: no such file; pytest --grpo-html {html} writes it")
    rows = [[test, *(row.get(column) for column in _COLUMNS)] for test, row in content["results"]]
    try:
        with wandb.init(
            project=project,
            id=hashlib.sha256(f"grpo verdicts {name}".encode()).hexdigest()[:16],
            resume=None if mode == "offline" else "allow",
            name=name,
            job_type="verdicts",
            dir=make_folder(home.data),
            mode=mode,
            config=dict(content["fingerprint"]),
            settings=wandb_settings(),
        ) as run:
            table = wandb.Table(columns=["test", *_COLUMNS], data=rows)
            run.log({"verdicts": table})
            run.summary.update({f"num_{verdict}": count for verdict, count in Counter(row[2] for row in rows).items()})
            artifact = wandb.Artifact(f"grpo-verdicts-{name}", type="verdicts", metadata={"baseline": name})
            artifact.add_file(str(home.data / "baselines" / f"{name}.json"))
            artifact.add(table, "verdicts")
            if html is not None:
                artifact.add_file(str(html), "report.html")
            run.log_artifact(artifact)
            folder = Path(run.dir).parent
    except (wandb.Error, OSError) as error:
        raise CredentialsError(f"W&B, project {project!r}: {str(error).partition(chr(10))[0]}") from error
    return folder


def _read(home: Home, name: str) -> Mapping[str, Any]:
    path = home.data / "baselines" / f"{check_name(name, 'NAME')}.json"
    try:
        content = parse_json(path.read_bytes())
        rows = [(str(test), dict(row)) for test, row in content["results"]]
        return {"results": rows, "fingerprint": dict(content["fingerprint"])}
    except FileNotFoundError:
        present = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
        raise ConfigError(f"{name}: no stored baseline of this name; there are: {present}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GrpoError(f"baseline {path}: damaged; store it again with --grpo-save") from error
