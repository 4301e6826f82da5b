from __future__ import annotations

from collections.abc import Sequence

from pytest_grpo.systems.core.plan_environment import PlanFactory
from pytest_grpo.systems.run_plan import RunPlan


def length_of(prompt: str, answers: Sequence[str]) -> float:
    return float(sum(map(len, (prompt, *answers))))


def test_one_agent_answers_each_prompt() -> None:
    environment = PlanFactory(RunPlan(("a:", "bb:"), length_of))()
    assert [(seen.agent, seen.prompt) for seen in environment.observe()] == [("0000", "a:"), ("0001", "bb:")]
    assert not environment.done
    environment.step({"0000": "x", "0001": "yy"})
    assert environment.done
    assert environment.observe() == ()
    assert environment.rewards() == {"0000": 3.0, "0001": 5.0}


def test_an_episode_has_as_many_turns_as_there_are_replies() -> None:
    def reply(prompt: str, answers: Sequence[str]) -> str | None:
        return f"|{len(answers)}|" if len(answers) < len(prompt) else None

    environment = PlanFactory(RunPlan(("a", "bb"), length_of, reply=reply))()
    environment.step({"0000": "x", "0001": "y"})
    assert [(seen.agent, seen.prompt) for seen in environment.observe()] == [("0001", "bby|1|")]
    environment.step({"0001": "zz"})
    assert environment.done
    assert environment.rewards() == {"0000": 2.0, "0001": 5.0}


def test_a_sibling_starts_where_the_first_one_did() -> None:
    factory = PlanFactory(RunPlan(("a:",), length_of))
    first, sibling = factory(), factory()
    sibling.step({"0000": "from before"})
    sibling.restore(first.snapshot())
    assert not sibling.done
    assert sibling.observe() == first.observe()
