from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pytest_grpo.measuring.conditions import Watch

SPIN = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"


@pytest.mark.slow
def test_work_of_another_process_is_seen_and_ones_own_is_not() -> None:
    watch = Watch.start()
    other = subprocess.Popen([sys.executable, "-c", SPIN])
    time.sleep(1.2)
    seen = watch.cores_of_others()
    other.wait()
    assert seen is not None
    assert seen > 0.3


def test_conditions_hold_what_the_machine_tells() -> None:
    conditions = Watch.start().conditions(with_gpu=False)
    assert conditions.cores_of_others is not None
    assert conditions.cores_of_others >= 0
    assert conditions.gpu_sm_mhz is None
    assert conditions.gpu_throttle_reasons == ()
