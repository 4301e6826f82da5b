"""The page in a real browser, where one can be had: a run is watched while it trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from grpo_core.dashboard.server import Server
from grpo_core.home import Home
from grpo_core.model.tokenizer import Tokenizer
from tests.grpo_core.dashboard.conftest import WriteRun, event, store_samples

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = Path(__file__).parents[3] / "grpo_core/dashboard/page"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
DESKTOP, PHONE = (1280, 900), (360, 740)
WAIT_MS = 60_000


def test_text_never_becomes_markup() -> None:
    """Elements are made in dom.js alone, from text nodes."""
    for path in PAGE.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        ways = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|\beval\b|new Function|srcdoc"
        assert not re.search(ways, source), path.name
        assert path.name == "dom.js" or "createElement" not in source, path.name


def test_the_page_names_no_other_host() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|url\((?!#)|@import", text), path.name


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def url(home: Home) -> Iterator[str]:
    with Server(home, "127.0.0.1", 0, with_token=False) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        yield server.url
        server.stop()
        thread.join()


def opened(browser: Browser, url: str, size: tuple[int, int], complaints: list[str], scheme: str = "light") -> Page:
    """A page whose console, errors and requests to elsewhere are put into ``complaints``."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
    page.goto(url)
    return page


def is_too_wide(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


HELD = """
import time
from pathlib import Path
from grpo_core.environments.arithmetic import ArithmeticEnvironment

class Held(ArithmeticEnvironment):
    num_answers = 0

    def __init__(self, config):
        super().__init__()

    def step(self, actions):
        Held.num_answers += 1
        while Held.num_answers > 4 * 8 and not Path("go").exists():
            time.sleep(0.01)
        super().step(actions)
"""


def train(home: Home, folder: Path) -> subprocess.Popen[str]:
    """A run of six steps, which waits after four batches until there is the file ``go`` in ``folder``."""
    (folder / "held.py").write_text(HELD)
    settings = ["--steps", "6", "--groups", "2", "--samples", "4", "--environment", "held:Held", "--model", "tiny"]
    return subprocess.Popen(
        [sys.executable, "-m", "grpo_core.cli", "train", *settings, "--device", "cpu", "--run", "watched"],
        cwd=folder,
        env={**os.environ, "GRPO_HOME": str(home.data.parent), "WANDB_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_run_is_watched_from_its_first_step_to_its_last(
    browser: Browser, home: Home, url: str, tmp_path: Path
) -> None:
    complaints: list[str] = []
    pages = [opened(browser, url, DESKTOP, complaints), opened(browser, url, PHONE, complaints, "dark")]
    for page in pages:
        page.get_by_text("No run yet").wait_for()
    run = train(home, tmp_path)
    for page in pages:
        page.get_by_role("link", name="watched").click()
        page.locator(".headline .badge[data-status=running]").wait_for()
        page.get_by_role("group", name="Reward").locator("path.line").first.wait_for()
    (tmp_path / "go").touch()
    assert run.wait() == 0, run.stderr and run.stderr.read()
    assert run.stderr is not None
    run.stderr.close()
    for page in pages:
        page.locator(".headline .badge[data-status=done]").wait_for()
        page.locator(".tiles dd b", has_text=re.compile("^6$")).wait_for()
        assert page.locator("svg .span.wait").count() > 0
        for title in ("Loss", "Policy lag", "Buffer depth", "Inference throughput", "Use", "Thread trainer-0/train"):
            assert page.get_by_role("group", name=title, exact=True).locator("svg").last.is_visible()
        assert not is_too_wide(page)
    for page in pages:
        page.get_by_role("button", name="What would give time back?").click()
        page.locator(".advice .card, .advice .wrong").first.wait_for()
        assert not is_too_wide(page)
    pages[0].get_by_role("button", name="Show samples").click()
    pages[0].locator(".siblings pre").first.wait_for()
    assert complaints == []


@pytest.mark.slow
def test_what_events_and_environments_say_is_shown_as_text(
    browser: Browser, home: Home, url: str, write_run: WriteRun, tokenizer: Tokenizer
) -> None:
    path = write_run("first")
    with path.open("a") as file:
        start = event("run_started", 9.0, preset=HOSTILE, environment=HOSTILE, num_steps=4)
        use = event("gpu_stats", 9.0, source="nvml", device_index=HOSTILE, device_name=HOSTILE, utilization_percent=5.0)
        file.write(f"{json.dumps(start)}\n{json.dumps(use)}\n" + '{"kind": "train_step", "step": 5, "rew')
    store_samples(home, tokenizer, 1, [0.0, 1.0], HOSTILE, HOSTILE, run="first", group=HOSTILE)
    verdicts = home.data / "baselines"
    verdicts.mkdir(parents=True)
    row = {
        "metric": HOSTILE,
        "verdict": HOSTILE,
        "measured": 1.0,
        "threshold": HOSTILE,
        "unit": HOSTILE,
        "system": HOSTILE,
    }
    (verdicts / "x.json").write_text(json.dumps({"name": HOSTILE, "created_at": HOSTILE, "results": [[HOSTILE, row]]}))
    complaints: list[str] = []
    page = opened(browser, url, PHONE, complaints)
    page.get_by_role("link", name="first").click()
    page.get_by_text(HOSTILE).first.wait_for()
    page.get_by_role("button", name="Show samples").click()
    page.locator(".siblings pre").filter(has_text=HOSTILE).first.wait_for()
    assert page.locator(".siblings .reward b").all_inner_texts() == ["0", "1"]
    page.get_by_role("link", name="Verdicts").click()
    page.get_by_text(HOSTILE).first.wait_for()
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Verdicts, grpo"
    assert not is_too_wide(page)
    assert complaints == []


@pytest.mark.slow
def test_the_keyboard_reaches_everything(browser: Browser, url: str, write_run: WriteRun) -> None:
    write_run("a", 6, asked=6)
    write_run("b", 6, asked=6)
    complaints: list[str] = []
    page = opened(browser, url, DESKTOP, complaints)
    for name in ("a", "b"):
        page.get_by_label(f"compare {name}").focus()
        page.keyboard.press("Space")
    page.get_by_role("link", name="Compare").focus()
    page.keyboard.press("Enter")
    chart = page.get_by_role("group", name="Reward")
    chart.focus()
    page.keyboard.press("Home")
    chart.get_by_text("at step 1").wait_for()
    page.keyboard.press("ArrowRight")
    chart.get_by_text("at step 2").wait_for()
    assert chart.locator(".legend li").all_inner_texts() == ["a\n0.2", "b\n0.2"]
    page.keyboard.press("Escape")
    page.get_by_role("link", name="a", exact=True).focus()
    page.keyboard.press("Enter")
    lanes = page.get_by_role("group", name="The last steps")
    lanes.focus()
    page.keyboard.press("ArrowRight")
    lanes.get_by_text("train: wait for a batch, 0.5 s").wait_for()
    assert complaints == []


@pytest.mark.slow
def test_a_run_that_is_removed_and_a_server_that_ends_are_said(
    browser: Browser, home: Home, write_run: WriteRun
) -> None:
    path = write_run("first")
    with Server(home, "127.0.0.1", 0, with_token=False) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        page = opened(browser, server.url, DESKTOP, [])
        page.get_by_role("link", name="first").click()
        page.locator(".tiles").wait_for()
        path.unlink()
        page.get_by_text("No such run").wait_for()
        server.stop()
        thread.join()
    page.get_by_text("is grpo dashboard still running?").wait_for()
