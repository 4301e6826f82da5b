"""The sweep over architectures: a row for each, whatever it does to its process."""

from __future__ import annotations

import os
import time

import pytest
from transformers import LlamaConfig, MambaConfig

from bench import architectures
from bench.architectures import Result, check_apart, rows


@pytest.mark.slow
def test_a_sound_architecture_is_right() -> None:
    found = check_apart("llama", LlamaConfig)
    assert (found.layout, found.reading, found.note) == ("shared_prefix", "runs", "")


def test_a_crash_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "check", lambda *_: os._exit(7))
    assert check_apart("mamba", MambaConfig) == Result("mamba", note="**crash**: the process ended with 7")


def test_what_never_ends_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "check", lambda *_: time.sleep(600))
    monkeypatch.setattr(architectures, "MAX_S", 0.1)
    assert check_apart("mamba", MambaConfig) == Result("mamba", note="**hangs**: no result after 0 s")


def test_too_much_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(architecture: str, *_: object) -> Result:
        try:
            bytearray(2 * architectures.MAX_BYTES)
        except MemoryError:
            return Result(architecture, note="no memory")
        return Result(architecture)

    monkeypatch.setattr(architectures, "check", greedy)
    assert check_apart("mamba", MambaConfig).note == "no memory"


def test_a_bar_in_a_note_does_not_split_its_cell() -> None:
    *_, line = rows([Result("mamba", note="a | b")])
    assert line == "| mamba |  |  |  |  |  | a / b |"
