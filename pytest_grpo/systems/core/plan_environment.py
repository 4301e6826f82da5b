"""A ``RunPlan`` as an environment of grpo_core: one agent per prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_grpo.systems.run_plan import RunPlan

if TYPE_CHECKING:
    from grpo_core.types import Observation


class PlanEnvironment:
    """One completion of each prompt per episode, so siblings of a prompt are in different episodes.

    An agent answers until the plan has no reply for it. The seed changes nothing.
    """

    in_opening = False

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._prompts = {f"{place:04d}": prompt for place, prompt in enumerate(plan.prompts)}
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._said = dict(self._prompts)  # by agent: its next prompt, if it has one
        self._answers: dict[str, list[str]] = {agent: [] for agent in self._prompts}
        self._rewards: dict[str, float] = {}

    @property
    def done(self) -> bool:
        return len(self._rewards) == len(self._prompts)

    def observe(self) -> tuple[Observation, ...]:
        from grpo_core.types import Observation

        return tuple(Observation(agent, self._said[agent]) for agent in self._prompts if agent not in self._rewards)

    def step(self, actions: Mapping[str, str]) -> None:
        for agent, text in actions.items():
            prompt, answers = self._prompts[agent], self._answers[agent]
            answers.append(text)
            reply = None if self._plan.reply is None else self._plan.reply(prompt, tuple(answers))
            if reply is None:
                self._rewards[agent] = self._plan.reward(prompt, tuple(answers))
            else:
                self._said[agent] += text + reply

    def rewards(self) -> Mapping[str, float]:
        return self._rewards

    def snapshot(self) -> dict[str, Any]:
        """The snapshot of the start: no other state is taken up again."""
        assert not any(self._answers.values()), "an episode has one start"
        return {"environment": "plan"}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.reset(0)


class PlanFactory:
    """Makes environments of one plan."""

    name = key = "plan"

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def __call__(self) -> PlanEnvironment:
        return PlanEnvironment(self._plan)
