"""Optional packages, and the extra of pytest-grpo that brings each of them.

``pip install pytest-grpo`` installs the plugin without a training stack. What is missing then is said in one line that
names the extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from grpo_core.errors import MissingPackageError

MODULES_OF_EXTRAS = {
    "train": (
        *("torch", "transformers", "tokenizers", "peft", "safetensors", "pydantic", "pyarrow", "outlines_core"),
        *("wandb", "wandb_workspaces", "axiom_py", "dacite", "requests", "urllib3"),
    ),
    "modal": ("modal",),
    "diplomacy": ("diplomacy",),
    "otel": ("opentelemetry",),
    "dashboard": ("duckdb", "starlette", "uvicorn"),
    "trl": ("trl", "datasets"),
    "vllm": ("vllm",),
    "reasoning-gym": ("reasoning_gym",),
    "math": ("math_verify",),
    "verifiers": ("verifiers",),
}
"""What is imported of the packages that ``pyproject.toml`` lists under each extra."""
_EXTRA_OF = {module: extra for extra, modules in MODULES_OF_EXTRAS.items() for module in modules}


def install_command(*extras: str) -> str:
    return f"pip install 'pytest-grpo[{','.join(extras)}]'"


def missing_modules(extra: str) -> list[str]:
    """The modules of ``extra`` that are not installed. Imports none."""
    return [module for module in MODULES_OF_EXTRAS[extra] if find_spec(module) is None]


def missing_package(error: ModuleNotFoundError) -> MissingPackageError | None:
    """What ``error`` says to a user; None when no extra brings the module."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    if extra is None:
        return None
    return MissingPackageError(f"the package {module} is not installed; run: {install_command(extra)}")


@contextmanager
def naming_extras() -> Iterator[None]:
    """Within it, a package of an extra that is not installed is an error of one line.

    Raises:
        MissingPackageError: instead of ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        raise missing from None
