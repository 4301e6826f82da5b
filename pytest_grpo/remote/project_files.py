"""Which files of the project are sent to a worker, and the digests of its code.

Sent are the files that git tracks, and untracked ones that git does not ignore. Without git: all but hidden files and
folders, ``__pycache__``, ``node_modules`` and virtual environments. Secrets are never sent, even if tracked, nor are
links to files that are not sent. Imports only the standard library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

MAX_TREE_BYTES = 64 << 20
MAX_SECRETS_SHOWN = 8

SECRETS = (
    *(
        ".env",
        ".env.*",
        ".env-*",
        ".env_*",
        ".envrc",
        ".direnv",
        "*.pem",
        "*.key",
        "*.p8",
        "*.p12",
        "*.pfx",
        "*.pkcs12",
    ),
    *("*.jks", "*.jceks", "*.keystore", "*.kdb", "*.kdbx", "*.ppk", "*.gpg", "*.pgp", "*.age", "*.keytab", "*.ovpn"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *(".netrc*", "_netrc", ".pypirc", ".npmrc", ".yarnrc*", "pip.conf", "pip.ini", ".git-credentials*", ".gitcookies"),
    *(".modal.toml", ".htpasswd", ".htdigest", ".pgpass*", "pgpass.conf", ".my.cnf", ".mylogin.cnf", ".boto", ".s3cfg"),
    *(".dockercfg", ".dockerconfigjson", "kubeconfig", "*.kubeconfig", ".terraformrc", "terraform.rc", "*.tfvars"),
    *("*.tfvars.json", "*.tfstate", "*.tfstate.*", ".vault_pass*", ".vault-token", ".databrickscfg", ".*_history"),
    *(
        "service-account*.json",
        "service_account*.json",
        "serviceaccount*.json",
        "client_secret*.json",
        "gha-creds-*.json",
    ),
    *("*firebase-adminsdk*.json", "application_default_credentials.json", "secrets.*", ".secrets", ".secrets.*"),
    *(".ssh", ".aws", ".azure", ".gcloud", ".oci", ".gnupg", ".kube", ".docker", ".terraform", ".password-store"),
)
"""Names of files and folders that are never sent; case does not matter."""
SECRET_WORDS = ("secret", "token", "password", "passwords", "passwd", "credential", "credentials", "api_key", "apikey")
SECRET_SUFFIXES = (".txt", ".json", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".csv", ".xml")
SECRET_FILES = (
    *("*.env", "*_rsa", "*_dsa", "*_ecdsa", "*_ed25519", "kubeconfig.yaml", "kubeconfig.yml"),
    *(
        f"{before}{word}{suffix}"
        for before in ("", ".", "*_", "*-", "*.")
        for word in SECRET_WORDS
        for suffix in ("", *SECRET_SUFFIXES)
    ),
)
"""Names of files only, since a package may be called ``token``: ``hf_token`` and ``db-password.txt`` are among them."""
NO_SECRETS = (".env.example", ".env.sample", ".env.template")
_SECRET = re.compile("|".join(map(translate, SECRETS)))
_SECRET_FILE = re.compile("|".join(map(translate, SECRET_FILES)))
_CODE_SUFFIXES = (".py", ".toml", ".ini", ".cfg")
_LEFT_OUT_WITHOUT_GIT = {"__pycache__", "node_modules"}
_PACKAGES = ("pytest_grpo", "grpo_core")


class TreeError(ValueError):
    """The project cannot be sent."""


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """The files of a project, relative to its root, sorted."""

    sent: list[str]
    secrets: list[str]
    """Those that would be sent, were they no secrets."""


def find_files(root: Path) -> ProjectFiles:
    """The files under ``root``. A link is judged by the file that it points to, and is sent only if that file is."""
    listed = _git_files(root)
    targets = {
        name: target
        for name in (_walk(root) if listed is None else listed)
        if (target := _target(root, root / name)) is not None
    }
    hidden = {target for name, target in targets.items() if is_secret(name)}
    secrets = {name for name, target in targets.items() if is_secret(name) or is_secret(target) or target in hidden}
    sent = (name for name, target in targets.items() if name not in secrets and target in targets)
    return ProjectFiles(sorted(sent), sorted(secrets))


def is_secret(name: str) -> bool:
    """Whether the path ``name``, or a folder of it, looks like a secret."""
    parts = name.lower().split("/")
    is_secret_file = _SECRET_FILE.match(parts[-1]) is not None
    return is_secret_file or any(part not in NO_SECRETS and _SECRET.match(part) for part in parts)


def secrets_line(secrets: Sequence[str]) -> str:
    """Says that these files are not sent; empty without any."""
    if not secrets:
        return ""
    shown = ", ".join(secrets[:MAX_SECRETS_SHOWN])
    more = f" and {len(secrets) - MAX_SECRETS_SHOWN} more" if len(secrets) > MAX_SECRETS_SHOWN else ""
    return f"grpo: not sent, for they look like secrets: {shown}{more}"


def pack(root: Path, names: Iterable[str], beside: Mapping[str, Path] | None = None) -> bytes:
    """These files of ``root`` as a compressed archive, with those of ``beside`` by their names in it.

    Raises:
        TreeError: they are too large together.
    """
    paths = {name: root / name for name in names} | dict(beside or {})
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    total = sum(sizes.values())
    if total > MAX_TREE_BYTES:
        largest = ", ".join(f"{name} ({sizes[name] >> 20} MiB)" for name in sorted(sizes, key=lambda n: -sizes[n])[:3])
        raise TreeError(
            f"the project's files take {total >> 20} MiB, allowed are {MAX_TREE_BYTES >> 20} MiB; the largest are "
            f"{largest}; add what tests do not need to .gitignore"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3, dereference=True) as archive:
        for name, path in paths.items():
            archive.add(path, arcname=name, recursive=False)
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """As ``grpo_core.cloud.sources.unpack``."""
    from grpo_core.cloud.sources import unpack as unpack_below

    unpack_below(archive, folder)


def code_digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Path -> digest of each code file, and ``package NAME`` -> digest of each package imported here."""
    return file_digests(root, names) | {f"package {name}": package_digest(name) for name in _PACKAGES}


def file_digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Path -> digest of each code file."""
    return {name: _digest(root / name) for name in names if name.endswith(_CODE_SUFFIXES)}


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


def _target(root: Path, path: Path) -> str | None:
    """The file that ``path`` is or points to, relative to ``root``; None if there is none inside of it."""
    if not path.is_file():
        return None
    target, top = path.resolve(), root.resolve()
    return target.relative_to(top).as_posix() if target.is_relative_to(top) else None
