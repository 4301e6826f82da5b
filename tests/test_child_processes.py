from __future__ import annotations

import subprocess
import sys

import psutil

from tests.child_processes import children_with


def test_a_child_that_has_ended_is_none_of_them() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "'one of two'"], stdout=subprocess.PIPE)
    running = subprocess.Popen([sys.executable, "-c", "'one of two'; input()"], stdin=subprocess.PIPE)
    try:
        assert ended.stdout is not None
        ended.stdout.read()  # until the end of the process
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert [child.pid for child in children_with("'one of two'")] == [running.pid]
        assert children_with("'one of three'") == []
    finally:
        for process in (ended, running):
            process.kill()
            process.communicate()
