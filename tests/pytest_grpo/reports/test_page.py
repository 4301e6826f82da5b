from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pytest_grpo.reports.history import MAX_RUNS, SavedRun
from pytest_grpo.reports.page import render_html, write_html
from pytest_grpo.types import Row
from tests.pytest_grpo.reports.conftest import a_change, an_exact_change

MakeRow = Callable[..., Row]
Page = Callable[[Path | str], str]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
MEASURE = """
<!DOCTYPE html><body>{frames}<script>
onload = () => {{
  for (const frame of document.querySelectorAll("iframe")) {{
    const root = frame.contentDocument.documentElement;
    frame.title = `${{frame.width}} wide shows ${{root.scrollWidth}}`;
  }}
}};
</script></body>
"""


@pytest.fixture
def entries(measured: MakeRow, counted: MakeRow) -> list[tuple[str, Row]]:
    """A row of each sort, text that would be markup, and one that holds nothing."""
    nothing = {"measured": math.nan, "low": math.nan, "high": math.nan, "ratios": [], "arms": {}, "num_pairs": 0}
    band = {"kind": "within", "bound_low": 0.67, "bound_high": 1.5, "threshold": "0.67..1.5", "quantity": None}
    return [
        ("bench/test_two.py::test_batched", measured("batched_speedup")),
        ("bench/test_two.py::test_few", measured("few_pairs", low=0.0, high=math.inf, ratios=[2.5])),
        ("bench/test_three.py::test_calls", counted("tokenizer_calls")),
        ("bench/test_three.py::test_ratio", measured("forward_over_backward", **band, verdict="inconclusive")),
        ("bench/test_five.py::test_evil[<i>&]", measured("<script>alert(1)</script>", phase=None, system="<b>\"'&")),
        ("bench/test_five.py::test_nothing", measured("nothing", **nothing, verdict="inconclusive", reason="no time")),
        ("bench/test_six.py::" + "long_" * 40, measured("unbroken" * 12, threshold=">= " + "9" * 60, unit="u" * 30)),
    ]


def earlier(entries: Sequence[tuple[str, Row]], count: int) -> list[SavedRun]:
    return [
        SavedRun(f"nightly-{number}", f"2026-10-{number % 28 + 1:02}T03:00:00+00:00", f"c0ffee{number}", entries)
        for number in range(count)
    ]


class Pictures(HTMLParser):
    """Collects what a page may not have, and its element names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "xlink:href"}]


def test_page_needs_nothing_else(entries: list[tuple[str, Row]]) -> None:
    text = render_html(entries, {"cpu": "fast"}, earlier(entries, 2))
    page = Pictures()
    page.feed(text)
    assert not {"script", "link", "img", "iframe", "object", "i", "b>"} & set(page.tags)
    assert page.addresses
    assert all(address.startswith("#gate-") for address in page.addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src &#x27;none&#x27;" in text


def test_text_from_outside_is_escaped(entries: list[tuple[str, Row]]) -> None:
    evil = "<script>alert(2)</script>"
    odd = [(nodeid, replace(row, reason=evil, device=evil, source=evil, quantity=evil)) for nodeid, row in entries]
    arms = {evil: {"seconds": [1.0], evil: [2.0]}}
    odd.append((evil, replace(entries[0][1], unit=evil, arms=arms, conditions={evil: [evil]})))
    runs = [SavedRun(evil, evil, evil, [entries[0], *odd])]
    text = render_html(odd, {evil: evil}, runs, created_at=evil)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;script&gt;alert(2)" in text


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_pairs_stand_against_the_threshold(measured: MakeRow) -> None:
    row = measured("speed", ratios=[1.5, 2.5, 2.5, 3.0], low=1.5, high=3.0)
    (svg,) = pictures(render_html([("a.py::test_a", row)], {}, []))
    dots = svg.findall("circle")
    assert [dot.get("class") for dot in dots] == ["dot off", "dot", "dot", "dot"]
    heights = [float(dot.get("cy", "")) for dot in dots]
    edge = svg.find("line[@class='edge']")
    assert edge is not None
    threshold = float(edge.get("y1", ""))
    assert heights[0] > threshold > heights[1] == heights[2] > heights[3]
    # On a logarithmic axis equal ratios are equal distances.
    to_first, to_last = math.log(2.0 / 1.5), math.log(3.0 / 2.0)
    assert (heights[0] - threshold) / (threshold - heights[3]) == pytest.approx(to_first / to_last, abs=0.01)
    assert svg.findtext("title") == "Pairs of speed"
    assert svg.findtext("desc") == "4 pairs, 3 of them within the threshold >= 2 x. Median 2.5 x [1.5, 3]."
    assert svg.get("aria-labelledby", "").split() == [svg[0].get("id"), svg[1].get("id")]


def test_history_holds_the_saved_runs_of_the_same_gate(measured: MakeRow, counted: MakeRow) -> None:
    nodeid = "a.py::test_a"
    worse = measured("speed", measured=1.5, low=1.25, high=1.75, verdict="fail")
    others = [(nodeid, counted("calls")), ("b.py::test_b", measured("speed", measured=9.0))]
    runs = [SavedRun("monday", "2026-10-05T03:00:00Z", "c0ffee", [*others, (nodeid, worse)])]
    runs.append(SavedRun("tuesday", "2026-10-06T03:00:00Z", "", others))
    text = render_html([(nodeid, measured("speed"))], {}, runs)
    _, svg = pictures(text)
    assert svg.findtext("desc") == "2 runs against the threshold >= 2 x: monday 1.5 x fail, this run 2.5 x pass"
    assert [mark.get("class") for mark in svg.findall("g")] == ["then fail", "now pass"]
    assert "c0ffee 2026-10-05 03:00" in text
    assert "tuesday" not in text


def test_the_history_of_an_arm_over_the_reference_has_a_chart_of_its_own(measured: MakeRow) -> None:
    def run_of(seconds: float) -> tuple[str, Row]:
        arms = {"fast": {"seconds": [seconds] * 4}, "reference": {"seconds": [0.5] * 4}}
        return "a.py::test_a", measured("speed", arms=arms, quantity=None)

    text = render_html([run_of(2.0)], {}, [SavedRun("monday", "2026-10-05T03:00:00Z", "", [run_of(1.0)])])
    _, own, over_reference = pictures(text)
    assert own.findtext("title") == "History of speed"
    assert over_reference.findtext("title") == "History of speed:fast/reference"
    assert over_reference.findtext("desc") == "2 runs against the threshold none: monday 2 pass, this run 4 pass"
    assert "<dt>fast/reference</dt><dd>4 [4, 4]</dd>" in text


def test_a_long_history_ends_with_the_latest_runs(measured: MakeRow) -> None:
    entry = ("a.py::test_a", measured("speed"))
    text = render_html([entry], {}, earlier([entry], MAX_RUNS + 5))
    assert len(pictures(text)[1].findall("g")) == MAX_RUNS + 1
    assert "nightly-4<" not in text
    assert f"nightly-{MAX_RUNS + 4}<" in text


@pytest.mark.parametrize(
    ("verdicts", "headline"),
    [
        ([], "No gate gave a verdict"),
        (["pass"], "The gate passes"),
        (["pass", "pass"], "All 2 gates pass"),
        (["pass", "inconclusive"], "No gate fails, 1 of 2 undecided"),
        (["fail", "inconclusive"], "1 of 2 gates fails"),
        (["fail"], "1 of 1 gate fails"),
    ],
)
def test_headline_says_how_it_went(measured: MakeRow, verdicts: list[str], headline: str) -> None:
    text = render_html([("a.py::test_a", measured("speed", verdict=verdict)) for verdict in verdicts], {}, [])
    assert f"<h1>{headline}</h1>" in text


def test_numbers_of_a_gate_are_in_words(measured: MakeRow) -> None:
    text = render_html([("a.py::test_a", measured("speed"))], {"num_cores": "2", "vllm": ""}, [])
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["99.22 % interval"] == "[2.25, 2.75]"
    assert facts["set by"] == "bench/thresholds.toml"
    assert facts["cores used by others"] == "0.25"
    assert (facts["num cores"], facts["vllm"]) == ("2", "-")
    assert "CPU clock, MHz" not in facts
    cell = r'<td class="number">(.*?)</td>'
    medians = re.findall(rf'<th scope="row">([\w ]+)</th>{cell}{cell}', text)
    assert medians == [("tokens per second", "250", "100"), ("seconds", "0.1", "0.25"), ("tokens", "25", "25")]


@pytest.fixture
def changes() -> list[tuple[str, Row]]:
    """A comparison of two versions with a row of each sort."""
    nothing = {"measured": math.nan, "low": None, "high": None, "ratios": [], "num_pairs": None}
    empty = {"here": {"seconds": []}, "main": {"seconds": []}}
    return [
        ("a.py::test_a", a_change("step.tokens_per_second")),
        ("a.py::test_a", a_change("step.seconds", quantity="seconds", outcome="same", verdict="pass")),
        ("a.py::test_a", an_exact_change("step.num_passes")),
        ("a.py::test_b", an_exact_change("step.answers", outcome="differs", measured=math.nan)),
        ("a.py::test_b", a_change("b.seconds", **nothing, arms=empty, outcome="inconclusive", verdict="inconclusive")),
        ("a.py::test_c", a_change("c.tokens_per_second", outcome="faster", verdict="pass")),
    ]


def test_versions_say_what_was_found_and_nothing_of_a_threshold(changes: list[tuple[str, Row]]) -> None:
    text = render_html(changes, {}, earlier(changes, 2))
    assert "<h1>here over main: 1 faster, 1 slower, 1 same, 1 more, 1 differs, 1 inconclusive</h1>" in text
    badges = re.findall(r'class="badge (\w+)"><span aria-hidden="true">.</span> ([\w ]+)<', text.partition("<main>")[2])
    found = [("fail", "slower"), ("neutral", "same"), ("neutral", "more"), ("neutral", "differs")]
    found += [("inconclusive", "inconclusive"), ("pass", "faster")]
    assert badges == [*found, *found]  # in the table, and on the cards
    body = text.partition("<body>")[2]
    assert not re.findall(r"threshold|gates?\b(?!-)|pass\b(?!\")|verdict", body)
    assert "History" not in body


def test_versions_show_the_values_of_both_sides(changes: list[tuple[str, Row]]) -> None:
    text = render_html(changes[:1], {}, [])
    head = re.findall(r'<th scope="col"(?: class="wide")?>([\w ]+)</th>', text)
    assert head == ["quantity", "here", "main", "here over main", "outcome", "median of", "here", "main"]
    assert '<td class="wide number">80</td><td class="wide number">100</td>' in text
    ratios, sides = pictures(text)
    assert ratios.findtext("desc") == "4 pairs. Median 0.8 [0.75, 0.85]: slower."
    assert [dot.get("class") for dot in ratios.findall("circle")] == ["dot"] * 4
    assert "0.95..1.05" in text  # what counts as the same
    assert [dot.get("class") for dot in sides.findall("circle")] == ["dot off", "dot"] * 4
    heights = [float(dot.get("cy", "")) for dot in sides.findall("circle")]
    assert all(mine > its for its, mine in zip(heights[::2], heights[1::2], strict=True))  # less is further down


def test_a_row_without_pairs_has_no_chart(changes: list[tuple[str, Row]]) -> None:
    assert pictures(render_html(changes[2:5], {}, [])) == []


def test_gates_of_this_side_come_after_the_versions(changes: list[tuple[str, Row]], counted: MakeRow) -> None:
    text = render_html([("a.py::test_a", counted("calls")), *changes[:1]], {}, [])
    assert "<h1>here over main: 1 slower. 1 of 1 gate fails</h1>" in text
    assert text.index('id="versions"') < text.index('id="overview"')
    links = re.findall(r'href="#(gate-\d+)">(.*?)</a>', text.partition("<main>")[2])
    cards = dict(re.findall(r'<h3 id="(gate-\d+)">(.*?) <span', text))
    assert [cards[anchor] for anchor, _ in links] == ["step.tokens_per_second", "calls"]


def test_text_of_versions_is_escaped(changes: list[tuple[str, Row]]) -> None:
    evil = "<script>alert(2)</script>"
    odd = [
        (evil, replace(row, reason=evil, device=evil, source=evil, metric=evil, threshold=evil, arms=arms))
        for _, row in changes
        for arms in (None, {evil: {"seconds": [1.0]}, f"{evil}b": {"seconds": [2.0]}})
    ]
    text = render_html(odd, {}, [])
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(2)") > len(odd)


def test_page_is_written_whole(entries: list[tuple[str, Row]], tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    write_html(target, [*entries, ("a\udcff.py::test_a", entries[0][1])], {}, [])
    text = target.read_text(encoding="utf-8")
    assert text.endswith("</html>")
    assert "a\\udcff.py" in text
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


@pytest.fixture
def chromium(tmp_path: Path) -> Page:
    """Opens a file and gives its DOM; the browser must not complain."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")

    def opened(file: Path | str) -> str:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *FLAGS, profile, "--dump-dom", Path(file).as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return opened


def test_a_browser_shows_every_gate(entries: list[tuple[str, Row]], tmp_path: Path, chromium: Page) -> None:
    report = tmp_path / "report.html"
    write_html(report, entries, {"cpu": "fast"}, earlier(entries, 3))
    document = chromium(report)
    shown = re.findall(r'<h3 id="gate-(\d+)">(.*?) <span', document)
    assert shown == [(str(number), html.escape(row.metric)) for number, (_, row) in enumerate(entries)]
    assert document.count("<svg") == len(pictures(render_html(entries, {}, earlier(entries, 3))))


@pytest.mark.parametrize("has_versions", [False, True])
def test_page_fits_phones_and_desktops(
    entries: list[tuple[str, Row]],
    changes: list[tuple[str, Row]],
    tmp_path: Path,
    chromium: Page,
    has_versions: bool,
) -> None:
    long = [("long_" * 40, a_change("unbroken" * 12, reason="w" * 200))]
    shown = [*entries, *changes, *long] if has_versions else entries
    text = html.escape(render_html(shown, {"cpu": "f" * 200}, earlier(entries, 3)))
    widths = (400, 720, 1200)
    frames = "".join(
        f'<iframe width="{width}" height="600" frameborder="0" srcdoc="{text}"></iframe>' for width in widths
    )
    around = tmp_path / "around.html"
    around.write_text(MEASURE.format(frames=frames), encoding="utf-8")
    found = re.findall(r'title="(\d+) wide shows (\d+)"', chromium(around))
    assert [int(width) for width, _ in found] == list(widths)
    assert all(int(needed) <= int(width) for width, needed in found), found
