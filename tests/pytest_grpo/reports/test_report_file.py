from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_grpo.reports.report_file import write_report

WITHOUT_HOME = """
import sys

sys.modules["grpo_core.home"] = None  # an old version's, which lacks what it is asked for
"""
SUITE = """
from pytest_grpo import Sample, nothing_to_check

def test_counts(grpo_arms):
    def count():
        return Sample(1.0, {"num_x": 1})

    fast, slow = grpo_arms(agree=nothing_to_check, fast=count, slow=count)
    assert fast.num_x == slow.num_x
"""


def test_a_report_replaces_another_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    for content in (b"first", b"second"):
        write_report(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["report.json"]


def test_others_may_read_it_as_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_report(tmp_path / "report.json", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o640


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder"):
        write_report(tmp_path / "folder", b"content")
    assert os.listdir(tmp_path) == ["folder"]


def test_it_is_written_beside_a_version_of_the_product_that_is_too_old(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(WITHOUT_HOME)
    pytester.makepyfile(test_suite=SUITE)
    result = pytester.runpytest_subprocess("--grpo-json", "out/rows.json", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    (row,) = json.loads((pytester.path / "out" / "rows.json").read_text())["rows"]
    assert row["metric"] == "fast/slow.num_x"
