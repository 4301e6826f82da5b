"""Freed memory stays, so that the next pass takes no page faults for it."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, torch
from grpo_core.kernels.allocator import keep_freed_memory
assert keep_freed_memory()
for _ in range(10):  # it takes some rounds until enough is kept
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(5 << 20, dtype=torch.uint8)
    torch.ones(20 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_a_second_tensor_of_a_size_takes_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    pages = (20 << 20) // 4096
    assert int(done.stdout) < pages / 10
