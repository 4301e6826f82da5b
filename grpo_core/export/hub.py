"""Uploads an exported folder to the Hugging Face hub, or to the one that ``HF_ENDPOINT`` names."""

from __future__ import annotations

from pathlib import Path

from grpo_core.errors import ConfigError, CredentialsError, first_line


def check_repository(name: str) -> None:
    """Raises ConfigError when ``name`` is no OWNER/NAME. Contacts nobody."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        if name.count("/") != 1:
            raise HFValidationError("it has no owner")
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--push {name!r}: {first_line(error)}; give OWNER/NAME") from error


def push_folder(folder: Path, name: str) -> str:
    """Upload ``folder`` as the model ``name``; one that is new is private. Returns its address.

    Raises:
        CredentialsError: the hub refuses, or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        found = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload with grpo export")
    except Exception as error:  # which HTTP library raises depends on the version of the hub's client
        raise CredentialsError(
            f"--push {name}: {first_line(error)}; check HF_TOKEN and the connection. The folder {folder} is written: "
            "push it with hf upload"
        ) from error
    return found.commit_url
