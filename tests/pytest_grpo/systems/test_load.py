from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_grpo.systems.load import find_system, load_system, system_names
from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings

STACK = """
from pytest_grpo.systems.protocol import GrpoSystem

class Stack(GrpoSystem):
    name = "from_outside"

    def __init__(self, settings):
        self.settings = settings

def nothing(settings):
    return settings.home

class Loose(Stack):
    logprob_tolerance = 3.0

class NotANumber(Stack):
    logprob_tolerance = float("nan")

number = 3
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with systems; one tries to take a built-in name."""
    (tmp_path / "outside_stack.py").write_text(STACK)
    metadata = tmp_path / "outside_stack-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-stack\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[pytest_grpo.systems]\nfrom_outside = outside_stack:Stack\ngrpo_core = outside_stack:Stack\n"
        "broken = outside_stack:Absent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("name", ["from_outside", "outside_stack:Stack"])
def test_a_system_from_outside(name: str, tmp_path: Path) -> None:
    settings = SystemSettings(home=tmp_path, lora_rank=3)
    system = load_system(name, settings)
    assert isinstance(system, GrpoSystem)
    assert system.name == "from_outside"
    assert system.settings is settings  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.usefixtures("outside")
def test_built_in_names_stay() -> None:
    from pytest_grpo.systems.grpo_core import GrpoCoreSystem

    assert {"grpo_core", "trl", "from_outside"} <= set(system_names())
    assert find_system("grpo_core") is GrpoCoreSystem


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("verl", "system 'verl': no such system; choose one of broken, from_outside, grpo_core, trl, or"),
        ("broken", "system 'broken': cannot import outside_stack:Absent ("),
        ("absent_module:build", "system 'absent_module:build': cannot import absent_module:build (No module named"),
        ("a-b:c", "system 'a-b:c': cannot import a-b:c ("),
        ("outside_stack:number", "system 'outside_stack:number': outside_stack:number is not callable"),
        ("outside_stack:nothing", "its factory returned PosixPath, which lacks methods of GrpoSystem"),
        (
            "outside_stack:Loose",
            "system 'outside_stack:Loose': logprob_tolerance 3.0 nats: allowed are 0 to 0.1; state",
        ),
        (
            "outside_stack:NotANumber",
            "logprob_tolerance nan nats: allowed are 0 to 0.1; state what its precision costs",
        ),
    ],
)
def test_what_is_no_system_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError) as raised:
        load_system(name, SystemSettings(home=tmp_path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_impossible_setting_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match=r"^system 'grpo_core': model 'huge': no such preset or folder; "):
        load_system("grpo_core", SystemSettings(home=tmp_path, model="huge"))


@pytest.mark.skipif(find_spec("trl") is not None, reason="the package trl is installed")
def test_trl_without_its_package_says_how_to_get_it() -> None:
    with pytest.raises(
        pytest.UsageError,
        match=r"not installed; run: pip install 'pytest-grpo\[trl\]'",
    ):
        find_system("trl")
