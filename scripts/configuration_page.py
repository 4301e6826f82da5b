"""docs/configuration.md: every key of ``GrpoConfig``, its type, its default and the docstring under its field."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from grpo_core.config import GrpoConfig
from grpo_core.config.flags import FLAG_KEYS
from grpo_core.config.section import Section
from scripts.markdown_table import table

APP_ONLY = frozenset({"checkpoint_every"})
"""Flags of the functions of ``app.py`` that ``grpo`` does not have."""
COLUMNS = ("key", "allowed", "default", "what for", "flag")
HEAD = """# Configuration

<!-- Written by scripts/write_pages.py. Do not edit. -->

```console
$ uv run grpo train --run first --config run.toml --set training.kl_coefficient=0 --steps 20
```

`run.toml`:

```toml
[training]
loss = "gspo"
clip_low = 3e-4
clip_high = 4e-4

[rollout]
num_groups = 8
```

A key is `section.key`. A later place wins over an earlier one:

1. the default below; `grpo train` has 60 for `num_steps`, `grpo benchmark` and `grpo profile`
   have some of their own ([options.md](options.md))
2. the file that `--config` names: TOML, a table per section
3. `--set section.key=value`, the value as TOML; what is no TOML is a string
4. the key's own flag, where it has one

`grpo config` takes the same flags and shows what they come to, with the place of each value;
`grpo config RUN` shows what a run is trained with.

In Python: `build_config({"training": {"loss": "gspo"}})`, or `build_config(read_config(Path("run.toml")))`. A key that
does not exist and a value that is not allowed are errors that say what is allowed. So are two values that contradict
each other, such as `group_size = 1` with advantages that compare siblings.

The run's name is the top-level key `run` of the file, or `--run`. This page is written from `grpo_core/config/` by
`uv run python scripts/write_pages.py`; a test compares the two.
"""


def configuration_page() -> str:
    return "\n".join([HEAD, *(_section(name, section) for name, section in sections(GrpoConfig))])


def sections(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The sections in ``section`` with those in them, by their dotted keys."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name, field.annotation
            yield from sections(field.annotation, f"{prefix}{name}.")


def _section(name: str, section: type[Section]) -> str:
    texts = field_texts(section)
    inner = dict(sections(section))
    fields = {key: field for key, field in section.model_fields.items() if key not in inner}
    rows = [_row(name, key, field, texts.get(key, "")) for key, field in fields.items()]
    return f"## {name}\n\n{inspect.getdoc(section)}\n\n{table(COLUMNS, rows)}\n"


def _row(section: str, key: str, field: FieldInfo, text: str) -> tuple[str, ...]:
    default = "not set" if field.default is None else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
    return f"`{key}`", allowed(field), default, text.replace("``", "`"), _flag(f"{section}.{key}")


def _flag(key: str) -> str:
    """The flag of ``grpo train``; ``checkpoint_every`` is one of ``app.py`` only."""
    flags = [flag for flag, setting in FLAG_KEYS.items() if setting == key]
    return "".join(f"`--{flag.replace('_', '-')}`" + (" of `app.py`" * (flag in APP_ONLY)) for flag in flags)


def field_texts(section: type[Section]) -> dict[str, str]:
    """The docstring under each field that has one. They are in the source only."""
    source = Path(inspect.getfile(section)).read_text(encoding="utf-8")
    body = next(
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == section.__name__
    )
    texts = {}
    for field, after in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            texts[ast.unparse(field.target)] = after.value.value
    return texts


def allowed(field: FieldInfo) -> str:
    """In words, e.g. ``integer, at least 1``."""
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return _list(get_args(kind))
    if get_origin(kind) is dict:
        return "settings by name"
    assert isinstance(kind, type), f"{kind} is no type that the page knows; name it here"
    return ", ".join([_NAMES[kind], *_bounds(field)])


_NAMES = {bool: "`true`, `false`", int: "integer", float: "number", str: "string"}
_SIZES = {2: "two"}


def _list(items: tuple[Any, ...]) -> str:
    """``tuple[str, ...]`` is a list of strings, ``tuple[float, float]`` one of two numbers."""
    kinds = [get_args(item)[0] if get_origin(item) is Annotated else item for item in items if item is not Ellipsis]
    assert len(set(kinds)) == 1, f"{items} are of several types; name them here"
    size = "" if items[-1] is Ellipsis else f"{_SIZES[len(kinds)]} "
    return f"list of {size}{_NAMES[kinds[0]]}s"


def _bounds(field: FieldInfo) -> list[str]:
    words = []
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=low):
                words.append(f"at least {low}")
            case annotated_types.Gt(gt=low):
                words.append(f"above {low}")
            case annotated_types.Le(le=high):
                words.append(f"at most {high}")
            case annotated_types.Lt(lt=high):
                words.append(f"below {high}")
    return words
