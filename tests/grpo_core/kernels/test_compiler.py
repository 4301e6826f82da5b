from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from grpo_core.kernels import compiler
from grpo_core.kernels.compiler import load_kernels
from grpo_core.rollout.torch_engine.forward import compiled_decoder
from grpo_core.rollout.torch_engine.weights import products
from grpo_core.training.forward import compiled_tree

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "three.c"
    path.write_text('#include "three.h"\nint three(void) { return THREE; }\n')
    path.with_suffix(".h").write_text("#define THREE 3\n")
    return path


@needs_compiler
def test_the_kernels_are_compiled_once(fresh_cache: Path, source: Path) -> None:
    kernels = load_kernels(source)
    assert kernels is not None
    assert kernels.three() == 3
    (library,) = fresh_cache.glob("three-*.so")
    built = library.stat().st_mtime_ns
    load_kernels.cache_clear()

    assert load_kernels(source) is not None
    assert library.stat().st_mtime_ns == built
    assert [path.suffix for path in fresh_cache.iterdir() if path.is_dir()] == []


@needs_compiler
def test_a_header_that_changes_is_compiled_anew(fresh_cache: Path, source: Path) -> None:
    assert load_kernels(source) is not None
    source.with_suffix(".h").write_text("#define THREE 4\n")
    load_kernels.cache_clear()

    changed = load_kernels(source)
    assert changed is not None
    assert changed.three() == 4
    assert len(list(fresh_cache.glob("three-*.so"))) == 2


def test_a_compiler_that_fails_is_named_with_what_it_said(
    fresh_cache: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))

    with caplog.at_level(logging.WARNING):
        assert load_kernels(source) is None

    assert "broken-cc: no such option" in caplog.text
    assert list(fresh_cache.glob("*.so")) == []


def test_every_c_file_of_the_package_is_one_that_is_loaded():
    """A module that looks for its C file at a wrong place would run in torch, and only be slow."""
    package = Path(compiler.__file__).parents[1]
    loaded = {compiled_tree.SOURCE, compiled_decoder.SOURCE, products.SOURCE}

    assert loaded == set(package.glob("**/*.c"))
