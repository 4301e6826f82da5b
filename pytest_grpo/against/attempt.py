"""One test on both sides, and what the session reports of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_grpo.against.rows import RowWriter, describe
from pytest_grpo.remote.replay import lost_reports, restore_report
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.types import Row, Verdict


@dataclass(slots=True)
class Attempt:
    """One test on both sides."""

    item: pytest.Item
    following: str | None
    """The test that runs next, whose fixtures stay."""
    write: RowWriter
    rows: list[Row] = field(default_factory=list)
    reports: tuple[Mapping[str, Any], ...] = ()
    """Of this side."""
    lost: str = ""
    """Why there are none."""

    def final_reports(self) -> Iterator[pytest.TestReport]:
        """What this side reported, with the rows, by which the test fails or stays undecided."""
        config = self.item.config
        if not self.reports:
            yield from lost_reports(self.item, self.lost or "it said nothing")
            return
        reports = [restore_report(config, dict(data)) for data in self.reports]
        properties = [row.as_property() for row in self.rows]
        red = [row for row in self.rows if row.verdict == Verdict.FAIL]
        undecided = [row for row in self.rows if row.verdict == Verdict.INCONCLUSIVE]
        is_strict = config.stash[PLUGIN_CONFIG].inconclusive == "fail"
        for report in reports:
            report.user_properties += properties
            if report.when == "call" and report.outcome != "failed":
                if red or (undecided and is_strict):
                    report.outcome = "failed"
                    report.longrepr = "\n".join(map(describe, red or undecided))
                elif undecided:
                    report.outcome = "skipped"
                    report.wasxfail = "; ".join(map(describe, undecided))
            yield report
