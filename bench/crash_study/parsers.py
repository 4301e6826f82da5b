"""Every parser of the project that reads what others wrote: how it is called, and a sound input to begin from."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bench.crash_study.mutations import as_json
from bench.crash_study.parser import Parse, Parser, of_json
from bench.crash_study.trained_files import TRAINED_FILES


def _config_text() -> bytes:
    return Path("docs/configuration.md").read_bytes().partition(b"```toml\n")[2].partition(b"```")[0]


def _config(folder: Path) -> Parse:
    from grpo_core.config import build_config, read_config

    def parse(content: bytes) -> object:
        (folder / "run.toml").write_bytes(content)
        return build_config(read_config(folder / "run.toml"))

    return parse


def _settings() -> Any:
    from grpo_core.config import GrpoConfig

    return GrpoConfig().model_dump(mode="json")


def _settings_of_a_call(_: Path) -> Parse:
    from grpo_core.config import build_config, settings_from_json

    return lambda content: build_config(settings_from_json(content.decode("utf-8", "surrogateescape")))


def _set_flag(_: Path) -> Parse:
    from grpo_core.commands.command_line.options import config_from_flags

    def parse(content: bytes) -> object:
        text = content.decode("utf-8", "surrogateescape")
        return config_from_flags(argparse.Namespace(config=None, set=[text]), {}, "run")

    return parse


def _name(_: Path) -> Parse:
    from grpo_core.home import check_name

    def parse(content: bytes) -> object:
        name = check_name(content.decode("utf-8", "surrogateescape"), "run")
        assert Path("/top", name).resolve().parent == Path("/top"), name
        return name

    return parse


def _thresholds(folder: Path) -> Parse:
    from pytest_grpo.settings.thresholds import load_thresholds

    def parse(content: bytes) -> object:
        (folder / "thresholds.toml").write_bytes(content)
        return load_thresholds(folder / "thresholds.toml", "cpu")

    return parse


def _snapshot(folder: Path) -> Parse:
    from grpo_core.home import Home
    from grpo_core.telemetry.snapshots import read_snapshot

    home = Home(folder, folder)
    home.benchmarks.mkdir(exist_ok=True)

    def parse(content: bytes) -> object:
        (home.benchmarks / "x.json").write_bytes(content)
        return read_snapshot(home, "x")

    return parse


def _trace(folder: Path) -> Parse:
    from grpo_core.telemetry.traces.profiler import TRACE_FILE, read_trace

    def parse(content: bytes) -> object:
        (folder / TRACE_FILE).write_bytes(content)
        return read_trace(folder)

    return parse


def _event_line() -> bytes:
    from grpo_core.telemetry.events import Event

    return json.dumps(Event("rollout", 1.0, "r", "a-1", {"batch_index": 1}).record()).encode() + b"\n"


def _events(folder: Path) -> Parse:
    from grpo_core.telemetry.jsonl import read_page

    def parse(content: bytes) -> object:
        return read_page(io.BytesIO(content), 0, 100)

    return parse


def _panels(folder: Path) -> Parse:
    from grpo_core.telemetry.panels.panels import PANELS
    from grpo_core.telemetry.panels.query import query_panels

    def parse(content: bytes) -> object:
        (folder / "x.jsonl").write_bytes(_event_line() + content + b"\n" + _event_line())
        return query_panels(PANELS[:3], folder)

    return parse


def _cursor(folder: Path) -> Parse:
    from grpo_core.telemetry.delivery.cursor import Cursor

    (folder / "x.jsonl").write_bytes(_event_line())

    def parse(content: bytes) -> object:
        (folder / "cursor").write_bytes(content)
        return list(Cursor(folder / "cursor", folder / "x.jsonl").pages(10))

    return parse


def _state_cache(folder: Path) -> Parse:
    from grpo_core.environments.state_cache import StateCache

    cached = StateCache(folder)
    cached.put({"a": 1}, {"b": 2})
    (path,) = folder.glob("*.json")

    def parse(content: bytes) -> object:
        path.write_bytes(content)
        return cached.get({"a": 1})

    return parse


def _cached_state() -> Any:
    return {"key": {"a": 1}, "snapshot": {"b": 2}, "sha256": hashlib.sha256(b'{"b":2}').hexdigest()}


def _claim(folder: Path) -> Parse:
    from grpo_core.cloud.run_claim import claim_run
    from grpo_core.home import Home

    home = Home(folder, folder)
    (folder / "claims").mkdir(exist_ok=True)

    def parse(content: bytes) -> object:
        (folder / "claims/run.json").write_bytes(content)
        return claim_run(home, "run", "fc-2", lambda call: False, commit=lambda: None, reload=lambda: None)

    return parse


def _archive_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name in ("a.py", "b/c.txt"):
            opened.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


def _archive(folder: Path) -> Parse:
    from pytest_grpo.remote.project_files import unpack

    return lambda content: unpack(content, folder / "unpacked")


def _messages(_: Path) -> Parse:
    from pytest_grpo.remote.protocol import Decoder

    return lambda content: list(Decoder().decode(content.decode("utf-8", "replace").splitlines()))


def _message() -> bytes:
    first = json.dumps({"place": "worker", "number": 0})
    part = json.dumps({"part": 0, "is_last": True, "text": json.dumps({"event": "begun", "call_id": "fc-1"})})
    return f"{first}\n{part}\n".encode()


def _request(_: Path) -> Parse:
    from pytest_grpo.remote.protocol import Request

    return lambda content: Request.from_json(content.decode("utf-8", "replace"))


def _request_fields() -> Any:
    from dataclasses import asdict

    from pytest_grpo.remote.protocol import Request

    return json.loads(json.dumps(asdict(Request(2, ("a",), ("a",), ("-q",), {"a.py": "0"}, "/root"))))


def _baseline(folder: Path) -> Parse:
    """The checksum is made right."""
    from pytest_grpo.baseline import files

    def parse(content: bytes) -> object:
        path = folder / "baseline.json"
        try:
            fields = {key: value for key, value in json.loads(content).items() if key != "sha256"}
            content = as_json({**fields, "sha256": files._checksum(fields)})
        except (ValueError, AttributeError, RecursionError):
            pass
        path.write_bytes(content)
        return files._read(path)

    return parse


@cache
def _baseline_fields() -> Any:
    from pytest_grpo.baseline.files import Baseline, _content
    from pytest_grpo.baseline.fingerprint import take_fingerprint
    from pytest_grpo.types import Row

    row = Row("m", 2, "at_least", 1.3, None, ">= 1.3", "file", "", "pass", "", 2.0, "cpu", ratios=[2.0], num_pairs=8)
    baseline = Baseline("main", "2026-01-01T00:00:00+00:00", take_fingerprint(Path("/"), {}), [("test", row)])
    return json.loads(json.dumps(_content(baseline)))


def _model_file(name: str) -> Callable[[Path], Parse]:
    def prepare(folder: Path) -> Parse:
        from bench.crash_study.model import write_model
        from grpo_core.config import ModelConfig
        from grpo_core.model.policy import load_policy
        from grpo_core.model.tokenizer import load_tokenizer

        write_model(folder / "model")

        def parse(content: bytes) -> object:
            (folder / "model" / name).write_bytes(content)
            if "token" in name:
                return load_tokenizer(str(folder / "model"))
            return load_policy(ModelConfig(name=str(folder / "model"), device="cpu"))

        return parse

    return prepare


@cache
def _model_bytes(name: str) -> bytes:
    import tempfile

    from bench.crash_study.model import write_model

    with tempfile.TemporaryDirectory() as folder:
        return (write_model(Path(folder)) / name).read_bytes()


def _of_model(name: str) -> Parser:
    is_json = name.endswith(".json")
    structure = (lambda: json.loads(_model_bytes(name))) if is_json else None
    return Parser(f"model: {name}", lambda: _model_bytes(name), _model_file(name), structure)


PARSERS: tuple[Parser, ...] = (
    Parser("configuration", _config_text, _config),
    Parser("--set", lambda: b"training.loss=gspo", _set_flag),
    of_json("settings of a call", _settings, _settings_of_a_call),
    Parser("names", lambda: b"local-profile", _name),
    Parser("thresholds", Path("bench/thresholds.toml").read_bytes, _thresholds),
    *TRAINED_FILES,
    of_json("snapshot", lambda: {"schema_version": 1, "profile_name": "x"}, _snapshot),
    of_json("trace", lambda: {"traceEvents": [{"cat": "user_annotation", "name": "a", "dur": 1.0}]}, _trace),
    Parser("events", _event_line, _events, lambda: json.loads(_event_line())),
    Parser("panels", _event_line, _panels, lambda: json.loads(_event_line())),
    of_json("cursor", lambda: {"position": 0, "head": "x"}, _cursor),
    of_json("starting state", _cached_state, _state_cache),
    of_json("claim", lambda: {"call": "fc-1"}, _claim),
    Parser("archive", _archive_bytes, _archive),
    Parser("messages of a container", _message, _messages),
    of_json("request to a container", _request_fields, _request),
    of_json("baseline", _baseline_fields, _baseline),
    *(_of_model(name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")),
)
