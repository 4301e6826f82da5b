from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import make_environment_factory
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.errors import ConfigError, GrpoError, MissingPackageError


def _key(**values: object) -> str:
    return make_environment_factory(EnvironmentConfig.model_validate(values)).key


def test_the_two_built_in_environments() -> None:
    assert isinstance(make_environment_factory(EnvironmentConfig())(), ArithmeticEnvironment)
    diplomacy = make_environment_factory(EnvironmentConfig(name="diplomacy", compact_prompts=True, opening_years=2))()
    assert isinstance(diplomacy, DiplomacyEnvironment)
    assert diplomacy.in_opening
    assert len(diplomacy.observe()[0].prompt) < 1000


def test_every_call_makes_an_environment_of_its_own() -> None:
    factory = make_environment_factory(EnvironmentConfig(name="diplomacy"))
    first, second = factory(), factory()
    first.step({observation.agent: "" for observation in first.observe()})
    assert first.observe() != second.observe()


def test_the_key_has_what_an_opening_depends_on_and_nothing_else() -> None:
    base = _key(name="diplomacy")
    assert base == "diplomacy engine=1.1.2 opening_years=0 prompts=full"
    assert _key(name="diplomacy", horizon=5) == base
    assert _key(name="diplomacy", use_state_cache=True) != base
    assert _key(name="diplomacy", opening_years=2) != base
    assert _key(name="diplomacy", compact_prompts=True) != base
    assert _key(name="arithmetic", max_operand=3) != _key(name="arithmetic")


def test_an_environment_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("my_environments.py").write_text(
        "from grpo_core.environments.arithmetic import ArithmeticEnvironment\n"
        "LIMIT = 3\n"
        "def hard(config):\n"
        "    return ArithmeticEnvironment(max_operand=config.max_operand * 11)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    factory = make_environment_factory(EnvironmentConfig(name="my_environments:hard", max_operand=9))
    assert isinstance(factory(), ArithmeticEnvironment)
    assert factory.key != _key(name="my_environments:hard", max_operand=8)
    with pytest.raises(ConfigError, match="'my_environments:LIMIT' is of type int, which cannot be called"):
        make_environment_factory(EnvironmentConfig(name="my_environments:LIMIT"))
    with pytest.raises(ConfigError, match="'my_environments' has no 'easy'; give package"):
        make_environment_factory(EnvironmentConfig(name="my_environments:easy"))


def test_settings_of_its_own_and_the_tokenizer_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("own_settings_of_test.py").write_text(
        dedent("""
            from grpo_core.environments.arithmetic import ArithmeticEnvironment

            class Game(ArithmeticEnvironment):
                def __init__(self, config, words, limit=3, *, tokenizer):
                    super().__init__()
                    self.given = (words, limit, tokenizer)
        """)
    )
    monkeypatch.chdir(tmp_path)  # the working folder is on the import path

    def given(**settings: object) -> object:
        config = EnvironmentConfig.model_validate({"name": "own_settings_of_test:Game", "settings": settings})
        return make_environment_factory(config, "the tokenizer")().given  # type: ignore[attr-defined]

    assert given(words=["a", "b"]) == (["a", "b"], 3, "the tokenizer")
    assert given(words="a", limit=4) == ("a", 4, "the tokenizer")
    with pytest.raises(ConfigError, match=r"environment\.settings\.wrds: .* has no such setting; it has words, limit$"):
        given(words="a", wrds="b")
    with pytest.raises(
        ConfigError, match=r"environment\.settings\.words: .* needs it, and it is not set; add --set env"
    ):
        given()
    with pytest.raises(ConfigError, match=r"environment\.settings\.tokenizer: the run's tokenizer has that name"):
        given(words="a", tokenizer="b")
    with pytest.raises(ConfigError, match=r"environment\.settings\.words: environment\.name 'arithmetic' has no sett"):
        make_environment_factory(EnvironmentConfig(settings={"words": 1}))


BROKEN = {
    "takes_nothing": """
        class Echo:
            def __init__(self):
                pass
    """,
    "takes_more": """
        def Echo(config, rules):
            pass
    """,
    "takes_its_settings_first": """
        def Echo(words, config):
            pass
    """,
    "is_a_partial": """
        from functools import partial
        def make():
            pass
        Echo = partial(make)
    """,
    "raises": """
        class Echo:
            def __init__(self, config):
                self.words = []
                self.word = self.words[config.horizon]
    """,
    "is_no_python": """
        class Echo
    """,
    "fails_at_import": """
        WORDS = {}
        WORD = WORDS["army"]
    """,
    "needs_a_package": """
        import no_such_package
    """,
    "ends_the_process": """
        RESULT = 0
        raise SystemExit(RESULT)
    """,
}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("takes_nothing", "it must take the EnvironmentConfig first; write def __init__(self, config) (too "
         "many positional arguments)"),
        ("takes_more", "environment.settings.rules: environment.name 'takes_more:Echo' needs it, and it is not set"),
        ("takes_its_settings_first", "it must take the EnvironmentConfig first; write def Echo(config)"),
        ("is_a_partial", "it must take the EnvironmentConfig first; write def Echo(config) (too many positional"),
        ("raises", "making one failed with IndexError: list index out of range (raises.py, line 5); fix it"),
        ("is_no_python", "importing 'is_no_python' failed with SyntaxError: expected ':' (is_no_python.py, line 2)"),
        ("fails_at_import", "failed with KeyError: 'army' (fails_at_import.py, line 3); fix that module"),
        ("needs_a_package", "importing 'needs_a_package' failed with ModuleNotFoundError: No module named "
         "'no_such_package' (needs_a_package.py, line 2); fix that module"),
        ("ends_the_process", "importing 'ends_the_process' failed with SystemExit: 0 (ends_the_process.py, line 3)"),
    ],
)  # fmt: skip
def test_an_environment_with_a_fault_is_one_line_that_names_it(
    module: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath(f"{module}.py").write_text(dedent(BROKEN[module]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GrpoError) as caught:
        make_environment_factory(EnvironmentConfig(name=f"{module}:Echo"))()

    assert f"environment.name '{module}:Echo'" in str(caught.value)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["no_such_module:make", ":make", "json:", ".json:loads", "a..b:c", "a b:c", "\udcff:x"]
)
def test_a_factory_that_cannot_be_imported(name: str) -> None:
    with pytest.raises(ConfigError, match=r"give package\.module:factory") as caught:
        make_environment_factory(EnvironmentConfig(name=name))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_names_the_allowed_ones() -> None:
    allowed = "arithmetic, dataset, diplomacy, reasoning_gym:TASK, verifiers:NAME, or package"
    with pytest.raises(ConfigError, match=f"'chess' is not known; allowed: {allowed}") as caught:
        make_environment_factory(EnvironmentConfig(name="chess"))
    assert "\n" not in str(caught.value)


def test_without_the_engine_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diplomacy", None)  # Python's own way to say that a package is not there
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-grpo\[diplomacy\]'.*uv sync --extra") as caught:
        make_environment_factory(EnvironmentConfig(name="diplomacy"))
    assert "\n" not in str(caught.value)
    make_environment_factory(EnvironmentConfig())()


def test_a_game_plays_with_all_warnings_as_errors_and_imports_no_torch() -> None:
    script = (
        "import sys\n"
        "from grpo_core.environments import make_environment_factory as make\n"
        "from grpo_core.config import EnvironmentConfig\n"
        "assert 'diplomacy' not in sys.modules\n"
        "game = make(EnvironmentConfig(name='diplomacy'))()\n"
        "game.step({o.agent: '' for o in game.observe()})\n"
        "assert 'torch' not in sys.modules\n"
        "print(game.phase)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("F1901M", "")


def test_a_factory_without_settings_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("no_settings_of_test.py").write_text("def make(config): ...\ndef take(config, **settings): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"words": 1}
    with pytest.raises(ConfigError, match=r"^environment\.settings\.words: .* has no settings; leave it out$"):
        make_environment_factory(EnvironmentConfig(name="no_settings_of_test:make", settings=settings))
    make_environment_factory(EnvironmentConfig(name="no_settings_of_test:take", settings=settings))
