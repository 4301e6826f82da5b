from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from grpo_core.errors import ConfigError
from pytest_grpo.remote import project_files
from pytest_grpo.remote.project_files import TreeError, code_digests, differing, find_files, pack, secrets_line, unpack


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def list_files(root: Path) -> list[str]:
    return find_files(root).sent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def test_tracked_and_untracked_files_travel_and_ignored_ones_do_not(checkout: Path) -> None:
    write(checkout, "tracked.py", "gone.py", "sub/new.py", "odd \u00e4 name.txt", "build/out.bin", "run.log")
    (checkout / ".gitignore").write_text("build/\n*.log\n")
    subprocess.run(["git", "add", "tracked.py", "gone.py"], cwd=checkout, check=True)
    (checkout / "gone.py").unlink()
    assert list_files(checkout) == [".gitignore", "odd \u00e4 name.txt", "sub/new.py", "tracked.py"]
    assert list_files(checkout / "sub") == ["new.py"]


def test_without_git_hidden_files_and_environments_stay_here(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "pkg/b.py", ".hidden/c.py", ".d", "pkg/__pycache__/b.pyc", "env/pyvenv.cfg", "env/e.py")
    write(tmp_path, "node_modules/f.js", "b.pyc")
    assert list_files(tmp_path) == ["a.py", "pkg/b.py"]


NO_SECRETS = (
    *(".env.example", "environment.py", "code.py", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("lib/token/__init__.py", "test_token.py", "hf_tokenizer.py", "kubeconfig.py", "credentials.py", "keys.py"),
)


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        "deploy/.env.production",
        "keys/server.PEM",
        "id_rsa",
        "id_ed25519.pub",
        ".netrc",
        ".ssh/config",
        "x/.aws/y",
        ".envrc",
        "prod.env",
        ".pgpass",
        ".secrets.toml",
        "config/.secrets/db",
        "terraform.tfvars",
        "terraform.tfstate.backup",
        "hf_token",
        "HF_TOKEN.txt",
        "db-password.txt",
        "openai_api_key",
        "token",
        ".token",
        "token.json",
        "gcp-credentials.json",
        "service-account-prod.json",
        "client_secret_42.json",
        "kubeconfig",
        "kubeconfig.yaml",
        "deploy_ed25519",
        "pip.conf",
        ".azure/accessTokens.json",
        ".python_history",
        "sops.age",
    ],
)
def test_secrets_stay_here_even_if_tracked(checkout: Path, name: str) -> None:
    write(checkout, name, *NO_SECRETS)
    subprocess.run(["git", "add", "-f", name], cwd=checkout, check=True)
    found = find_files(checkout)
    assert found.sent == sorted(NO_SECRETS)
    assert found.secrets == [name]


def test_links_that_lead_out_stay_here(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a.py")
    (tmp_path / "outside.py").write_text("")
    (root / "inside.py").symlink_to("a.py")
    (root / "leads_out.py").symlink_to(tmp_path / "outside.py")
    assert list_files(root) == ["a.py", "inside.py"]
    unpack(pack(root, list_files(root)), tmp_path / "there")
    assert (tmp_path / "there/inside.py").read_text() == "a.py"


def test_links_are_judged_by_what_they_point_to(checkout: Path) -> None:
    write(checkout, "a.py", ".env", "keys/.ssh/known", "conf/production.txt", "ignored.txt")
    (checkout / ".gitignore").write_text("ignored.txt\n")
    links = {
        "settings.txt": ".env",
        "two_steps.txt": "settings.txt",
        "notes.txt": "keys/.ssh/known",
        ".envrc": "conf/production.txt",
        "also_production.txt": "conf/production.txt",
        "data.txt": "ignored.txt",
        "folder": "keys",
        "loop": "loop",
        "gone": "nowhere",
        "b.py": "a.py",
    }
    for name, target in links.items():
        (checkout / name).symlink_to(target)
    subprocess.run(["git", "add", "-f", *links], cwd=checkout, check=True)
    found = find_files(checkout)
    assert found.sent == [".gitignore", "a.py", "b.py"]
    assert found.secrets == [
        *(".env", ".envrc", "also_production.txt", "conf/production.txt", "keys/.ssh/known", "notes.txt"),
        *("settings.txt", "two_steps.txt"),
    ]


def test_what_stays_here_is_said_in_one_line() -> None:
    assert secrets_line([]) == ""
    assert secrets_line([".env", "a.pem"]) == "grpo: not sent, for they look like secrets: .env, a.pem"
    assert secrets_line([f"{n}.key" for n in range(10)]).endswith("6.key, 7.key and 2 more")


def test_what_is_unpacked_is_the_same_code(tmp_path: Path) -> None:
    root, there = tmp_path / "root", tmp_path / "there"
    write(root, "a.py", "sub/b.py", "pyproject.toml", "data.bin")
    code = code_digests(root, list_files(root))
    assert {"a.py", "sub/b.py", "pyproject.toml", "package pytest_grpo", "package grpo_core"} == set(code)
    unpack(pack(root, list_files(root)), there)
    assert differing(there, code) == []
    (there / "a.py").write_text("changed")
    (there / "sub/b.py").unlink()
    assert differing(there, code | {"package pytest_grpo": "other"}) == ["a.py", "sub/b.py", "package pytest_grpo"]


def test_a_large_project_is_refused_with_its_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "MAX_TREE_BYTES", 3 << 20)
    (tmp_path / "model.bin").write_bytes(b"0" * (4 << 20))
    write(tmp_path, "a.py")
    with pytest.raises(TreeError, match=r"take 4 MiB, allowed are 3 MiB; the largest are model.bin \(4 MiB\), a.py"):
        pack(tmp_path, list_files(tmp_path))


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../evil.py"))
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        unpack(buffer.getvalue(), tmp_path / "there")
    assert not (tmp_path / "evil.py").exists()
