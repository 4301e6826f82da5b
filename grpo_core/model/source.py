"""Where a model comes from: an embedded preset, a folder or a hub id. Its code is never run, its pickles never read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from grpo_core.errors import GrpoError, ModelError, first_line
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


def read_model_config(name: str) -> PreTrainedConfig:
    """The ``config.json`` of a preset, folder or hub id. A preset is built when it is not there yet.

    Raises:
        ModelError: there is no such model, it cannot be read, or transformers does not know its architecture.
    """
    where = locate_model(name)
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # of a damaged file transformers raises whatever its parser did
        raise unloadable(name, error) from error


def unloadable(name: str, error: Exception) -> ModelError:
    """Why transformers cannot load a part of the model ``name``, in one line."""
    if "trust_remote_code" in str(error):
        return ModelError(
            f"model {name!r}: it brings code of its own, which is never run; use a model whose architecture "
            "transformers has"
        )
    folder = Path(name)
    if folder.is_dir() and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return ModelError(
            f"model {name!r}: its weights are a pickle, which is never read; save them as safetensors with "
            "save_pretrained of transformers"
        )
    if name in PRESETS:
        advice = f"delete {preset_folder(name)}: it is built again"
    else:
        advice = "check its files" if folder.is_dir() else "check the id, or the connection to the hub"
    return ModelError(f"model {name!r}: cannot be loaded ({type(error).__name__}: {first_line(error)}); {advice}")


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
