"""Reward functions of every kind, and those that raise, hang or return something else."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from textwrap import dedent

import pytest

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.reward_function import Answer, load_rewards
from grpo_core.environments.dataset.rewards import BatchRewards, Rewards
from grpo_core.errors import ConfigError, EnvironmentCodeError

SOURCE = """
import asyncio, functools, sqlite3, threading

def exact(completions, answer, **kwargs):
    return [1.0 if text == right else 0.0 for text, right in zip(completions, answer)]

def named_only(completions, answer):
    return [text == right for text, right in zip(completions, answer)]

def single(completion, answer):
    return len(completion)

async def awaited(completions, **kwargs):
    await asyncio.sleep(0)
    return [2.0 for _ in completions]

async def awaited_single(completion, **kwargs):
    if completion == "raise":
        raise KeyError("no such word")
    return float(len(completion))

def everything(prompts, completions, completion_ids, **kwargs):
    seen.append((prompts, completions, completion_ids, kwargs))
    return [None for _ in prompts]

def sometimes(completions, **kwargs):
    return [None if text == "none" else 1.0 for text in completions]

def breaks(completions, **kwargs):
    return [1 / (text != "raise") for text in completions]

def always_breaks(completions, **kwargs):
    raise RuntimeError("judge is away")

def hangs(completions, **kwargs):
    if "hang" in completions:
        threading.Event().wait()
    return [1.0 for _ in completions]

async def hangs_async(completions, **kwargs):
    if "hang" in completions:
        await asyncio.Event().wait()
    return [1.0 for _ in completions]

async def blocks(completions, **kwargs):
    threading.Event().wait()

def one_short(completions, **kwargs):
    return [1.0 for text in completions if text != "raise"]

def one_for_all(completions, **kwargs):
    return [1.0]

def infinite(completions, **kwargs):
    return [float("inf") if text == "raise" else 1 for text in completions]

def wants(completions, solution):
    return []

limit, database = asyncio.Semaphore(1), None

async def limited(completion):
    async with limit:
        await asyncio.sleep(0.001)
    return 1.0

async def limited_batch(completions, **kwargs):
    async with limit:
        await asyncio.sleep(0.001)
    return [1.0 for _ in completions]

def remembers(completions, **kwargs):
    global database
    database = database or sqlite3.connect(":memory:")  # belongs to this thread
    return [float(database.execute("select 1").fetchone()[0]) for _ in completions]

def changes_all_it_gets(prompts, completions, completion_ids, answer, **kwargs):
    scores = [float(len(tests) + len(prompt)) for tests, prompt in zip(answer, prompts)]
    for value in (*answer, *prompts, *completion_ids):
        value.clear()
    return scores

def changes_one(prompt, completion, answer):
    score = float(len(answer) + len(prompt))
    answer.clear(), prompt.clear()
    return score

def by_place(completions, /, **kwargs):
    return [1.0 for _ in completions]

def hands_on(*arguments, **kwargs):
    return awaited(**kwargs)

def yields(completions, **kwargs):
    for text in completions:
        yield float(len(text))

def yields_and_breaks(completions, **kwargs):
    for text in completions:
        yield 1 / (text != "raise")

def huge(completions, **kwargs):
    return [10**400 if text == "raise" else 1 for text in completions]

def overflows(completions, **kwargs):
    return [1.7e308 if text == "raise" else 1 for text in completions]

def keys(completions, **kwargs):
    return dict.fromkeys(range(len(completions)), 1.0)

def digits(completions, **kwargs):
    return "1" * len(completions)

async def leaves(completion):
    if completion == "raise":
        raise SystemExit(3)
    return 1.0

class Judge:
    def __call__(self, completions, **kwargs):
        return [0.5] * len(completions)

judge = Judge()
LIMIT = 3
seen = []
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("my_rewards_of_test.py").write_text(dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)


def answers(*texts: str) -> list[Answer]:
    return [Answer(row, f"{row}?", text, [row], {"answer": "right"}) for row, text in enumerate(texts, 1)]


def score(*specs: str, texts: tuple[str, ...], timeout_s: float = 30.0) -> BatchRewards:
    return rewards_of(*specs, timeout_s=timeout_s).score(answers(*texts))


def rewards_of(*specs: str, timeout_s: float = 30.0) -> Rewards:
    config = DataConfig(path="q.jsonl", rewards=tuple(f"my_rewards_of_test:{spec}" for spec in specs))
    return Rewards(load_rewards(config, ["prompt", "answer"]), timeout_s)


@pytest.mark.parametrize(
    ("function", "rewards"),
    [
        ("exact", [1.0, 0.0]),
        ("named_only", [1.0, 0.0]),
        ("single", [5.0, 5.0]),
        ("awaited", [2.0, 2.0]),
        ("awaited_single", [5.0, 5.0]),
        ("judge", [0.5, 0.5]),
        ("exact=-2", [-2.0, 0.0]),
    ],
)
def test_every_kind_of_function(function: str, rewards: list[float]) -> None:
    assert [scored.reward for scored in score(function, texts=("right", "wrong")).answers] == rewards


def test_several_are_added_up_by_weight_and_none_does_not_count() -> None:
    found = score("exact", "awaited=0.25", "sometimes", texts=("right", "none"))
    assert [scored.reward for scored in found.answers] == [1 + 0.5 + 1, 0 + 0.5]
    assert found.answers[1].scores == {"exact": 0.0, "awaited": 2.0, "sometimes": None}
    assert [function.name for function in found.functions] == ["exact", "awaited", "sometimes"]
    assert all(function.duration_s >= 0 and function.num_failed == 0 for function in found.functions)


def test_a_row_that_no_function_scores_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """A function that scores one kind of question and forgets another teaches nothing there; the run looks sound."""
    rewards = rewards_of("sometimes")
    for _ in range(2):
        rewards.score(answers("right", "none"))
    assert [record.getMessage() for record in caplog.records] == [
        "no reward function scores row 2: all of its completions got None ('sometimes'), so they teach nothing; "
        "return a number"
    ]


def test_a_row_of_which_some_answers_are_scored_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    rewards_of("sometimes").score([Answer(1, "1?", text, [1], {}) for text in ("right", "none")])
    rewards_of("sometimes", "exact").score(answers("right", "none"))
    rewards_of("awaited_single").score(answers("right", "raise"))
    assert "no reward function" not in caplog.text


def test_the_signature_is_that_of_trl() -> None:
    found = score("everything", texts=("a", "b"))
    import my_rewards_of_test  # type: ignore[import-not-found]

    assert my_rewards_of_test.seen.pop() == (["1?", "2?"], ["a", "b"], [[1], [2]], {"answer": ["right", "right"]})
    assert [scored.reward for scored in found.answers] == [None, None]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("breaks", "ZeroDivisionError: division by zero"),
        ("one_short", "it returned 0 values for 1 completions"),
        ("infinite", "it returned inf, which is not finite; return a finite number, or None"),
        ("awaited_single", "KeyError: 'no such word'"),
    ],
)
def test_a_function_that_fails_is_named_with_the_row_and_the_rest_is_kept(
    function: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = score(function, "exact", texts=("right", "raise", "right"))
    assert f"reward '{function}' failed on row 2: {reason}" in caplog.text
    assert [scored.scores["exact"] for scored in found.answers] == [1.0, 0.0, 1.0]
    assert [scored.scores[function] is None for scored in found.answers] == [False, True, False]
    assert found.functions[0].num_failed == 1


def test_a_function_that_only_takes_one_answer_at_a_time_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """It may compare the answers of a batch, and gives others when it gets them alone."""
    rewards = rewards_of("one_for_all", "exact")
    with caplog.at_level(logging.WARNING):
        found = [rewards.score(answers("right", "wrong", "right")) for _ in range(2)]
    assert [scored.scores["one_for_all"] for scored in found[1].answers] == [1.0, 1.0, 1.0]
    (line,) = caplog.messages
    assert line.startswith(
        "reward 'one_for_all' failed on a whole batch (it returned 1 values for 3 completions), so it is"
    )
    assert found[0].functions[0].num_failed == 0


def test_a_row_that_fails_for_all_its_answers_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rewards_of("breaks").score([answers("right")[0], *[answers("raise")[0]] * 3])
    of_a_row = [line for line in caplog.messages if "on row 1" in line]
    assert len(of_a_row) == 1
    assert of_a_row[0].endswith("; it gives that answer no reward")


@pytest.mark.parametrize("function", ["hangs", "hangs_async"])
def test_a_function_that_hangs_is_named_with_the_row(function: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = score(function, texts=("right", "hang"), timeout_s=0.5)
    assert f"reward '{function}' failed on row 2: no answer within 0.5 s" in caplog.text
    assert [scored.reward for scored in found.answers] == [1.0, None]


def test_a_function_that_always_fails_ends_the_run_in_one_line() -> None:
    with pytest.raises(EnvironmentCodeError, match="'always_breaks' failed on row 1: RuntimeError: judge is away") as e:
        score("exact", "always_breaks", texts=("a", "b"))
    assert "\n" not in str(e.value)
    with pytest.raises(EnvironmentCodeError, match="3 calls of it hang"):
        score("hangs", texts=("hang",) * 3 + ("a",), timeout_s=0.2)


def test_any_number_of_coroutines_may_be_late_since_they_are_cancelled() -> None:
    found = score("hangs_async", texts=("hang",) * 5 + ("a",), timeout_s=0.2)
    assert [scored.reward for scored in found.answers] == [None] * 5 + [1.0]
    assert found.functions[0].num_failed == 5


def test_a_coroutine_that_blocks_its_loop_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.environments.dataset.calls._GRACE_S", 0.1)
    with pytest.raises(EnvironmentCodeError, match="'blocks' does not end at its limit"):
        score("blocks", texts=("a", "b"), timeout_s=0.2)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("my_rewards_of_test:wants", "takes 'solution', which is no column of the task: answer; rename"),
        ("my_rewards_of_test:LIMIT", "is of type int, which cannot be called"),
        ("my_rewards_of_test:nothing", "has no 'nothing'; give module:function"),
        ("my_rewards_of_test:exact=heavy", "the weight 'heavy' is no finite number"),
        ("my_rewards_of_test:exact=", "the weight '' is no finite number"),
        ("my_rewards_of_test:exact=nan", "the weight 'nan' is no finite number"),
        ("my_rewards_of_test:exact=-1e400", "the weight '-1e400' is no finite number"),
        ("no_such_module_of_test:exact", "cannot import"),
        ("exact", "give module:function"),
        (
            "my_rewards_of_test:by_place",
            "has the positional-only parameter 'completions', and is called with keywords; remove the /",
        ),
        ("builtins:max", "has no signature that Python can read; wrap it in a function"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_line_before_anything_is_loaded(spec: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_rewards(DataConfig(path="q.jsonl", rewards=(spec,)), ["prompt", "answer"])


@pytest.mark.parametrize("function", ["limited", "limited_batch", "remembers"])
def test_what_a_module_opens_once_lives_on_from_batch_to_batch(function: str) -> None:
    """A semaphore or a client belongs to an event loop, a connection to a database to a thread."""
    rewards = rewards_of(function)
    for _ in range(3):
        found = rewards.score(answers("a", "b", "c"))
        assert [scored.reward for scored in found.answers] == [1.0, 1.0, 1.0]
        assert found.functions[0].num_failed == 0


@pytest.mark.parametrize("functions", [("changes_all_it_gets", "changes_one"), ("changes_one", "changes_all_it_gets")])
def test_a_function_that_changes_what_it_gets_changes_no_row(functions: tuple[str, ...]) -> None:
    row = {"answer": ["1 == 1", "2 == 2"]}
    prompt = [{"role": "user", "content": "q"}]
    given = [Answer(1, prompt, "text", [1, 2], row) for _ in range(2)]
    for _ in range(2):
        found = rewards_of(*functions).score(given)
        assert [scored.reward for scored in found.answers] == [6.0, 6.0]
    assert (row, prompt) == ({"answer": ["1 == 1", "2 == 2"]}, [{"role": "user", "content": "q"}])
    assert given[0].completion_ids == [1, 2]


def test_a_function_that_hands_on_what_an_async_one_gives_is_awaited() -> None:
    assert [scored.reward for scored in score("hands_on", texts=("a", "b")).answers] == [2.0, 2.0]


def test_a_generator_is_as_good_as_a_list() -> None:
    assert [scored.reward for scored in score("yields", texts=("a", "bb")).answers] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("yields_and_breaks", "ZeroDivisionError"),
        ("huge", r"it returned 1000*\.\.\., which is no number"),
        ("overflows", r"it returned 1.7e\+308, which is beyond 1e\+30; return a finite number, or None"),
        ("leaves", "SystemExit: 3"),
    ],
)
def test_a_value_that_cannot_be_used_costs_its_answer(
    function: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = score(function, texts=("a", "raise"))
    assert [scored.reward for scored in found.answers] == [1.0, None]
    assert re.search(f"reward '{function}' failed on row 2: .*{line}", caplog.text)


@pytest.mark.parametrize(("function", "kind"), [("keys", "dict"), ("digits", "str")])
def test_what_is_no_list_is_none_though_it_can_be_read_as_one(function: str, kind: str) -> None:
    with pytest.raises(EnvironmentCodeError, match=f"it returned a {kind}, not a list"):
        score(function, texts=("a", "b"))


def test_two_functions_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two functions are called 'exact'"):
        score("exact", "exact=0.5", texts=("a",))
