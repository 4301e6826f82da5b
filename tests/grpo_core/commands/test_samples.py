"""What was said is printed as it was said, and does nothing else to the terminal."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_core.cli import main
from grpo_core.home import Home
from grpo_core.schedule.samples import sample_file_name, samples_folder


def write(prompt: str, completion: str) -> None:
    row = {
        "step": 1, "group": "0", "row": 4, "sample": 0, "turn": 0, "agent": "a", "reward": 0.5, "advantage": 0.1,
        "num_tokens": 3, "finish_reason": "stop", "prompt": prompt, "completion": completion, "score_exact": 0.5,
    }  # fmt: skip
    folder = samples_folder(Home.from_environment(), "talk")
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), folder / sample_file_name(1))


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        (":smile: [red]é[/red] 漢 1.0 'a'", ":smile: [red]é[/red] 漢 1.0 'a'"),
        ("two\n\tlines", "two\n\tlines"),
        ("\x1b[31mred\x07 \r\x00\u202e", r"\x1b[31mred\x07 \r\x00\u202e"),
    ],
    ids=["words of rich", "lines", "controls"],
)
def test_what_was_said_is_printed_as_it_was(
    said: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    write(said, said)

    assert main(["samples", "talk"]) == 0

    head, _, rest = capsys.readouterr().out.partition("\n")
    assert head == "--- step 1, row 4, sample 1: reward 0.5 (exact 0.5), advantage 0.1, 3 tokens"
    assert rest == f"{printed}\n>>> {printed}\n\n"
