from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from grpo_core.environments.diplomacy.board import POWERS
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.errors import InvalidActionError
from grpo_core.types import Observation

Player = Callable[[random.Random, Observation], str]


def _play(environment: DiplomacyEnvironment, player: Player, seed: int) -> Iterator[dict[str, str]]:
    """Play to the end; yields the answers of each phase before they are given."""
    rng = random.Random(seed)
    while not environment.done:
        actions = {observation.agent: player(rng, observation) for observation in environment.observe()}
        yield actions
        environment.step(actions)


def test_games_go_through_all_kinds_of_phases_with_legal_orders_only(play_at_random: Player) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(4):
        environment = DiplomacyEnvironment(horizon=5, compact_prompts=True)
        environment.reset(seed)
        for actions in _play(environment, play_at_random, seed):
            kinds[environment.position.kind] += 1
            assert actions
            assert environment.observe() is environment.observe()
            segments = [lines for each in environment.observe() for lines in each.choices or ()]
            assert all(line.find("\n") == len(line) - 1 for lines in segments for line in lines)
            assert all(list(lines) == sorted(lines, key=str.strip) for lines in segments)
        assert environment.num_refused_lines <= 2  # builds that named one site twice
        assert environment.done
        assert environment.phase == "S1906M"
        assert environment.observe() == ()
    assert set(kinds) == {"movement", "retreat", "adjustment"}
    assert kinds["retreat"] >= 3


def test_no_legal_order_is_lost_or_invented(play_at_random: Player) -> None:
    """Against the engine itself: what it lists for each unit, and what it takes without an error."""
    environment = DiplomacyEnvironment(horizon=4, compact_prompts=True)
    from diplomacy.engine.game import Game  # its files are open by now

    game = Game()
    for actions in _play(environment, play_at_random, seed=9):
        game.set_state(environment.snapshot()["state"])
        legal = game.get_all_possible_orders()
        observed = {observation.agent: observation for observation in environment.observe()}
        for power in POWERS:
            locations = game.get_orderable_locations(power)
            assert (power in observed) == bool(locations)
            if power in observed:
                expected = {f"{order}\n" for location in locations for order in legal[location]}
                assert {line for lines in observed[power].choices or () for line in lines} == expected
                game.clear_orders(power)
                game.set_orders(power, actions[power].splitlines())
        assert environment.position.kind == "adjustment" or not game.error


def test_segments_have_one_unit_each_in_the_order_of_locations() -> None:
    environment = DiplomacyEnvironment()
    france = environment.observe()[POWERS.index("FRANCE")]
    assert france.agent == "FRANCE"
    assert france.choices is not None
    assert [lines[0][:5] for lines in france.choices] == ["F BRE", "A MAR", "A PAR"]
    assert france.choices[2] == (
        "A PAR - BRE\n",
        "A PAR - BUR\n",
        "A PAR - GAS\n",
        "A PAR - PIC\n",
        "A PAR H\n",
        "A PAR S A MAR - BUR\n",
        "A PAR S A MAR - GAS\n",
        "A PAR S A MUN - BUR\n",
        "A PAR S F BRE\n",
        "A PAR S F BRE - GAS\n",
        "A PAR S F BRE - PIC\n",
    )


def test_equal_answers_play_equal_games(play_at_random: Player) -> None:
    games = []
    for _ in range(2):
        environment = DiplomacyEnvironment(horizon=2)
        environment.reset(5)
        actions = list(_play(environment, play_at_random, seed=1))
        games.append((actions, environment.snapshot(), environment.rewards()))
    assert games[0] == games[1]


def test_a_restored_game_goes_on_alike_in_every_phase(play_at_random: Player) -> None:
    restored = DiplomacyEnvironment(horizon=3, compact_prompts=True)
    kinds = set()
    for seed in range(2):
        environment = DiplomacyEnvironment(horizon=3, compact_prompts=True)
        environment.reset(seed)
        for actions in _play(environment, play_at_random, seed):
            if environment.phase.startswith("S1901"):
                continue
            kinds.add(environment.position.kind)
            snapshot = environment.snapshot()
            text = json.dumps(snapshot)
            restored.restore(json.loads(text))
            twin = DiplomacyEnvironment(horizon=3, compact_prompts=True)
            twin.restore(snapshot)
            assert restored.observe() == environment.observe()
            restored.step(actions)
            twin.step(actions)
            assert json.dumps(snapshot) == text, "a game changed the snapshot that it was restored from"
            assert restored.snapshot() == twin.snapshot()
            expected = DiplomacyEnvironment(horizon=3, compact_prompts=True)
            expected.restore(json.loads(text))
            expected.step(actions)
            assert restored.snapshot() == expected.snapshot()
        last = environment.snapshot()
        restored.restore(last)
        assert restored.done
        assert restored.rewards() == environment.rewards()
        assert restored.seed == seed
    assert kinds == {"movement", "retreat", "adjustment"}


def test_a_game_restored_once_ends_like_the_one_that_was_never_left(play_at_random: Player) -> None:
    environment = DiplomacyEnvironment(horizon=3, compact_prompts=True)
    snapshots, answers = [], []
    for actions in _play(environment, play_at_random, seed=4):
        snapshots.append(environment.snapshot())
        answers.append(actions)
    for start in range(0, len(answers), 3):
        restored = DiplomacyEnvironment(horizon=3, compact_prompts=True)
        restored.restore(snapshots[start])
        for actions in answers[start:]:
            restored.step(actions)
        assert restored.snapshot() == environment.snapshot()


def test_the_opening_is_played_first_and_not_rewarded(play_at_random: Player) -> None:
    environment = DiplomacyEnvironment(horizon=1, opening_years=2, compact_prompts=True)
    openings = set()
    for _ in _play(environment, play_at_random, seed=2):
        openings.add((environment.phase[1:5], environment.in_opening))
        if environment.phase == "S1903M":
            assert environment.rewards() == dict.fromkeys(POWERS, 0.0)
            assert environment.snapshot()["centers_before"] == {
                power: len(centers) for power, centers in environment.position.centers.items()
            }
    assert openings == {("1901", True), ("1902", True), ("1903", False)}


def test_answers_that_are_not_orders_are_counted_and_the_units_hold() -> None:
    environment = DiplomacyEnvironment()
    before = environment.position.units
    answer = "I attack!\nA PAR - MOS\nA PAR - BUR\nA PAR - PIC\n  a mar h\n\n"
    environment.step({power: answer if power == "FRANCE" else "" for power in POWERS})
    after = environment.position.units
    assert environment.num_refused_lines == 4
    assert after["FRANCE"] == ("A BUR", "A MAR", "F BRE")
    assert {p: after[p] for p in POWERS if p != "FRANCE"} == {p: before[p] for p in POWERS if p != "FRANCE"}
    environment.reset(0)
    assert environment.num_refused_lines == 0
    assert environment.position.units == before


def test_centers_gained_and_built_on() -> None:
    environment = DiplomacyEnvironment(horizon=1)
    environment.step({power: "F KIE - DEN\nA MUN - RUH\n" if power == "GERMANY" else "" for power in POWERS})
    environment.step({power: "A RUH - HOL\n" if power == "GERMANY" else "" for power in POWERS})
    assert environment.phase == "W1901A"
    (observation,) = environment.observe()
    assert observation.agent == "GERMANY"
    assert observation.choices is not None
    assert len(observation.choices) == 2
    assert environment.rewards()["GERMANY"] == pytest.approx(2 / 18)
    assert environment.rewards()["FRANCE"] == 0.0
    environment.step({"GERMANY": "F KIE B\nA KIE B\n"})  # the second one has no site left
    assert environment.num_refused_lines == 1
    assert environment.done
    assert environment.position.units["GERMANY"] == ("A BER", "A HOL", "F DEN", "F KIE")


def test_a_conquered_power_is_no_longer_asked_and_loses_all() -> None:
    environment = DiplomacyEnvironment(horizon=3)
    snapshot = environment.snapshot()
    state = snapshot["state"]
    state["name"] = "F1901M"
    state["units"] |= {"ITALY": ["A PIE", "A TYR", "A BOH"], "AUSTRIA": []}
    state["centers"] |= {"AUSTRIA": ["VIE"]}
    environment.restore(snapshot)
    answers = {observation.agent: "" for observation in environment.observe()}
    assert "AUSTRIA" not in answers
    environment.step(answers | {"ITALY": "A TYR - VIE\n"})
    assert environment.rewards()["AUSTRIA"] == -1.0
    assert environment.rewards()["ITALY"] == pytest.approx(1 / 18)
    while not environment.done:
        assert "AUSTRIA" not in {observation.agent for observation in environment.observe()}
        environment.step({observation.agent: "" for observation in environment.observe()})
    assert set(environment.rewards()) == set(POWERS)


def test_a_victory_ends_the_game_before_the_horizon() -> None:
    environment = DiplomacyEnvironment(horizon=5)
    snapshot = environment.snapshot()
    state = snapshot["state"]
    centers = {power: list(state["centers"][power]) for power in POWERS}
    taken = centers["ENGLAND"] + centers["GERMANY"] + centers["ITALY"] + centers["AUSTRIA"] + centers["TURKEY"][:2]
    state["name"] = "F1901M"
    state["centers"] |= {"FRANCE": centers["FRANCE"] + taken, "ENGLAND": [], "GERMANY": [], "ITALY": []}
    state["centers"] |= {"AUSTRIA": [], "TURKEY": ["SMY"]}
    state["units"] |= {"FRANCE": ["A GAS"], "ENGLAND": [], "GERMANY": [], "ITALY": [], "AUSTRIA": []}
    state["units"]["TURKEY"] = ["A SMY"]
    environment.restore(snapshot)
    environment.step({observation.agent: "A GAS - SPA\n" for observation in environment.observe()})
    assert environment.phase == "COMPLETED"
    assert environment.done
    assert not environment.in_opening
    assert environment.observe() == ()
    assert environment.rewards()["FRANCE"] == pytest.approx(15 / 18)
    over = DiplomacyEnvironment(horizon=5)
    over.restore(json.loads(json.dumps(environment.snapshot())))
    assert over.done
    assert over.rewards() == environment.rewards()


def test_a_missing_answer_is_refused_and_plays_nothing() -> None:
    environment = DiplomacyEnvironment()
    with pytest.raises(InvalidActionError, match="no answer for ENGLAND in S1901M; answer for each of: AUSTRIA"):
        environment.step({"AUSTRIA": "A VIE - TRI\n"})
    assert environment.phase == "S1901M"


@pytest.mark.parametrize(
    "change",
    [
        {"environment": "arithmetic"},
        {"seed": "3"},
        {"centers_before": {}},
        {"state": None},
        {"state": {"name": "S1901M"}},
    ],
)
def test_a_strange_snapshot_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    environment = DiplomacyEnvironment()
    before = environment.snapshot()
    with pytest.raises(InvalidActionError, match="make a new one"):
        environment.restore({**before, **change})
    with pytest.raises(InvalidActionError, match="make a new one"):
        environment.restore({**before, "state": {**before["state"], "name": "nonsense"}})
    assert environment.snapshot() == before
