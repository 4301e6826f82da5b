"""The baselines of a session: the one it is compared with, the earlier ones, and the one it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.settings.config import PLUGIN_CONFIG, PluginConfig

if TYPE_CHECKING:
    from pytest_grpo.baseline.files import Baseline
    from pytest_grpo.baseline.fingerprint import Fingerprint
    from pytest_grpo.baseline.regressions import Change
    from pytest_grpo.reports.history import SavedRun
    from pytest_grpo.types import Row


class StoredResults:
    """``--grpo-save`` and ``--grpo-compare`` of one session.

    Raises:
        pytest.UsageError: the name to save is taken; the baseline is missing, damaged or of another machine.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings: PluginConfig = config.stash[PLUGIN_CONFIG]
        self._fingerprint: Fingerprint | None = None
        self._measured_on: list[Fingerprint] = []
        self.baseline: Baseline | None = None
        self._same_code: Sequence[Baseline] = ()
        if self._settings.save is not None:
            from grpo_core.home import Home
            from pytest_grpo.baseline.files import check_new_name

            check_new_name(Home.from_environment(), self._settings.save)
        if self._settings.compare is not None:
            self.baseline, *self._same_code = self._read_sessions(self._settings.compare)

    def _read_sessions(self, name: str) -> Sequence[Baseline]:
        from grpo_core.home import Home
        from pytest_grpo.baseline.files import read_sessions
        from pytest_grpo.baseline.fingerprint import check_same, differing

        sessions = read_sessions(Home.from_environment(), name)
        if not self._settings.any_machine and self._settings.remote is None:
            check_same(f"baseline {name!r}", differing(sessions[0].fingerprint, self.fingerprint()))
        return sessions

    def measured_on(self, fingerprint: Fingerprint) -> None:
        """Note that results come from that machine, not from this one."""
        self._measured_on.append(fingerprint)

    def baseline_texts(self) -> tuple[str, ...]:
        """The baseline file and those of the other sessions of its code, to send to another machine; empty without
        ``--grpo-compare``."""
        if self.baseline is None:
            return ()
        from pytest_grpo.baseline.files import as_text

        return tuple(as_text(session) for session in (self.baseline, *self._same_code))

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of this checkout and of the machines that measured: this one unless others are noted."""
        from pytest_grpo.baseline.fingerprint import merge

        return merge(self._measured_on, self._own_fingerprint())

    def _own_fingerprint(self) -> Fingerprint:
        """This machine's fingerprint, taken once."""
        if self._fingerprint is None:
            from pytest_grpo.baseline.fingerprint import take_fingerprint
            from pytest_grpo.settings.thresholds import thresholds_of

            thresholds = {name: str(threshold) for name, threshold in thresholds_of(self._config).items()}
            self._fingerprint = take_fingerprint(self._config.rootpath, thresholds, self._settings.run.content())
        return self._fingerprint

    def machine(self) -> Mapping[str, str]:
        """The fingerprint as text by field, without the thresholds: each row has its own."""
        fields = asdict(self.fingerprint())
        del fields["thresholds"]
        return {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in fields.items()}

    def history(self) -> Sequence[SavedRun]:
        """The saved baselines, oldest first."""
        from grpo_core.home import Home
        from pytest_grpo.baseline.files import list_baselines
        from pytest_grpo.reports.history import SavedRun

        readable, _ = list_baselines(Home.from_environment())
        return [
            SavedRun(stored.name, stored.created_at, stored.fingerprint.commit, stored.results)
            for stored in readable
            if stored.name != self._settings.save
        ]

    def save(self, rows: Sequence[tuple[str, Row]], *, is_complete: bool) -> list[str]:
        """Save ``rows`` if ``--grpo-save`` asks for it and they are complete. Returns the lines for the user."""
        if self._settings.save is None or self._config.getoption("collectonly"):
            return []
        if not is_complete:
            return [
                f"grpo: baseline {self._settings.save} was not stored: a test ended with a usage error; "
                "correct it and measure again"
            ]
        from grpo_core.home import Home
        from pytest_grpo.baseline.files import save_baseline

        try:
            path = save_baseline(Home.from_environment(), self._settings.save, self.fingerprint(), rows)
        except pytest.UsageError as error:
            return [f"grpo: {error}"]
        return [f"grpo: stored as {self._settings.save} in {path}"]

    def comparison(self, rows: Sequence[tuple[str, Row]]) -> list[str]:
        """The table that compares ``rows`` with the baseline; empty without one."""
        if self.baseline is None:
            return []
        from pytest_grpo.baseline.compare import change_table
        from pytest_grpo.baseline.regressions import compare_rows

        others = [session.results for session in self._same_code]
        return change_table(compare_rows(rows, self.baseline.results, self._settings.tolerance, others))

    def regression(self, nodeid: str, row: Row, place: int) -> str:
        """How ``row``, or an arm of it over its reference, regressed from the baseline; empty when none did, and
        without a baseline. ``place`` counts the rows of its metric that the test had before."""
        if self.baseline is None:
            return ""
        from pytest_grpo.baseline.regressions import Outcome
        from pytest_grpo.reports.references import reference_rows

        for each in (row, *reference_rows(row)):
            change = self._change(self.baseline, nodeid, each, place)
            if change is not None and change.outcome is Outcome.REGRESSION:
                return f"against {self.baseline.name}: {change.describe()}"
        return ""

    def is_baseline_decided(self, nodeid: str, row: Row, place: int) -> bool:
        """Whether more pairs cannot change what ``regression`` finds."""
        if self.baseline is None:
            return True
        from pytest_grpo.baseline.regressions import is_baseline_decided
        from pytest_grpo.reports.references import reference_rows

        changes = [self._change(self.baseline, nodeid, each, place) for each in (row, *reference_rows(row))]
        return all(is_baseline_decided(change, self.baseline) for change in changes)

    def _change(self, baseline: Baseline, nodeid: str, row: Row, place: int) -> Change | None:
        from pytest_grpo.baseline.regressions import judge_against

        settings = self._settings
        return judge_against(
            row,
            nodeid,
            baseline,
            settings.tolerance,
            place=place,
            others=self._same_code,
            any_machine=settings.any_machine,
        )


STORED = pytest.StashKey[StoredResults]()
