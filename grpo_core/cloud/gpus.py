"""GPU settings of Modal. The SDK itself takes any text until it deploys."""

from __future__ import annotations

from grpo_core.errors import ConfigError

GPU_TYPES = (
    "T4", "L4", "A10", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H100!", "H200", "B200",
    "B200+",
)  # fmt: skip
MAX_GPUS = 8


def gpu_setting(text: str) -> str | None:
    """``text`` if it is one of ``GPU_TYPES``, alone or with a count as in ``H100:8``; None for ``none``.

    Raises:
        ConfigError: it is neither.
    """
    name, separator, count = text.partition(":")
    is_counted = not separator or (count.isdecimal() and 1 <= int(count) <= MAX_GPUS)
    if text != "none" and (name not in GPU_TYPES or not is_counted):
        raise ConfigError(
            f"GRPO_MODAL_GPU {text!r}: allowed are {', '.join(GPU_TYPES)}, each with up to :{MAX_GPUS}, and none; "
            "set one, or unset it to take L4"
        )
    return None if text == "none" else text


def num_gpus(setting: str | None) -> int:
    """The count in a checked setting; 0 without a GPU."""
    if setting is None:
        return 0
    return int(setting.partition(":")[2] or 1)
