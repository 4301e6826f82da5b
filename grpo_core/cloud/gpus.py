"""Modal's GPU settings. The SDK itself accepts any text until it deploys."""

from __future__ import annotations

from grpo_core.errors import ConfigError

MAX_GPUS = {
    **dict.fromkeys(("T4", "L4"), 8),
    "A10": 4,
    **dict.fromkeys(("L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H100!", "H200"), 8),
    **dict.fromkeys(("B200", "B200+"), 8),
}
"""Each type that Modal has, and how many of it fit into one container."""
NO_GPU = "none"
DEFAULT_GPU = "L4"
GPU_VARIABLE = "GRPO_MODAL_GPU"
"""The GPU of every container of app.py that computes; read where the app is run or deployed from."""


def check_gpu(text: str, where: str) -> str:
    """``text`` if it is one of ``MAX_GPUS``, alone or with a count as in ``H100:8``, or ``none``.

    Raises:
        ConfigError: it is not; the message begins with ``where`` it was set.
    """
    name, colon, count = text.partition(":")
    if text == NO_GPU or (name in MAX_GPUS and not colon):
        return text
    if name not in MAX_GPUS:
        raise ConfigError(
            f"{where}: allowed are {', '.join(MAX_GPUS)}, also with a count as in H100:2, and {NO_GPU}; choose one"
        )
    most = MAX_GPUS[name]
    if not count.isdecimal() or not 1 <= int(count) <= most:
        raise ConfigError(f"{where}: allowed are 1 to {most} of {name}; try {name}:2")
    return text


def gpu_setting(text: str) -> str | None:
    """What Modal takes for ``text``, the value of ``GPU_VARIABLE``: None for ``none``. Raises as ``check_gpu``."""
    checked = check_gpu(text, f"{GPU_VARIABLE} {text!r}")
    return None if checked == NO_GPU else checked


def num_gpus(setting: str | None) -> int:
    """The count in a checked setting; 0 without a GPU."""
    if setting is None:
        return 0
    return int(setting.partition(":")[2] or 1)
