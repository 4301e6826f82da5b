"""The functions that a row's policy may call reach the chat template as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.environment import DatasetEnvironment
from grpo_core.environments.dataset.rows import read_rows
from grpo_core.errors import ConfigError

CHAT = [{"role": "user", "content": "The weather in Bern?"}]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [[tool("weather", city={"type": "string"})], [tool("time", zone={"type": "integer"}), tool("stop")], None]


def config(path: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "rewards": ["a:b"], "tools_column": "tools", **values})


def write(path: Path, tools: object) -> Path:
    path.write_text(json.dumps({"prompt": CHAT, "tools": tools}))
    return path


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_each_row_shows_its_own(tmp_path: Path, suffix: str, as_json: bool) -> None:
    """A table gives each function the parameters of all as null; those are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"q{suffix}"
    rows = [{"prompt": CHAT, "tools": json.dumps(each) if as_json and each else each} for each in TOOLS]
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        rows = [row | {"tools": row["tools"] or None} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), path)
    environment = DatasetEnvironment(read_rows(config(path)), config(path))

    shown = []
    for row in range(len(TOOLS)):
        environment.reset(row)
        (observation,) = environment.observe()
        shown.append(list(observation.tools))
    assert shown[0] == TOOLS[0]
    assert [each["function"]["name"] for each in shown[1]] == ["time", "stop"]
    assert shown[2] == []


def test_without_the_setting_it_is_a_column_like_others(tmp_path: Path) -> None:
    here = config(write(tmp_path / "q.jsonl", ["hammer"]), tools_column=None)
    environment = DatasetEnvironment(read_rows(here), here)
    assert environment.columns == {"tools": ["hammer"]}
    assert environment.observe()[0].tools == []


@pytest.mark.parametrize(
    ("tools", "line"),
    [
        (["hammer"], r"row 1: tools \[\'hammer\'\] is no list of functions; give a list such as \[\{"),
        ("[{]", r"row 1: tools is not JSON \(.*\); give a list such as"),
        ({"name": "f"}, r"row 1: tools \{'name': 'f'\} is no list of functions"),
        ([{"type": "function"}], r"row 1: tools .* is no list of functions"),
        ([tool("f") | {"description": "\ud800"}], r"row 1: tools .* has a lone surrogate, which is no text"),
    ],
)
def test_what_is_no_list_of_functions_is_named(tmp_path: Path, tools: object, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        read_rows(config(write(tmp_path / "q.jsonl", tools)))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tools_column: .*q\.jsonl has no column 'calls'; it has prompt, tools; name"
    ):
        read_rows(config(write(tmp_path / "q.jsonl", None), tools_column="calls"))
