"""The rows of a data set: a JSONL or Parquet file, or what the package ``datasets`` loads."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.tools import with_tools
from grpo_core.environments.user_code import users_code
from grpo_core.errors import ConfigError, MissingPackageError, shown
from grpo_core.home import parse_json

_OWN_KEY = "environment.data.path"
_SAVED = ("state.json", "dataset_dict.json")
"""Of these ``save_to_disk`` of the package ``datasets`` writes one."""
_JSON_LINES, _PARQUET = (".jsonl", ".json", ".ndjson"), ".parquet"
_ONLY_SPLIT = "train"
"""The default: what has no splits is that one."""
_GZIP, _UTF_16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")
_DATA_FILES = ("*.jsonl", "*.parquet", "*/*.jsonl", "*/*.parquet")
"""What another folder must have: ``load_dataset`` searches all of it, which takes hours for ``/tmp``."""


@dataclass(frozen=True, slots=True)
class Rows:
    """``source`` names it in messages, where rows are counted from 1, as the lines of a file are."""

    source: str
    columns: tuple[str, ...]
    values: Sequence[Mapping[str, Any]]
    digest: str = ""
    """Of all values; empty where a task makes them."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.values[index]


def read_rows(config: DataConfig, key: str = _OWN_KEY) -> Rows:
    """The rows of ``config.path``, each with a prompt that can be played. ``key`` is the setting that messages name.

    Raises:
        ConfigError: there is no such file, it cannot be read, it is empty, or a row has no prompt; names the row.
        MissingPackageError: only the package ``datasets`` can load it, and it is not installed.
    """
    assert config.path is not None
    path = Path(config.path)
    suffix = path.suffix.lower()
    if suffix in (*_JSON_LINES, _PARQUET) and config.split != _ONLY_SPLIT:
        raise ConfigError(f"environment.data.split {config.split!r}: {path} is one file without splits; leave it out")
    if suffix in _JSON_LINES:
        values = _read_jsonl(path, key)
    else:
        is_parquet = suffix == _PARQUET
        table = _read_parquet(path, key) if is_parquet else _load_with_datasets(config.path, config.split, key)
        values = _without_filler(table, (config.prompt_column, config.tools_column))
    if not values:
        raise ConfigError(f"{key} {config.path}: no rows; give a file with at least one")
    columns = tuple(dict.fromkeys(name for row in values for name in row))
    digest = _digest(values)
    if config.tools_column is not None:
        values = with_tools(values, columns, config.tools_column, f"{key} {config.path}")
    rows = Rows(config.path, columns, values, digest)
    _check_prompts(rows, config, key)
    return rows


def _digest(values: list[Mapping[str, Any]]) -> str:
    found = hashlib.sha256()
    for row in values:
        found.update(json.dumps(row, sort_keys=True, default=str).encode())
    return found.hexdigest()


def _read_jsonl(path: Path, key: str) -> list[Mapping[str, Any]]:
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            raise ConfigError(f"{key} {path}: it is compressed with gzip; unpack it")
        if content.startswith(_UTF_16):
            raise ConfigError(f"{key} {path}: it is written in UTF-16; save it as UTF-8")
        text = content.decode("utf-8-sig")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # not at U+2028, which a text may hold
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{key} {path}, line {number}: byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise _unreadable(path, error, key) from error
    values = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ConfigError(f"{key} {path}, line {number}: not JSON ({error}); fix that line") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{key} {path}, line {number}: {shown(row)} is no object; give one object a line")
        values.append(row)
    return values


def _read_parquet(path: Path, key: str) -> list[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error, key) from error


def _without_filler(rows: list[Mapping[str, Any]], columns: Sequence[str | None]) -> list[Mapping[str, Any]]:
    """``rows`` whose messages and tools have no nulls but for contents: a table gives each of them the keys of all."""
    return [
        {
            name: list(map(_cleaned_message, value)) if name in columns and isinstance(value, list) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _cleaned_message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return {key: _cleaned(value) for key, value in message.items() if value is not None or key == "content"}


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items() if item is not None}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _load_with_datasets(name: str, split: str, key: str) -> list[Mapping[str, Any]]:
    folder = Path(name)
    is_saved = any((folder / file).is_file() for file in _SAVED)
    if folder.exists() and not is_saved and not any(any(folder.glob(pattern)) for pattern in _DATA_FILES):
        kind = "a folder without data files" if folder.is_dir() else "neither a .jsonl nor a .parquet file"
        raise ConfigError(f"{key} {name}: {kind}; give a .jsonl or .parquet file, a folder of such files or a hub id")
    if not folder.exists() and (name.count("/") > 1 or name.startswith((".", "/")) or folder.suffix):
        raise ConfigError(f"{key} {name}: no such file or folder; give a .jsonl or .parquet file, a folder or a hub id")
    if find_spec("datasets") is None:
        raise MissingPackageError(
            f"{key} {name}: a folder or hub id needs the package datasets; run: pip install datasets, or give a "
            ".jsonl or .parquet file"
        )
    here = f"{key} {name!r}" if folder.exists() else f"{key} {name!r}: no such file or folder, so it is a hub id"
    source = str(folder.resolve()) if folder.exists() else name  # it takes "." for no name
    with users_code(f"{here}: loading split {split!r}", "check the name and the split"), _quiet_hub():
        datasets: Any = import_module("datasets")
        found = datasets.load_from_disk(name) if is_saved else datasets.load_dataset(source, split=split)
        if isinstance(found, datasets.DatasetDict):
            if split not in found:
                raise ConfigError(f"environment.data.split {split!r}: {name} has {', '.join(sorted(found))}; name one")
            found = found[split]
        elif is_saved and split != _ONLY_SPLIT:
            raise ConfigError(f"environment.data.split {split!r}: {name} is one data set without splits; leave it out")
        return list(found)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's client says each of its retries; what comes of them is one line."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _unreadable(path: Path, error: Exception, key: str) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    here = "" if path.is_absolute() else f" (in {Path.cwd()})"
    return ConfigError(f"{key} {path}{here}: {reason}; give a .jsonl or .parquet file that can be read")


def _check_prompts(rows: Rows, config: DataConfig, key: str) -> None:
    column = config.prompt_column
    if column not in rows.columns:
        raise ConfigError(
            f"{key} {rows.source}: no column {column!r}; it has {', '.join(rows.columns)}; name the one with the "
            "prompts in environment.data.prompt_column"
        )
    for number, row in enumerate(rows.values, 1):
        prompt = row.get(column)
        if isinstance(prompt, str) and prompt:
            if config.system_prompt is not None and not config.as_chat:
                raise ConfigError(
                    f"environment.data.system_prompt: the prompt of row {number} is a text; set "
                    "environment.data.as_chat to make messages of texts, or leave the system prompt out"
                )
        elif not _is_chat(prompt):
            raise ConfigError(
                f"{key} {rows.source}, row {number}: {column} {shown(prompt)} is no prompt; give a text, or messages "
                'such as [{"role": "user", "content": "..."}]'
            )
        for name in (column, config.tools_column):
            if name is not None and not _is_unicode(row[name]):
                raise ConfigError(
                    f"{key} {rows.source}, row {number}: {name} {shown(row[name])} has a lone surrogate, which is "
                    "no text; fix that row"
                )


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(map(_is_message, prompt))


def _is_message(part: Any) -> bool:
    """It has a role and something more: what calls tools, or only thinks, has no content."""
    return (
        isinstance(part, dict)
        and isinstance(part.get("role"), str)
        and (part.get("content") is not None or any(part[key] for key in part if key not in ("role", "content")))
    )


def _is_unicode(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, dict):
        return all(map(_is_unicode, value.values()))
    return not isinstance(value, list) or all(map(_is_unicode, value))
