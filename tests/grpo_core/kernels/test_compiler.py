from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_core.kernels import compiler, crew
from grpo_core.kernels.compiler import load_kernels
from grpo_core.rollout.torch_engine import draws
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


def three(source: Path) -> int | None:
    """What a process that starts now gets of the library; None where it has to do without."""
    load_kernels.cache_clear()
    kernels = load_kernels(source)
    return None if kernels is None else kernels.three()


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "changed"])
def test_a_damaged_library_is_built_anew(damage: str, fresh_cache: Path, source: Path) -> None:
    """In a process of its own: a truncated library that is loaded ends it by SIGBUS."""
    assert three(source) == 3
    (library,) = fresh_cache.glob("three-*.so")
    content = library.read_bytes()
    library.unlink()  # the file that is loaded here stays whole
    library.write_bytes(
        {
            "truncated": content[:4096],
            "empty": b"",
            "foreign": b"\x7fELF" + bytes(5000),
            "changed": content.replace(b"three", b"there"),
        }[damage]
    )
    script = (
        "import sys; from pathlib import Path; from grpo_core.kernels.compiler import load_kernels;"
        "print(load_kernels(Path(sys.argv[1])).three())"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(source)], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout) == (0, "3\n"), ran.stderr
    assert library.read_bytes() == content


@needs_compiler
@pytest.mark.parametrize("mode", [0o666, 0o622, 0o620])
def test_a_library_that_others_may_write_is_not_loaded(mode: int, fresh_cache: Path, source: Path) -> None:
    assert three(source) == 3
    (library,) = fresh_cache.glob("three-*.so")
    library.chmod(mode)

    assert three(source) == 3
    assert library.stat().st_mode & 0o022 == 0


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_library_of_another_user_is_not_loaded(
    fresh_cache: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert three(source) == 3
    (library,) = fresh_cache.glob("three-*.so")
    os.chown(library, 65534, 65534)

    assert three(source) == 3
    assert library.stat().st_uid == 0


@needs_compiler
def test_a_built_library_needs_no_compiler_and_no_cache_that_can_be_written(
    fresh_cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image that was baked with it."""
    assert three(source) == 3
    monkeypatch.setenv("PATH", "/nonexistent")
    for path in fresh_cache.glob("*.lock"):
        path.unlink()
    fresh_cache.chmod(0o555)
    try:
        assert three(source) == 3
        assert [path.suffix for path in fresh_cache.iterdir()] == [".so"]
    finally:
        fresh_cache.chmod(0o755)


@needs_compiler
def test_the_compiler_may_have_arguments(fresh_cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.with_suffix(".h").write_text("")
    monkeypatch.setenv("CC", "cc -DTHREE=5")

    assert three(source) == 5


def test_what_cannot_be_built_is_said_in_one_line(
    fresh_cache: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert three(source) is None
    assert "no compiler 'no-such-compiler'; correct CC, or unset it" in caplog.text

    caplog.clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "file"))
    assert three(source) is None
    (record,) = caplog.records
    assert "set GRPO_CACHE to a folder that you can write" in record.getMessage()
    assert "\n" not in record.getMessage()


@needs_compiler
def test_libraries_are_not_mixed_up(fresh_cache: Path, source: Path, tmp_path: Path) -> None:
    """The system's loader takes a library that has the name of a loaded one for that one."""
    other = tmp_path / "four.c"
    other.write_text("int three(void) { return 4; }\n")

    assert (three(source), three(other), three(source)) == (3, 4, 3)


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
    loaded = {crew.SOURCE, compiled_tree.SOURCE, compiled_decoder.SOURCE, draws.SOURCE, products.SOURCE}

    assert loaded == set(package.glob("**/*.c"))
