"""Checking out a commit beside the user's tree, and removing it again however the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_grpo.checkouts.worktrees import dirty_submodules, fill_submodules, import_path, open_worktree
from pytest_grpo.sides.differing import differing_files
from pytest_grpo.sides.trees import exact_commit
from tests.pytest_grpo.repositories import commit_files, git, make_repository, state_of, write_files

HOLDS = """
import sys, time
from pathlib import Path
from pytest_grpo.checkouts.worktrees import open_worktree

with open_worktree(Path(sys.argv[1]), "HEAD", "grpo-test-") as worktree:
    print(worktree, flush=True)
    time.sleep(600)
"""
HOLDS_WHILE_IT_REMOVES = f"""
import shutil
remove = shutil.rmtree

def remove_when_told(*arguments, **options):
    print("removes", flush=True)
    sys.stdin.read()  # until it is closed
    remove(*arguments, **options)

shutil.rmtree = remove_when_told
{HOLDS}"""
HOLDS_IN_A_THREAD = """
import sys, threading
from pathlib import Path
from pytest_grpo.checkouts.worktrees import open_worktree

def hold():
    with open_worktree(Path(sys.argv[1]), "HEAD", "grpo-test-") as worktree:
        print(worktree, flush=True)
        is_open.set()
        threading.Event().wait()

is_open = threading.Event()
threading.Thread(target=hold, daemon=True).start()
is_open.wait()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, here and in new processes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits, a stash, and changes in the index, in the tree and in a new file."""
    folder = make_repository(tmp_path / "repository", {"a.py": "A = 1\n", "b.py": "B = 1\n"}, {"a.py": "A = 2\n"})
    write_files(folder, {"b.py": "B = 3\n"})
    git(folder, "stash")
    write_files(folder, {"a.py": "A = 4\n"})
    git(folder, "add", "a.py")
    write_files(folder, {"a.py": "A = 5\n", "new.py": "N = 1\n"})
    return folder


def test_a_commit_is_checked_out_and_nothing_is_left(repository: Path, temporary: Path) -> None:
    before = state_of(repository)
    with open_worktree(repository, "HEAD~1", "grpo-test-") as worktree:
        assert (worktree / "a.py").read_text() == "A = 1\n"
        assert not (worktree / "new.py").exists()
        assert worktree.parent.parent == temporary
        (worktree / "a.py").write_text("changed")
        (worktree / "made").mkdir()
        (worktree / "made" / "here.txt").write_text("")
        (worktree / "made").chmod(0o500)
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


def test_the_worktree_of_a_worktree_leaves_the_other_records(repository: Path, temporary: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "own"))
    before = state_of(repository)
    with open_worktree(tmp_path / "own", "HEAD~1", "grpo-test-") as worktree:
        assert git(worktree, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD~1")
    assert state_of(repository) == before
    assert "own" in before["records"]


def test_hooks_do_not_run_and_their_environment_does_not_reach_git(
    repository: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {temporary}/hook-ran\n")
    hook.chmod(0o700)
    before = state_of(repository)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / ".git" / "index"))
    with open_worktree(repository, "HEAD~1", "grpo-test-") as worktree:
        assert (worktree / "a.py").read_text() == "A = 1\n"
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name)
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


def test_a_checkout_that_fails_halfway_is_one_line_and_leaves_nothing(repository: Path, temporary: Path) -> None:
    """As when the disk is full: git has written files by then."""
    commit_files(repository, {".gitattributes": "*.big filter=full\n", "z.big": "content\n"})
    git(repository, "config", "filter.full.smudge", "echo 'No space left on device' >&2; false")
    git(repository, "config", "filter.full.clean", "cat")
    git(repository, "config", "filter.full.required", "true")
    before = state_of(repository)
    with (
        pytest.raises(pytest.UsageError, match=r"^commit HEAD cannot be checked out in .* \((error|fatal): .*\)$"),
        open_worktree(repository, "HEAD", "grpo-test-"),
    ):
        pass
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


def test_no_temporary_folder_is_one_line(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(pytest.UsageError, match=r"no temporary folder for the worktree: No such file .* set TMPDIR to"),
        open_worktree(repository, "HEAD", "grpo-test-"),
    ):
        pass


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT] * 5,
        [signal.SIGTERM],
        pytest.param([signal.SIGINT], marks=pytest.mark.slow),
        pytest.param([signal.SIGHUP], marks=pytest.mark.slow),
        pytest.param([signal.SIGTERM, signal.SIGINT] * 3, marks=pytest.mark.slow),
    ],
    ids=lambda signals: "-".join(number.name for number in signals),
)
def test_signals_remove_the_worktree(repository: Path, temporary: Path, signals: list[signal.Signals]) -> None:
    before = state_of(repository)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_WHILE_IT_REMOVES, str(repository)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert (Path(process.stdout.readline().strip()) / "a.py").exists()
        process.send_signal(signals[0])
        if len(signals) > 1:
            assert process.stdout.readline() == "removes\n"
        for number in signals[1:]:
            process.send_signal(number)
        process.stdin.close()
        assert process.wait(60) != 0
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("is_terminal", [False, True], ids=["process", "terminal"])
def test_an_interruption_while_git_checks_out_leaves_nothing(
    repository: Path, temporary: Path, tmp_path: Path, is_terminal: bool
) -> None:
    """git is killed then, and keeps its half-made record locked. A terminal interrupts git, too."""
    started = tmp_path / "started"
    commit_files(repository, {".gitattributes": "*.big filter=slow\n", "z.big": "content\n"})
    git(repository, "config", "filter.slow.smudge", f"touch {started}; exec sleep 20")
    before = state_of(repository)
    command = [sys.executable, "-c", HOLDS, str(repository)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.01)
        for _ in range(3):
            if is_terminal:
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one(repository: Path, temporary: Path) -> None:
    """Not what another process uses, and no worktree of the user."""
    git(repository, "worktree", "add", "-q", "--detach", str(repository.parent / "grpo-test-own"))
    before = state_of(repository)
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", HOLDS, str(repository)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    with killed, alive:
        assert killed.stdout is not None
        assert alive.stdout is not None
        left, used = Path(killed.stdout.readline().strip()), Path(alive.stdout.readline().strip())
        killed.kill()
        killed.wait()
        assert (left / "a.py").exists()
        with open_worktree(repository, "HEAD", "grpo-test-"):
            assert not left.parent.exists()
            assert (used / "a.py").exists()
        alive.send_signal(signal.SIGINT)
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


def test_a_process_that_never_leaves_the_block_removes_the_worktree_when_it_exits(
    repository: Path, temporary: Path
) -> None:
    before = state_of(repository)
    command = [sys.executable, "-c", HOLDS_IN_A_THREAD, str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent.parent == temporary
    assert state_of(repository) == before
    assert list(temporary.iterdir()) == []


def test_a_fork_does_not_remove_it(repository: Path, temporary: Path) -> None:
    with open_worktree(repository, "HEAD", "grpo-test-") as worktree:
        program = "import os, sys\nif os.fork() == 0: sys.exit()\nos.wait()\nprint((worktree / 'a.py').exists())"
        script = HOLDS.replace("    time.sleep(600)", "    " + program.replace("\n", "\n    "))
        done = subprocess.run([sys.executable, "-c", script, str(repository)], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "True", done.stderr
        assert worktree.exists()


def test_handlers_of_signals_are_as_before(repository: Path, temporary: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with open_worktree(repository, "HEAD", "grpo-test-"):
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def with_submodules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the submodule ``lib`` of two commits, the first of which is in HEAD~1, which has one itself."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # git adds no submodule of a local folder otherwise
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    make_repository(tmp_path / "inner", {"inner.py": "I = 1\n"})
    library = make_repository(tmp_path / "library", {"lib.py": "L = 1\n"})
    git(library, "submodule", "add", "-q", str(tmp_path / "inner"), "in ner")
    git(library, "commit", "-qm", "adds a submodule")
    folder = make_repository(tmp_path / "repository", {"a.py": "A = 1\n"})
    git(folder, "submodule", "add", "-q", str(library), "lib")
    git(folder, "commit", "-qm", "adds a submodule")
    commit_files(folder / "lib", {"lib.py": "L = 2\n"})
    git(folder, "commit", "-qam", "a later library")
    git(folder, "submodule", "update", "-q", "--init", "--recursive")
    return folder


def test_submodules_are_filled_from_the_local_clone(with_submodules: Path, temporary: Path, tmp_path: Path) -> None:
    for gone in ("inner", "library"):  # where they were cloned from is not asked
        (tmp_path / gone).rename(tmp_path / f"{gone}-gone")
    before, lines = state_of(with_submodules), []
    with open_worktree(with_submodules, "HEAD~1", "grpo-test-") as worktree:
        fill_submodules(with_submodules, worktree, lines.append)
        assert (worktree / "lib" / "lib.py").read_text() == "L = 1\n"
        assert (worktree / "lib" / "in ner" / "inner.py").read_text() == "I = 1\n"
        assert git(worktree, "status", "--porcelain") == ""
    assert lines == []
    assert state_of(with_submodules) == before
    assert list(temporary.iterdir()) == []


def test_a_submodule_that_is_not_cloned_stays_empty_and_is_named(with_submodules: Path, temporary: Path) -> None:
    lines: list[str] = []
    git(with_submodules, "submodule", "deinit", "-q", "-f", "lib")
    with open_worktree(with_submodules, "HEAD", "grpo-test-") as worktree:
        fill_submodules(with_submodules, worktree, lines.append)
        assert list((worktree / "lib").iterdir()) == []
        assert git(worktree, "status", "--porcelain") == ""
    commit = git(with_submodules, "rev-parse", "HEAD:lib")
    assert lines == [
        f"submodule lib at {commit[:12]} is not cloned in {with_submodules}: it stays empty on the other side"
    ]


def test_a_submodule_with_changes_is_dirty_and_one_of_another_commit_is_not(with_submodules: Path) -> None:
    assert dirty_submodules(with_submodules) == []
    (with_submodules / "lib" / "untracked.txt").write_text("")
    git(with_submodules / "lib", "checkout", "-q", "HEAD~1")
    assert dirty_submodules(with_submodules) == []
    (with_submodules / "lib" / "lib.py").write_text("L = 3\n")
    assert dirty_submodules(with_submodules) == ["lib"]


def test_folders_of_the_tree_are_mapped_and_others_of_pythonpath_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, other, elsewhere = (tmp_path / name for name in ("tree", "other", "elsewhere"))
    monkeypatch.setattr(sys, "path", [str(tree / "src"), str(elsewhere), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tree / "src"), str(elsewhere)]))
    assert import_path(tree, other) == [str(other), str(other / "src"), str(elsewhere)]


def test_looking_does_not_write_the_index(repository: Path, temporary: Path, tmp_path: Path) -> None:
    """git would note there that a file which is newer has the old content."""
    index = repository / ".git" / "index"
    os.utime(repository / "b.py", (2_000_000_000, 2_000_000_000))
    before = index.read_bytes()
    with open_worktree(repository, "HEAD~1", "grpo-test-") as worktree:
        assert dirty_submodules(repository) == []
        assert exact_commit(repository) is None
        assert "a.py" in differing_files(repository, worktree)
    assert index.read_bytes() == before
    git(repository, "status")
    assert index.read_bytes() != before
