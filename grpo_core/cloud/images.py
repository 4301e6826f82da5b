"""The container image: its packages, and the files of the project in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import modal

REMOTE_FOLDER = "/root"
VLLM = "vllm==0.32.0"


def project_image(project: Path, environment: Mapping[str, str], *, with_vllm: bool = False) -> modal.Image:
    """The locked packages, the files of the folder ``project`` and, as source, its two packages."""
    # A phase that measures on a CPU there compiles grpo_core's decoder.
    installed = (
        modal.Image.debian_slim(python_version="3.11")
        .apt_install("gcc", "libc6-dev")
        .uv_pip_install(requirements=[str(project / "requirements.lock")], extra_options="--require-hashes")
    )
    if with_vllm:
        installed = installed.uv_pip_install(VLLM)
    return (
        installed.env(dict(environment))
        .add_local_file(project / "pyproject.toml", f"{REMOTE_FOLDER}/pyproject.toml")
        .add_local_file(project / "conftest.py", f"{REMOTE_FOLDER}/conftest.py")
        .add_local_dir(project / "bench", f"{REMOTE_FOLDER}/bench", ignore=["**/__pycache__"])
        .add_local_dir(project / "scripts", f"{REMOTE_FOLDER}/scripts", ignore=["**/__pycache__"])
        .add_local_python_source("grpo_core", "pytest_grpo", ignore=["**/__pycache__"])  # with the C sources
    )
