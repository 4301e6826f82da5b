"""Tasks of the real package: its questions, its scores, and what is refused."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_core.config import EnvironmentConfig, build_config
from grpo_core.environments import make_environment_factory
from grpo_core.environments.dataset.environment import AGENT
from grpo_core.environments.dataset.reward_function import Answer
from grpo_core.environments.dataset.source import DatasetFactory
from grpo_core.errors import ConfigError

gym: Any = pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")


def task(name: str = "chain_sum", **values: Any) -> DatasetFactory:
    config = EnvironmentConfig.model_validate({"name": f"reasoning_gym:{name}", **values})
    factory = make_environment_factory(config)
    assert isinstance(factory, DatasetFactory)
    return factory


def answers(factory: DatasetFactory, texts: list[str]) -> list[Answer]:
    """``texts`` as answers to the first questions."""
    rows = [{**factory.rows[index]} for index in range(len(texts))]
    return [
        Answer(index + 1, row.pop("prompt"), text, [], row)
        for index, (text, row) in enumerate(zip(texts, rows, strict=True))
    ]


def rewards(factory: DatasetFactory, texts: list[str]) -> list[float | None]:
    return [one.reward for one in factory.rewards.score(answers(factory, texts)).answers]


def test_its_questions_are_those_of_the_package() -> None:
    theirs = gym.create_dataset("chain_sum", seed=3, size=40, min_terms=2, max_terms=3)
    ours = task(settings={"seed": 3, "size": 40, "min_terms": 2, "max_terms": 3})
    assert [row["prompt"] for row in ours.rows.values] == [entry["question"] for entry in theirs]
    assert ours.rows[39]["metadata"] == theirs[39]["metadata"]
    environment = ours()
    environment.reset(7)
    (seen,) = environment.observe()
    assert (seen.agent, seen.prompt) == (AGENT, theirs[7]["question"])


@pytest.mark.parametrize("name", ["chain_sum", "word_sorting", "gsm_symbolic", "number_format"])
def test_the_reward_is_the_packages_own_score(name: str) -> None:
    theirs = gym.create_dataset(name, seed=0, size=5)
    right = [theirs[index]["answer"] for index in range(3)]
    texts = [f" {right[0]}\n", f"I say {right[1]}", "no idea", "", "1, 2"]
    expected = [theirs.score_answer(text.strip(), theirs[index]) for index, text in enumerate(texts)]
    assert expected[0] == 1.0
    assert rewards(task(name, settings={"size": 5}), texts) == expected


def test_an_answer_stands_in_its_tag() -> None:
    tagged = task(data={"answer_tag": "answer", "as_chat": True})
    right = tagged.rows[0]["answer"]
    texts = [f"<answer>0</answer> no, <answer> {right} </answer>", str(tagged.rows[1]["answer"])]
    chats: list[Any] = [[{"role": "assistant", "content": text}] for text in texts]
    assert rewards(tagged, texts) == rewards(tagged, chats) == [1.0, 0.0]
    assert tagged().observe()[0].messages == [{"role": "user", "content": tagged.rows[0]["prompt"]}]


def test_the_settings_of_the_page_are_taken() -> None:
    page = (Path(__file__).parents[4] / "docs" / "your-data.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"  ```toml\n(.*?)```", page, flags=re.DOTALL)
    factory = make_environment_factory(build_config(tomllib.loads(dedent(settings))).environment)
    (seen,) = factory().observe()
    assert seen.messages is not None
    assert [message["role"] for message in seen.messages] == ["system", "user"]


def test_functions_of_ones_own_count_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("gym_rewards_of_test.py").write_text(
        "def short(completion, metadata):\n    return 1 / len(completion) if metadata['num_terms'] else None\n"
        "def score_answer(completion):\n    return 0\n"
        "def other(completion, level):\n    return 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    both = task(data={"rewards": ["gym_rewards_of_test:short=0.5"]})
    right = both.rows[0]["answer"]
    (scored,) = both.rewards.score(answers(both, [right])).answers
    assert scored.scores == {"score_answer": 1.0, "short": 1 / len(right)}
    assert scored.reward == 1 + 0.5 / len(right)
    with pytest.raises(ConfigError, match="two functions are called 'score_answer'"):
        task(data={"rewards": ["gym_rewards_of_test:score_answer"]})
    with pytest.raises(ConfigError, match=r"takes 'level', which is no column of the task: answer, entry, metadata"):
        task(data={"rewards": ["gym_rewards_of_test:other"]})


def test_an_answer_that_a_task_cannot_read_earns_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """``prime_factorization`` reads numbers without a guard: an untrained policy would end its run."""
    broken = task("prime_factorization")
    with pytest.raises(ValueError, match="invalid literal"):
        gym.create_dataset("prime_factorization", seed=0).score_answer("six", broken.rows[0]["entry"])
    assert rewards(broken, ["six", str(broken.rows[1]["answer"]), "seven"]) == [0.0, 1.0, 0.0]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "reasoning_gym:prime_factorization cannot read an answer, which earns 0: ValueError: invalid literal for "
        "int() with base 10: 'six' (prime_factorization.py, line "
    )


SHOW = """
from grpo_core.config import EnvironmentConfig
from grpo_core.environments import make_environment_factory
for name in ("chain_sum", "codeio", "list_functions"):
    factory = make_environment_factory(EnvironmentConfig(name=f"reasoning_gym:{name}"))
    print(name, factory.rows[8]["prompt"], factory.rows[3]["prompt"])
"""


@pytest.mark.slow
def test_other_processes_have_the_same_questions() -> None:
    """Also where a task draws from the process's own random numbers, as the last two do."""

    def shown() -> str:
        return subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout

    assert shown() == shown()
    draws = random.getstate()
    _ = task("list_functions").rows[5]
    assert random.getstate() == draws


def test_a_task_that_looks_at_the_order_of_a_set_needs_a_fixed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.environments.reasoning_gym.task.sys", SimpleNamespace(flags=_flags(1)))
    with pytest.raises(ConfigError, match=r"'reasoning_gym:ransom_note': .*; set PYTHONHASHSEED=0 before the command"):
        task("ransom_note")
    monkeypatch.setattr("grpo_core.environments.reasoning_gym.task.sys", SimpleNamespace(flags=_flags(0)))
    assert task("ransom_note").rows[0]["prompt"]


def _flags(hash_randomization: int) -> SimpleNamespace:
    return SimpleNamespace(hash_randomization=hash_randomization)


def test_held_out_questions_are_others() -> None:
    settings = {"seed": 1, "size": 60, "min_terms": 2, "max_terms": 2, "max_digits": 1}
    training = {row["prompt"] for row in task(settings=settings).rows.values}
    held_out = task(settings=settings, questions="held_out")
    asked = [held_out.rows[index]["prompt"] for index in range(20)]
    assert not training & set(asked)
    assert len(set(asked)) == 20
    assert [held_out.order(20).row(9, 0, place, 0) for place in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"only \d+ questions that are not among the 60 of training; ask fewer"):
        held_out.rows.values[59]


def test_a_composite_task_mixes_others() -> None:
    parts = [{"name": "chain_sum", "weight": 2.0, "config": {"max_terms": 2}}, {"name": "word_sorting"}]
    mixed = task("composite", settings={"datasets": parts, "size": 30})
    names = {row["metadata"]["source_dataset"] for row in mixed.rows.values}
    assert names == {"chain_sum", "word_sorting"}
    right = [str(mixed.rows[index]["answer"]) for index in range(5)]
    assert rewards(mixed, right) == [1.0] * 5
    with pytest.raises(ConfigError, match=r"'reasoning_gym:word_sortin': no such task; near it: word_sorting"):
        task("composite", settings={"datasets": [{"name": "word_sortin"}]})


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("chain_sums", {}, r"'reasoning_gym:chain_sums': no such task; near it: chain_sum,? .*\(of \d+\)"),
        ("", {}, r"'reasoning_gym:': no such task; such as "),
        ("chain_sum", {"minterms": 2}, r"settings\.minterms: .* has no such setting; it has .*min_terms, .*seed, size"),
        ("chain_sum", {"min_terms": 9}, r"\(seed=0, min_terms=9\) are refused: AssertionError: max_terms must be >="),
        ("chain_sum", {"min_terms": "two"}, r"min_terms='two'\) are refused: TypeError: "),
        ("chain_sum", {"size": 0}, r"size=0\) are refused: "),
        ("gcd", {"size": 0}, r"environment\.settings\.size 0: no questions; give at least 1"),
    ],
)
def test_what_is_refused_is_one_line(name: str, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as raised:
        task(name, settings=settings)
    assert "\n" not in str(raised.value)
