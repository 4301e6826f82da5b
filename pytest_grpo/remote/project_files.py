"""Which files of the project are sent to a worker, and the digests of its code.

Sent are the files that git tracks, and untracked ones that git does not ignore. Without git: all but hidden files and
folders, ``__pycache__``, ``node_modules`` and virtual environments. Secrets are never sent, even if tracked, nor are
links out of the project. Imports only the standard library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

MAX_TREE_BYTES = 64 << 20

SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials"),
    *(".modal.toml", ".htpasswd", "credentials.json", "service-account*.json", "service_account*.json", "secrets.*"),
    *(".ssh", ".aws", ".gnupg", ".kube", ".docker"),
)
"""Names of files and folders that are never sent; case does not matter."""
NO_SECRETS = (".env.example", ".env.sample", ".env.template")
_CODE_SUFFIXES = (".py", ".toml", ".ini", ".cfg")
_LEFT_OUT_WITHOUT_GIT = {"__pycache__", "node_modules"}
_PACKAGES = ("pytest_grpo", "grpo_core")


class TreeError(ValueError):
    """The project cannot be sent."""


def list_files(root: Path) -> list[str]:
    """The files under ``root`` to send, relative to it, sorted."""
    names = _git_files(root)
    kept = (name for name in (_walk(root) if names is None else names) if not is_secret(name))
    return sorted(name for name in kept if _is_inside(root, root / name))


def is_secret(name: str) -> bool:
    """Whether a part of the path ``name`` looks like a secret."""
    parts = [part.lower() for part in name.split("/")]
    return any(part not in NO_SECRETS and any(fnmatch(part, pattern) for pattern in SECRETS) for part in parts)


def pack(root: Path, names: Iterable[str]) -> bytes:
    """These files as a compressed archive.

    Raises:
        TreeError: they are too large together.
    """
    sizes = {name: (root / name).stat().st_size for name in names}
    total = sum(sizes.values())
    if total > MAX_TREE_BYTES:
        largest = ", ".join(f"{name} ({sizes[name] >> 20} MiB)" for name in sorted(sizes, key=lambda n: -sizes[n])[:3])
        raise TreeError(
            f"the project's files take {total >> 20} MiB, allowed are {MAX_TREE_BYTES >> 20} MiB; the largest are "
            f"{largest}; add what tests do not need to .gitignore"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3, dereference=True) as archive:
        for name in sizes:
            archive.add(root / name, arcname=name, recursive=False)
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Write the files of ``archive`` below ``folder``. Nothing is written outside of it."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        opened.extractall(folder, filter="data")


def code_digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Path -> digest of each code file, and ``package NAME`` -> digest of each package imported here."""
    files = {name: _digest(root / name) for name in names if name.endswith(_CODE_SUFFIXES)}
    return files | {f"package {name}": package_digest(name) for name in _PACKAGES}


def differing(root: Path, expected: Mapping[str, str]) -> list[str]:
    """The entries of ``expected`` (see ``code_digests``) that differ or are missing here."""
    return [name for name, digest in expected.items() if _digest_of(root, name) != digest]


def package_digest(name: str) -> str:
    """The digest of the source files of package ``name``, without importing it; empty when there are none."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return ""
    folder = Path(next(iter(found.submodule_search_locations)))
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return hashlib.sha256("\n".join(f"{path} {_digest(folder / path)}" for path in paths).encode()).hexdigest()[:16]


def _digest_of(root: Path, name: str) -> str:
    return package_digest(name.removeprefix("package ")) if name.startswith("package ") else _digest(root / name)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def _git_files(root: Path) -> list[str] | None:
    """The files that git lists; None without git or outside of a repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [os.fsdecode(name) for name in dict.fromkeys(listed.stdout.split(b"\0")) if name]


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in _LEFT_OUT_WITHOUT_GIT
            and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (
            (here / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".") and not name.endswith(".pyc")
        )


def _is_inside(root: Path, path: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(root.resolve())
