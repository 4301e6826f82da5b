from __future__ import annotations

import subprocess
import sys
import time

from pytest_grpo.measuring.conditions import Watch

BURN = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}])"


def test_work_of_a_process_that_is_nobodys_child_here_is_seen() -> None:
    watch = Watch.start()
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.wait()  # before its child ends, so that the child's CPU time is never inherited by this process
    parent.stdout.readline()
    others = watch.cores_of_others()
    elapsed_s = time.monotonic() - watch._start.at_s
    parent.communicate("\n")
    assert others is not None
    assert others * elapsed_s >= 0.25


def test_conditions_hold_what_the_machine_tells() -> None:
    conditions = Watch.start().conditions(with_gpu=False)
    assert conditions.cores_of_others is not None
    assert conditions.cores_of_others >= 0
    assert conditions.gpu_sm_mhz is None
    assert conditions.gpu_throttle_reasons == ()
