from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from grpo_core.telemetry.traces.profiler import read_trace, trace
from grpo_core.training.stopwatch import Stopwatch


def test_parts_of_a_name_add_up_and_are_seen_by_the_profiler(tmp_path: Path) -> None:
    times = Stopwatch(torch.device("cpu"))
    start = time.perf_counter()
    with trace(tmp_path):
        for _ in range(3):
            with times.part("work"):
                time.sleep(0.002)
        with times.part("other"):
            pass
    whole_ms = (time.perf_counter() - start) * 1e3

    assert 6 <= times.total_ms("work") <= whole_ms
    assert times.total_ms("other") < times.total_ms("work")
    assert times.total_ms("never") == 0
    assert {name: span.count for name, span in read_trace(tmp_path).annotations.items()} == {"work": 3, "other": 1}


def test_a_part_has_no_time_of_a_span_inside_it() -> None:
    times = Stopwatch(torch.device("cpu"))
    start = time.perf_counter()
    for _ in range(2):
        with times.part("outer"), times.part("middle"), times.part("inner"):
            time.sleep(0.01)
    whole_ms = (time.perf_counter() - start) * 1e3

    assert times.total_ms("inner") >= 20
    assert 0 <= times.total_ms("middle") <= whole_ms - 20
    assert 0 <= times.total_ms("outer") <= whole_ms - 20
    assert sum(map(times.total_ms, ("outer", "middle", "inner"))) <= whole_ms


def test_what_breaks_off_is_not_counted() -> None:
    times = Stopwatch(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), times.part("work"):
        _ = 1 // len("")

    assert times.total_ms("work") == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_a_span_holds_what_is_still_queued_when_it_ends() -> None:
    device = torch.device("cuda")
    times, matrix = Stopwatch(device), torch.randn(8192, 8192, device=device)
    torch.cuda.synchronize()
    start = time.perf_counter()
    with times.part("product"):
        for _ in range(20):
            torch.mm(matrix, matrix)
    queued_ms = (time.perf_counter() - start) * 1e3
    whole_ms = times.total_ms("product")

    assert whole_ms > 2 * queued_ms
    assert whole_ms <= (time.perf_counter() - start) * 1e3
