"""``grpo dashboard`` as a user starts and ends it."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from grpo_core.cli import main
from tests.grpo_core.commands.served import served


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "needs_token"),
    [
        ([], False),
        (["--token"], True),
        (["--host", "0.0.0.0"], True),
    ],
)
def test_it_serves_at_the_printed_address_until_ctrl_c(options: list[str], needs_token: bool, tmp_path: Path) -> None:
    with served(["dashboard", "--port", "0", *options], tmp_path) as printed:
        assert printed.readline() == f"runs of {tmp_path / 'data'}\n"
        url = printed.readline().removeprefix("page at ").strip().replace("0.0.0.0", "127.0.0.1")
        assert ("?token=" in url) == needs_token
        if needs_token:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{url.partition('?')[0]}api/runs", timeout=60)
        else:
            with urllib.request.urlopen(f"{url}api/runs", timeout=60) as answer:
                assert b'"runs":[]' in answer.read()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--port", "70000"], "--port 70000: give 0 to 65535"),
        (["--host", "192.0.2.1"], "give an address of this machine"),
        (["--host", "no such host"], "give an address of this machine"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", *options]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
