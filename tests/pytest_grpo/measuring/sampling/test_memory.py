from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.measuring.sampling import memory

MIB = 1 << 20


def allocate(num_bytes: int) -> int:
    return len(bytearray(num_bytes))  # every page is written


@pytest.mark.skipif(memory.peak_bytes() is None, reason="this machine does not tell")
def test_the_peak_is_that_of_the_work_since_the_start() -> None:
    allocate(256 * MIB)
    memory.start_peak()
    base = memory.peak_bytes()
    allocate(128 * MIB)
    peak = memory.peak_bytes()
    memory.start_peak()
    again = memory.peak_bytes()
    assert base is not None
    assert peak is not None
    assert again is not None
    assert 120 * MIB <= peak - base <= 200 * MIB
    assert again - base <= 64 * MIB


def test_a_machine_that_does_not_tell_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "no" / "status")
    monkeypatch.setattr(memory, "_RESET", tmp_path / "no" / "clear_refs")
    memory.start_peak()
    assert memory.peak_bytes() is None
