"""The peak memory of a stretch of work: that of the GPUs' allocator where one is in use, else of this process."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Sets the kernel's high-water mark of resident memory to what is resident now (Linux, proc_pid_clear_refs(5))."""


def start_peak() -> None:
    """Forget the peak so far."""
    cuda = _cuda()
    if cuda is not None:
        for device in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text(_RESET_PEAK)
    except OSError:  # not Linux, or not allowed: ``peak_bytes`` says so
        return


def peak_bytes() -> int | None:
    """The peak since ``start_peak``, as far as the machine tells: bytes of tensors on all GPUs, or resident bytes of
    this process; None where it does not tell."""
    cuda = _cuda()
    if cuda is not None:
        return sum(cuda.max_memory_allocated(device) for device in range(cuda.device_count()))
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def _cuda() -> ModuleType | None:
    """torch's, where it is in use. Never imports torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
