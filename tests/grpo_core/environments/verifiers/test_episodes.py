"""Episodes of the real package: its programs ask, the answers come from here, and its rewards are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import make_environment_factory
from grpo_core.environments.agents.environment import AGENT, AgentEnvironment
from grpo_core.environments.verifiers.source import VerifiersFactory
from grpo_core.errors import ConfigError
from tests.grpo_core.environments.verifiers import tasksets

pytest.importorskip("verifiers", reason="needs the extra verifiers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of the package's own

Open = Callable[..., VerifiersFactory]


@pytest.fixture(scope="module", autouse=True)
def _tasksets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("tasksets")
    for name in ("ONE_TURN", "TOOLS", "TURNS"):
        (folder / f"of_tests_{name.lower()}.py").write_text(getattr(tasksets, name))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(folder))  # for the tools' own process
        before = list(sys.path)
        yield
        sys.path[:] = before


@pytest.fixture
def open_taskset() -> Iterator[Open]:
    opened: list[VerifiersFactory] = []

    def make(name: str, **settings: Any) -> VerifiersFactory:
        config = EnvironmentConfig(name=f"verifiers:of_tests_{name}", settings=settings)
        factory = make_environment_factory(config)
        assert isinstance(factory, VerifiersFactory)
        opened.append(factory)
        return factory

    yield make
    for factory in opened:
        factory.session.close()


def play(environment: AgentEnvironment, answers: list[str]) -> list[list[str]]:
    """Answer until the episode is over: the contents of each turn's messages."""
    seen: list[list[str]] = []
    for answer in answers:
        assert not environment.done
        (observation,) = environment.observe()
        assert observation.messages is not None
        seen.append([message["content"] for message in observation.messages])
        environment.step({AGENT: answer})
    assert environment.done
    return seen


def test_one_turn_earns_the_packages_own_sum(open_taskset: Open) -> None:
    factory = open_taskset("one_turn", taskset={"num_sums": 3})
    first, sibling = factory(), factory()
    first.reset(5)
    sibling.restore(first.snapshot())
    assert play(first, ["3"]) == play(sibling, ["nonsense"]) == [["Add.", "2 + 1 ="]]
    assert first.rewards() == {AGENT: 1.5}  # 1 for the sum, half a point for its length
    assert sibling.rewards() == {AGENT: 0.0}


def test_a_tool_is_called_and_its_result_read(open_taskset: Open) -> None:
    environment = open_taskset("tools")()
    environment.reset(0)
    (observation,) = environment.observe()
    assert [tool["function"]["name"] for tool in observation.tools] == [
        "abacus_add"
    ]  # the package puts the name of the toolset before it
    call = 'I count.\n<tool_call>\n{"name": "abacus_add", "arguments": {"a": 17, "b": 4}}\n</tool_call>'
    seen = play(environment, [call, "21"])
    assert seen == [["17 + 4 ="], ["17 + 4 =", call, "21"]]  # the answer stays as it was sampled
    assert environment.rewards() == {AGENT: 1.0}


def test_several_turns_with_the_package_as_the_user(open_taskset: Open) -> None:
    environment = open_taskset("turns")()
    environment.reset(0)
    question = "Guess a number up to 9."
    assert play(environment, ["3", "7"]) == [[question], [question, "3", "No."]]
    assert environment.rewards() == {AGENT: 0.5}


def test_what_is_refused_is_one_line(open_taskset: Open) -> None:
    with pytest.raises(
        ConfigError, match=r"'verifiers:of_tests_nothing': .* install that environment, or put"
    ) as raised:
        open_taskset("nothing")
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"'verifiers:of_tests_one_turn' with its settings is refused: .*num_summs"):
        open_taskset("one_turn", taskset={"num_summs": 3})
