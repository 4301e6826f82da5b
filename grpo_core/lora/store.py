"""The store of published weights: content-addressed objects that PEFT or transformers can load, and references to them.

    objects/<sha256>/adapter_model.safetensors, adapter_config.json    an adapter
                     model.safetensors, config.json                    full weights
    runs/<run>/v000003.json                                            a reference: what the version is, and its object
    .lock                           held by the one process that publishes or prunes

An object is complete before it gets its name, and a reference is written after its object. So a version is there as a
whole or not at all. The address covers the files' checksums and every field of the reference that describes the
weights, so that a damaged reference is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from grpo_core.errors import AdapterCorruptError, AdapterError, AdapterNotFoundError, HomeError
from grpo_core.home import SHARED, check_name, is_name, make_folder, parse_json, sync, write_folder, write_json
from grpo_core.lora.layout import description_of, files_of, from_files
from grpo_core.types import PolicyVersion, PolicyWeights

Stamp = tuple[int, int]
_REFERENCE_NAME = re.compile(r"v(\d{6,})\.json")


@dataclass(frozen=True, slots=True)
class _Reference:
    """What a version is. Two versions with equal references are the same object."""

    description: Mapping[str, Any]  # of ``layout``
    files: Mapping[str, str]  # name -> sha256

    @property
    def fields(self) -> dict[str, Any]:
        return {**self.description, "files": dict(self.files)}

    @property
    def address(self) -> str:
        return _sha256(json.dumps(self.fields, sort_keys=True).encode())


class AdapterStore:
    """Published weights under ``folder``, by run and version. Safe across threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects = folder / "objects"
        self._lock = FileLock(folder / ".lock")

    def publish(self, weights: PolicyWeights) -> Path:
        """Store ``weights`` under their version and return its folder, which PEFT or transformers can load.

        Publishing the same content again changes nothing, except that it repairs a damaged object.

        Raises:
            AdapterError: the version is already published with other content.
            HomeError: the store cannot be written.
        """
        version, contents = weights.version, files_of(weights)
        reference = _Reference(
            description=description_of(weights), files={name: _sha256(content) for name, content in contents.items()}
        )
        path = self._reference_path(version)
        with self._exclusive():
            is_published = path.exists()
            if is_published and self._read_reference(version) != reference:
                raise AdapterError(
                    f"adapter {version.name}: already published with other content; publish under another "
                    "run name or version, or discard the old version first"
                )
            folder = self._write_object(reference.address, contents)
            if not is_published:
                described = reference.fields | {
                    "object": reference.address,
                    "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                write_json(path, described, SHARED)
                sync(path.parent)
        return folder

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """A run publishes inside this block. All is on disk when it ends, whatever ends it."""
        yield

    def publish_soon(self, weights: PolicyWeights, keep_last: int) -> None:
        """``publish`` and then ``prune``. The version can be loaded from now on. Raises as ``publish``."""
        self.publish(weights)
        self.prune(weights.version.run, keep_last)

    def wait(self) -> None:
        """Until all that ``publish_soon`` got is on disk. Raises as ``publish``."""

    def load(self, version: PolicyVersion) -> PolicyWeights:
        """The weights of ``version``, on the CPU, checked against their checksums.

        Raises:
            AdapterNotFoundError: it was never published, or was pruned.
            AdapterCorruptError: a file is missing, cut off or changed.
        """
        reference = self._read_reference(version)
        contents = self._read_object(version, reference)
        try:
            return from_files(version, reference.description, contents)
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise AdapterCorruptError(
                f"adapter {version.name}: its files are no weights ({type(error).__name__}); publish the version again"
            ) from error

    def stamp_of(self, version: PolicyVersion) -> Stamp | None:
        """Changes when ``version`` is published anew, after it was discarded; None while it is not published."""
        try:
            found = self._reference_path(version).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def folder_of(self, version: PolicyVersion) -> Path:
        """The folder of ``version``, checked like ``load``, for an engine that reads the files itself.

        Raises:
            AdapterNotFoundError, AdapterCorruptError: as ``load``.
        """
        reference = self._read_reference(version)
        self._read_object(version, reference)
        return self._objects / reference.address

    def versions(self, run: str) -> list[PolicyVersion]:
        """Published versions of ``run``, oldest first.

        Raises:
            InvalidNameError: ``run`` is not a safe name.
        """
        folder = self._run_folder(run)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        matches = [match for match in map(_REFERENCE_NAME.fullmatch, names) if match]
        return [PolicyVersion(run, number) for number in sorted(int(match[1]) for match in matches)]

    def latest(self, run: str) -> PolicyVersion | None:
        """The newest published version of ``run``."""
        return max(self.versions(run), key=lambda version: version.number, default=None)

    def prune(self, run: str, keep_last: int) -> None:
        """Remove all but the newest ``keep_last`` versions of ``run``, and every object that no version needs."""
        assert keep_last >= 0
        with self._exclusive():
            versions = self.versions(run)
            self._forget(versions[: max(0, len(versions) - keep_last)])

    def discard_after(self, run: str, number: int) -> None:
        """Remove the versions of ``run`` newer than ``number`` (-1: all), before training starts again from there."""
        with self._exclusive():
            self._forget([version for version in self.versions(run) if version.number > number])

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """For this process alone. Raises HomeError when the store cannot be written."""
        make_folder(self._folder)
        try:
            with self._lock:
                yield
        except OSError as error:
            raise HomeError(
                f"cannot write {error.filename or self._folder}: {error.strerror}; free space, or set GRPO_HOME to a "
                "folder that you can write"
            ) from error

    def _forget(self, versions: list[PolicyVersion]) -> None:
        for version in versions:
            self._reference_path(version).unlink(missing_ok=True)
        needed = set()
        for path in self._folder.glob("runs/*/v*.json"):
            if not _REFERENCE_NAME.fullmatch(path.name):
                continue
            try:
                needed.add(_parse_reference(path.read_bytes()).address)
            except ValueError:
                return  # cannot know what it needs: keep every object
        for folder in self._objects.iterdir() if self._objects.is_dir() else []:
            if folder.name not in needed:  # also the remains of a publication that was killed
                shutil.rmtree(folder)

    def _write_object(self, address: str, contents: dict[str, bytes]) -> Path:
        target = self._objects / address
        if all(_read_or_none(target / name) == content for name, content in contents.items()):
            return target
        make_folder(self._objects)
        with write_folder(target, 0o777) as folder:  # replaces a damaged one
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        return target

    def _read_reference(self, version: PolicyVersion) -> _Reference:
        path = self._reference_path(version)
        content = _read_or_none(path)
        if content is None:
            raise self._not_found(version)
        try:
            return _parse_reference(content)
        except ValueError:
            raise AdapterCorruptError(
                f"adapter {version.name}: {path} is damaged; delete that file and publish the version again"
            ) from None

    def _read_object(self, version: PolicyVersion, reference: _Reference) -> dict[str, bytes]:
        contents = {}
        for name, expected in reference.files.items():
            path = self._objects / reference.address / name
            content = _read_or_none(path)
            if content is not None and _sha256(content) == expected:
                contents[name] = content
                continue
            if not self._reference_path(version).exists():  # pruned while we read
                raise self._not_found(version)
            damage = "is missing or unreadable" if content is None else "does not match its sha256"
            raise AdapterCorruptError(
                f"adapter {version.name}: {path} {damage}; publish the version again to repair it, or use another one"
            )
        return contents

    def _not_found(self, version: PolicyVersion) -> AdapterNotFoundError:
        numbers = [str(other.number) for other in self.versions(version.run)]
        shown = ("..., " if len(numbers) > 10 else "") + ", ".join(numbers[-10:])
        return AdapterNotFoundError(
            f"adapter {version.name}: not published, or pruned; published versions of run {version.run!r}: "
            f"{shown or 'none'}; choose one of these or train the run first"
        )

    def _run_folder(self, run: str) -> Path:
        return self._folder / "runs" / check_name(run, "run")

    def _reference_path(self, version: PolicyVersion) -> Path:
        return self._run_folder(version.run) / f"v{version.number:06d}.json"


def _parse_reference(content: bytes) -> _Reference:
    """Raises ValueError unless the content is a reference whose fields match its address."""
    try:
        fields = parse_json(content)
        rest = {key: value for key, value in fields.items() if key not in ("files", "object", "created_at")}
        reference = _Reference(rest, dict(fields["files"]))
        is_intact = reference.address == fields["object"] and all(map(is_name, reference.files))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("not a reference") from error
    if not is_intact:
        raise ValueError("address does not match")
    return reference


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
