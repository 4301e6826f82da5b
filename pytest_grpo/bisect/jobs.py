"""What ``pytest_grpo.bisect.judge`` is told: which command judges a commit, and by what."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.against.plugin_path import UNSHADOWED, python_path
from pytest_grpo.bisect import judge, rows
from pytest_grpo.bisect.judge import SKIP
from pytest_grpo.checkouts.worktrees import import_path
from pytest_grpo.types import is_count

DEFAULT_BY = "0.05"
_METRIC = re.compile(r"[^\s<>=]+\.[^\s<>=.]+")
_QUIET = ("-q", "--color=no", "-p", "no:cacheprovider")


@dataclass(frozen=True, slots=True)
class Slower:
    """What makes a commit bad: ``metric``, ``<arm>.<quantity>``, is slower than on the good commit by the part ``by``,
    or, of a count or bytes, more."""

    metric: str
    by: float

    @classmethod
    def parse(cls, metric: str, by: str) -> Slower:
        """Raises pytest.UsageError, one line, for a metric or a part that is none."""
        if not _METRIC.fullmatch(metric):
            raise pytest.UsageError(
                f"--slower {metric!r}: allowed is ARM.QUANTITY as tables of grpo ab have it; try step.tokens_per_second"
            )
        text = by.strip()
        try:
            part = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            part = 0.0
        if not 0 < part < 1:
            raise pytest.UsageError(f"--by {by!r}: allowed are parts above 0 and below 1; try {DEFAULT_BY} or 5%")
        return cls(metric, part)


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges the commit that is checked out in ``worktree``."""

    worktree: Path
    script: Path
    job: dict[str, Any]

    @classmethod
    def by_verdicts(cls, tree: Path, worktree: Path, arguments: Sequence[str]) -> Judge:
        """Judges each commit by its gates."""
        from grpo_core.home import Home
        from pytest_grpo.baseline.files import baselines_folder

        script, folder = _copy_script(worktree), worktree.parent
        plugin = shutil.copyfile(rows.__file__, script.with_name("grpo_bisect_rows.py"))
        home = folder / "home"
        baselines = baselines_folder(Home.from_environment())
        if baselines.is_dir():  # for --grpo-compare; all other files of the commits stay in the temporary folder
            shutil.copytree(baselines, home / "data" / "baselines")
        job = {
            "metric": "",
            "folder": str(worktree / Path.cwd().resolve().relative_to(tree)),
            "command": [sys.executable, "-m", "pytest", "-p", plugin.stem, *_QUIET, *arguments],
            "environment": {
                "PYTHONPATH": os.pathsep.join([*import_path(tree, worktree), str(script.parent)]),
                "PYTHONDONTWRITEBYTECODE": "1",  # a .pyc of the same second would hide the next commit's change
                "GRPO_HOME": str(home),
                "GRPO_BISECT_MAIN_TREE": str(tree),
            },
        }
        return cls(worktree, script, job)

    @classmethod
    def by_change(cls, worktree: Path, slower: Slower, phase: str | None, arguments: Sequence[str]) -> Judge:
        """Judges each commit by a comparison with another one, which ``command`` is told."""
        script = _copy_script(worktree)
        given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        own = [*arguments, *_QUIET, "--grpo-tolerance", repr(slower.by)]
        if is_count(slower.metric.rpartition(".")[2]):  # otherwise one that is the same has no row
            own += ["--grpo-expect", f"{slower.metric}<=1"]
        job = {
            "metric": slower.metric,
            "folder": str(Path.cwd()),  # where the user's own checkout knows all commits
            "command": [sys.executable, *UNSHADOWED, "-m", "pytest_grpo.against.ab"],
            "arguments": [*([] if phase is None else ["--phase", phase]), "--", *own],
            "environment": {"PYTHONPATH": python_path(script.parent, [os.path.abspath(folder) for folder in given])},
        }
        return cls(worktree, script, job)

    def command(self, against: str = "") -> list[str]:
        """Judges the checkout, ``against`` a commit or by itself. It has no options: some git versions parse them."""
        path = self.worktree.parent / f"job{against}.json"
        fields = {"tree": str(self.worktree), "log": str(self._log), "against": against}
        path.write_text(json.dumps(self.job | fields), encoding="utf-8")
        return [sys.executable, str(self.script), str(path)]

    def judgements(self) -> list[dict[str, Any]]:
        """The judgements so far, in their order."""
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines]

    def judgement(self, commit: str) -> dict[str, Any]:
        """The last one of ``commit``."""
        unfinished = {"commit": commit, "code": SKIP, "reason": "its judge did not finish", "lines": [], "measured": []}
        return next((found for found in reversed(self.judgements()) if found["commit"] == commit), unfinished)

    @property
    def _log(self) -> Path:
        return self.worktree.parent / "judgements.jsonl"


def _copy_script(worktree: Path) -> Path:
    script = worktree.parent / "judge" / "grpo_bisect_judge.py"
    script.parent.mkdir()
    return shutil.copyfile(judge.__file__, script)
