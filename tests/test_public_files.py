"""What a stranger reads first: the licence, the changelog and its fragments, the guide, the issue forms, the hooks."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
TOWNCRIER = PYPROJECT["tool"]["towncrier"]
TYPES = {entry["directory"] for entry in TOWNCRIER["type"]}
PACKAGES = ("grpo_core", "pytest_grpo")
NO_FRAGMENTS = {"README.md", "template.md"}
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
PAGES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "changes/README.md"),
    *sorted(path.relative_to(PROJECT_FOLDER).as_posix() for path in (PROJECT_FOLDER / "docs").glob("*.md")),
)
FORMS = sorted(path for path in (PROJECT_FOLDER / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
EXAMPLES = {
    "tests/test_rollout_speed.py",
    ".github/workflows/grpo.yml",
    "changes/batch-mates.fixed.md",
    "grpo_core/rollout/NAME_engine/",
    "bench/faults/phase7.py",
}
"""Paths that a page names as what a reader would add."""
MAX_FILE_BYTES = 200_000
"""Of a tracked file; the lock file of the packages is half as large."""
ARCHIVE = re.compile(r"\.(whl|zip|gz|tgz|bz2|xz|zst|tar|egg|so|dylib|dll|pyc|bin|safetensors|pt|npz)$")

PICKLE = re.compile(
    r"^\s*(import|from) (pickle|cloudpickle|dill|shelve|joblib|marshal)\b|(?<!safetensors\.)torch\.load\("
)


def fragments() -> list[Path]:
    return sorted(path for path in (PROJECT_FOLDER / "changes").iterdir() if path.name not in NO_FRAGMENTS)


def read(name: str) -> str:
    return (PROJECT_FOLDER / name).read_text(encoding="utf-8")


def code_spans(text: str) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


def tracked_files() -> list[str]:
    """What git would put into a clone; skips the test where there is no git, as in an unpacked archive."""
    if not (PROJECT_FOLDER / ".git").exists():
        pytest.skip("no git repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT_FOLDER, capture_output=True, text=True, check=True
    ).stdout
    return [name for name in listed.split("\0") if name and (PROJECT_FOLDER / name).is_file()]


def missing_paths(name: str) -> list[str]:
    """Links of a page that lead nowhere, and files and folders of the project that it names and that are not there."""
    text, folder = read(name), (PROJECT_FOLDER / name).parent
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    lost = [link for link in links if link and "://" not in link and not (folder / link).exists()]
    tops = {path.name for path in PROJECT_FOLDER.iterdir()}
    named = {span for span in code_spans(text) if "/" in span and span.partition("/")[0] in tops} - EXAMPLES
    return lost + sorted(span for span in named if not any(PROJECT_FOLDER.glob(span.rstrip("/"))))


def test_the_licence_is_the_whole_text_and_is_packed():
    assert hashlib.sha256((PROJECT_FOLDER / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert PYPROJECT["project"]["license-files"] == ["LICENSE"]


def test_no_archive_is_tracked():
    assert [name for name in tracked_files() if ARCHIVE.search(name)] == []


def test_no_tracked_file_is_large():
    assert [name for name in tracked_files() if (PROJECT_FOLDER / name).stat().st_size > MAX_FILE_BYTES] == []


def test_each_fragment_has_a_type_and_a_text():
    wrong = [path.name for path in fragments() if not re.fullmatch(rf"[\w-]+\.({'|'.join(TYPES)})\.md", path.name)]

    assert wrong == []
    assert all(path.read_text(encoding="utf-8").strip() for path in fragments())


def test_every_type_is_explained():
    assert set(re.findall(r"^\| `(\w+)` \|", read("changes/README.md"), flags=re.MULTILINE)) == TYPES


def test_the_changelog_can_be_built_and_has_every_fragment():
    built = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "99.0.0"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stderr
    words = " ".join(built.stdout.split())
    assert words.startswith("## 99.0.0 (")
    for path in fragments():
        assert " ".join(path.read_text(encoding="utf-8").split()) in words, path.name


def test_the_changelog_has_the_version_of_the_project_on_top():
    log = read("CHANGELOG.md")
    after_marker = log.partition(TOWNCRIER["start_string"])[2]
    versions = re.findall(r"^## (\S+)", log, flags=re.MULTILINE)

    assert re.findall(r"^## (\S+)", after_marker, flags=re.MULTILINE) == versions
    assert versions[0] == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name: str):
    assert missing_paths(name) == []


def test_the_version_policy_names_the_ranges_of_the_project():
    page = read("docs/versions.md")
    pythons = [text.rpartition(" ")[2] for text in PYPROJECT["project"]["classifiers"] if ":: 3." in text]
    train = PYPROJECT["project"]["optional-dependencies"]["train"]
    (torch,) = (text.partition(">=")[2] for text in train if text.startswith("torch>="))

    assert f"| Python | {pythons[0]} to {pythons[-1]} | {', '.join(pythons)} |" in page
    assert f"| torch | {torch} to the version in `requirements.lock` |" in page


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_takes(path: Path):
    form: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]

    assert form["name"]
    assert form["description"]
    assert {field["type"] for field in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[\w-]+", name) for name in ids)
    labels = [field["attributes"]["label"] for field in fields]
    assert len(set(labels)) == len(labels)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_hooks_are_of_this_repository():
    config: dict[str, Any] = yaml.safe_load(read(".pre-commit-config.yaml"))
    (repository,) = config["repos"]
    scripts = [word for hook in repository["hooks"] for word in hook["entry"].split() if word.endswith(".py")]

    assert repository["repo"] == "local"
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    assert all(hook["entry"].startswith("uv run ") for hook in repository["hooks"])
    assert all((PROJECT_FOLDER / script).is_file() for script in scripts)


def test_no_pickle_is_read():
    """As SECURITY.md promises, for the code of both packages and of the app."""
    files = [PROJECT_FOLDER / "app.py", *(path for name in PACKAGES for path in (PROJECT_FOLDER / name).rglob("*.py"))]
    found = [
        f"{path.relative_to(PROJECT_FOLDER)}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if PICKLE.search(line)
    ]

    assert len(files) > 100
    assert found == []
