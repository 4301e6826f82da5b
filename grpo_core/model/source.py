"""Where a model comes from: an embedded preset, a folder or a hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_core.errors import GrpoError, ModelError
from grpo_core.model.presets import PRESETS, preset_folder


def locate_model(name: str) -> str:
    """The folder of a preset or a local model, else ``name`` as a hub id.

    Raises:
        ModelError: ``name`` is neither a preset, nor a folder with a model, nor looks like a hub id.
    """
    if name in PRESETS:
        return str(preset_folder(name))
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model {name!r}: the folder has no config.json; give a folder that transformers can load")
        return name
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(
            f"model {name!r}: no such preset or folder; allowed: {', '.join(PRESETS)}, a model folder, "
            "or a hub id such as 'Qwen/Qwen2.5-0.5B'"
        )
    return name


@contextmanager
def reading(name: str, problem: str, way_out: str) -> Iterator[None]:
    """Inside the block the files of model ``name`` are read by other projects.

    Raises:
        ModelError: whatever they raise: ``problem``, its first line and ``way_out``.
    """
    try:
        yield
    except GrpoError:
        raise
    except Exception as error:  # tokenizers raises bare exceptions, transformers a dozen kinds
        raise ModelError(f"model {name!r}: {problem} ({first_line(error)}); {way_out}") from error


def first_line(error: Exception) -> str:
    """The first line of a library's error message, with the second one where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
