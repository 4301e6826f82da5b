"""Diplomacy for seven powers, played on the rules of the optional package ``diplomacy``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Mapping
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

from grpo_core.environments.diplomacy.board import POWERS
from grpo_core.environments.diplomacy.orders import OrderChoices, accept_orders, order_choices
from grpo_core.environments.diplomacy.phase import Phase, PhaseCache
from grpo_core.environments.diplomacy.position import Position
from grpo_core.environments.diplomacy.prompts import compact_prompt, full_prompt
from grpo_core.environments.diplomacy.rewards import power_reward
from grpo_core.errors import InvalidActionError, MissingPackageError, shown
from grpo_core.types import Observation

if TYPE_CHECKING:
    from diplomacy.engine.game import Game

FIRST_YEAR = 1901
_COMPLETED = "COMPLETED"  # how the engine names the phase after a victory
_PHASE = re.compile(r"[SFW]\d{4}[MRA]|" + _COMPLETED)
_STATE_KEYS = ("name", "note", "units", "retreats", "centers", "homes", "influence", "civil_disorder")


@cache
def _game_class() -> type[Game]:
    """The engine's ``Game``, imported once, its map loaded."""
    with warnings.catch_warnings():
        # The engine leaves a cache file of its own open, when it is imported and when it first loads the map, and
        # Python 3.12 and later deprecate what it calls.
        for category in ResourceWarning, DeprecationWarning, SyntaxWarning:
            warnings.simplefilter("ignore", category)
        try:
            from diplomacy.engine.game import Game
        except ModuleNotFoundError as error:
            raise missing_engine() from error
        Game()
    return Game


def missing_engine() -> MissingPackageError:
    return MissingPackageError(
        "environment 'diplomacy' needs the package diplomacy, which is not installed; "
        "run: pip install 'pytest-grpo[diplomacy]' (or: uv sync --extra diplomacy)"
    )


class DiplomacyEnvironment:
    """One game, from the standard start, with an agent per power, named as in ``board.POWERS``.

    The first ``opening_years`` are the opening; ``horizon`` years follow, unless a power wins before. Only powers with
    orders to give are observed. The start is always the same: episodes of different seeds differ once the policy has
    sampled an opening, and ``seed`` says which episode this is. Environments that share ``phases`` compute legal
    orders and prompts once per position.
    """

    def __init__(
        self,
        *,
        horizon: int = 1,
        opening_years: int = 0,
        compact_prompts: bool = False,
        phases: PhaseCache | None = None,
    ) -> None:
        self._horizon = horizon
        self._first_scored_year = FIRST_YEAR + opening_years
        self._prompt = compact_prompt if compact_prompts else full_prompt
        self._phases = phases if phases is not None else PhaseCache()
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.seed = seed
        self.num_refused_lines = 0  # of answers since the reset or restore: not legal, repeated or too many
        self._game: Game = _game_class()()
        self._begin_phase()
        self._centers_before = self._num_centers()

    @property
    def phase(self) -> str:
        """As the engine names it: ``S1901M``, or ``COMPLETED``."""
        return self._game.get_current_phase()

    @property
    def position(self) -> Position:
        """The position as plain data. Only defined until a power has won."""
        return _read_position(self._game)

    @property
    def in_opening(self) -> bool:
        return self.phase != _COMPLETED and self._year() < self._first_scored_year

    @property
    def done(self) -> bool:
        return self.phase == _COMPLETED or self._year() >= self._first_scored_year + self._horizon

    def observe(self) -> tuple[Observation, ...]:
        if self._phase.observations is None:
            self._phase.observations = self._make_observations()
        return self._phase.observations

    def step(self, actions: Mapping[str, str]) -> None:
        """Play the phase. Lines that are not legal orders are ignored and counted in ``num_refused_lines``."""
        assert not self.done, "the episode is done"
        was_opening = self.in_opening
        for power in self._phase.choices:
            if power not in actions:
                observed = ", ".join(self._phase.choices)
                raise InvalidActionError(f"no answer for {power} in {self.phase}; answer for each of: {observed}")
        for power, choices in self._phase.choices.items():
            orders, num_refused = accept_orders(actions[power], choices)
            self._game.set_orders(power, orders, expand=False)
            self.num_refused_lines += num_refused
        self._game.process()
        self._begin_phase()
        if was_opening:
            self._centers_before = self._num_centers()

    def rewards(self) -> Mapping[str, float]:
        """``power_reward`` of every power since the opening ended."""
        now = self._num_centers()
        return {power: power_reward(self._centers_before[power], now[power], self._survives(power)) for power in POWERS}

    def snapshot(self) -> dict[str, Any]:
        state = self._game.get_state()
        return {
            "environment": "diplomacy",
            "seed": self.seed,
            "centers_before": dict(self._centers_before),
            "state": deepcopy({key: state[key] for key in _STATE_KEYS}),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        _check_snapshot(snapshot)
        game = _game_class()()
        game.set_state(deepcopy(dict(snapshot["state"])))
        self._game = game
        self.seed = snapshot["seed"]
        self.num_refused_lines = 0
        self._centers_before = dict(snapshot["centers_before"])
        self._begin_phase()

    def _begin_phase(self) -> None:
        """Find the powers that must order now. Phases without any are processed at once."""
        while not self.done:
            # The prompt's style is part of the key: environments of both styles may share the cache.
            self._phase = self._phases.get(
                (self._prompt, _phase_key(self._game)), lambda: Phase(_read_choices(self._game))
            )
            if self._phase.choices:
                return
            self._game.process()
        self._phase = Phase({}, observations=())

    def _make_observations(self) -> tuple[Observation, ...]:
        position = self.position
        return tuple(
            Observation(power, self._prompt(position, power, choices.segments), choices.segments, choices.distinct)
            for power, choices in self._phase.choices.items()
        )

    def _year(self) -> int:
        return int(self.phase[1:-1])

    def _num_centers(self) -> dict[str, int]:
        return {power: len(self._game.powers[power].centers) for power in POWERS}

    def _survives(self, power: str) -> bool:
        return bool(self._game.powers[power].centers or self._game.powers[power].units)


def _read_choices(game: Game) -> dict[str, OrderChoices]:
    orders = game.get_all_possible_orders()
    builds = game.get_state()["builds"]
    locations = {power: game.get_orderable_locations(power) for power in POWERS}
    return {
        power: order_choices({location: orders[location] for location in locations[power]}, builds[power]["count"])
        for power in POWERS
        if locations[power]
    }


def _phase_key(game: Game) -> Hashable:
    """All that legal orders and prompts depend on: the phase, and the units and centers of every power."""
    state = game.get_state()
    powers = (
        (
            *(tuple(sorted(state[what][power])) for what in ("units", "centers", "homes")),
            tuple((unit, tuple(sorted(targets))) for unit, targets in sorted(state["retreats"][power].items())),
        )
        for power in POWERS
    )
    return state["name"], tuple(powers)


def _read_position(game: Game) -> Position:
    state = game.get_state()
    return Position(
        phase=state["name"],
        units={p: tuple(sorted(unit for unit in state["units"][p] if unit[0] != "*")) for p in POWERS},
        centers={power: tuple(sorted(state["centers"][power])) for power in POWERS},
        retreats={
            power: {unit: tuple(sorted(targets)) for unit, targets in sorted(state["retreats"][power].items())}
            for power in POWERS
        },
        builds={power: state["builds"][power]["count"] for power in POWERS},
    )


def _check_snapshot(snapshot: Mapping[str, Any]) -> None:
    """
    Raises:
        InvalidActionError: it was not taken by a `DiplomacyEnvironment`.
    """
    state = snapshot.get("state")
    if (
        snapshot.get("environment") == "diplomacy"
        and isinstance(snapshot.get("seed"), int)
        and _has_powers(snapshot.get("centers_before"))
        and isinstance(state, Mapping)
        and all(_has_powers(state.get(key)) for key in _STATE_KEYS[2:])
        and _PHASE.fullmatch(str(state.get("name")))
    ):
        return
    raise InvalidActionError(
        f"snapshot of {shown(snapshot.get('environment'))} with keys {shown(list(snapshot))}: only one that "
        "DiplomacyEnvironment.snapshot made can be restored; make a new one"
    )


def _has_powers(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) == set(POWERS)
