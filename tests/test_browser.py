"""The page in a real browser: Debian's chromium, a real server, the sine engine. Nothing may go out to other hosts.

`STUDIO_SCREENSHOTS=assets/screenshots pytest tests/test_browser.py -k picture` takes the README's pictures, of
the bundled model at work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from studio import Settings, Studio
from studio.api.server import serving
from studio.engine.base import LoadProgress
from tests.fakes import SineEngine
from tests.serving import Served, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000
NASTY = "<b>${alert(1)}</b> `tick` {{mustache}} \\ \"double\" 'single'"
STEP_S = 0.04


def load_audible(model: str, progress: LoadProgress) -> SineEngine:
    """Slow enough to be watched: a second of audio takes four tenths of one."""
    return SineEngine(model, slots=2, step_s=STEP_S)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Skips where there is no chromium; STUDIO_REQUIRE_SERVICES=1 makes that a failure."""
    if not CHROMIUM.exists():
        missing = pytest.fail if os.environ.get("STUDIO_REQUIRE_SERVICES") == "1" else pytest.skip
        missing(f"there is no {CHROMIUM}")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data"), load_audible) as running:
        yield running


@dataclass
class Complaints:
    """What a page must not do: log errors, ask other hosts."""

    origin: str
    heard: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.heard.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.heard.append(f"foreign: {request.url}")


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """One for all tests, since its cache makes the page quick to load."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, place: Served) -> Iterator[Page]:
    """The page as a new visitor sees it; it must not complain until the end."""
    page = context.new_page()
    complaints = Complaints(place.url)
    complaints.listen(page)
    visit(page, place.url)
    yield page
    page.evaluate("localStorage.clear()")
    page.close()
    assert complaints.heard == []


def visit(page: Page, url: str) -> None:
    page.goto(url)
    page.locator("#prompt textarea").wait_for()
    page.wait_for_function("window.studio && document.querySelector('.cards, .empty')")


def generate(page: Page, prompt: str, *, wait: str = "") -> str:
    """Type a prompt, press Ctrl+Enter; the id of the job that appears (and has reached the status `wait`)."""
    known = page.locator("#composer ~ * .card").count()
    page.fill("#prompt textarea", prompt)
    page.press("#prompt textarea", "Control+Enter")
    expect(page.locator(".card")).to_have_count(known + 1)
    job_id = page.locator(".card").first.get_attribute("data-key")
    assert job_id
    if wait:
        page.wait_for_selector(card(job_id, wait))
    return job_id


def card(job_id: str, status: str) -> str:
    return f'.card[data-key="{job_id}"][data-status="{status}"]'


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_a_prompt_becomes_music_that_plays(page: Page) -> None:
    job_id = generate(page, "sad piano", wait="completed")
    player = page.locator(f"{card(job_id, 'completed')} studio-player")
    page.wait_for_function("document.querySelector('.card audio').duration > 0")
    assert page.evaluate("document.querySelector('.card audio').duration") == pytest.approx(8.0, abs=0.1)
    expect(player.locator(".wave.drawn")).to_be_visible()
    player.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.card audio').currentTime > 0")
    expect(player.get_by_role("button", name="Pause")).to_be_visible()


def test_the_download_has_a_name_that_says_what_it_is(page: Page) -> None:
    generate(page, "Sad piano, slow", wait="completed")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.startswith("sad-piano-slow-seed-")
    assert Path(download.value.path()).read_bytes()[:4] == b"RIFF"


def test_the_bar_moves_with_the_decode_steps(page: Page) -> None:
    job_id = generate(page, "long drone")
    seen = set()
    while not page.locator(card(job_id, "completed")).count():
        seen.add(page.evaluate("document.querySelector('.card [role=progressbar]')?.ariaValueNow"))
        page.wait_for_timeout(60)
    assert len(seen - {None, "0"}) >= 3


def test_a_job_can_be_cancelled_while_it_runs(page: Page, place: Served) -> None:
    job_id = generate(page, "cancel me", wait="processing")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(card(job_id, "cancelled"))
    assert place.job(job_id)["status"] == "cancelled"


def test_a_reload_while_music_is_made_finds_the_job(page: Page, place: Served) -> None:
    job_id = generate(page, "come back to me", wait="processing")
    visit(page, place.url)
    page.wait_for_selector(card(job_id, "completed"))
    expect(page.locator("#prompt textarea")).to_have_value("come back to me")


def test_another_browser_finds_a_job_by_its_link(page: Page, place: Served) -> None:
    job_id = place.ask("shared music")
    place.finish(job_id)
    visit(page, f"{place.url}/?job={job_id}")
    page.wait_for_selector(card(job_id, "completed"))


def test_music_goes_on_playing_while_more_is_made(page: Page) -> None:
    first = generate(page, "play this", wait="completed")
    page.locator(card(first, "completed")).get_by_role("button", name="Play").click()
    page.evaluate("window.playing = document.querySelector('.card audio')")
    page.wait_for_function("window.playing.currentTime > 0")
    generate(page, "and make this")
    assert page.evaluate("window.playing.isConnected && !window.playing.paused")


def test_again_makes_a_second_job_with_another_seed(page: Page) -> None:
    first = generate(page, "once more", wait="completed")
    page.get_by_role("button", name="Again with a new seed").click()
    expect(page.locator(".card")).to_have_count(2)
    assert page.locator(".card").nth(1).get_attribute("data-key") == first


def test_an_invalid_prompt_says_why_and_stays(page: Page) -> None:
    page.fill("#prompt textarea", "x")
    page.press("#prompt textarea", "Control+Enter")
    expect(page.locator(".problem").first).to_contain_text("Prompt: must have 3 to 500 characters, not 1.")
    expect(page.locator("#prompt textarea")).to_have_value("x")
    generate(page, "good enough")
    expect(page.locator(".problem")).to_have_count(0)


def test_a_nasty_prompt_is_text_everywhere(page: Page) -> None:
    generate(page, NASTY, wait="completed")
    expect(page.locator(".card .prompt-text").first).to_have_text(NASTY)
    open_tab(page, "Queue")
    expect(page.locator(".job .prompt-text").first).to_have_text(NASTY)


def test_an_example_can_be_taken_and_undone(page: Page) -> None:
    page.fill("#prompt textarea", "my own words")
    page.locator(".chips button").first.click()
    expect(page.locator("#prompt textarea")).to_have_value("lo-fi hip hop beat to study to, 80 bpm")
    page.press("#prompt textarea", "Control+z")
    expect(page.locator("#prompt textarea")).to_have_value("my own words")


def test_a_batch_becomes_rows_and_the_queue_shows_them(page: Page) -> None:
    open_tab(page, "Batch")
    page.fill("#lines textarea", "calm piano\n\njazz trio\nheavy metal")
    expect(page.locator(".count")).to_have_text("3 of 10 prompts")
    page.get_by_role("button", name="Generate all").click()
    expect(page.locator("[role=tabpanel]:visible .job")).to_have_count(3)
    expect(page.locator("[role=tabpanel]:visible .job[data-status=completed] studio-player")).to_have_count(3)
    open_tab(page, "Queue")
    rows = page.locator("[role=tabpanel]:visible .job .prompt-text")
    expect(rows.first).to_have_text("heavy metal")
    assert rows.all_text_contents()[:3] == ["heavy metal", "jazz trio", "calm piano"]


def test_one_wrong_line_keeps_a_batch_from_being_submitted(page: Page, place: Served) -> None:
    before = place.studio.jobs().total
    open_tab(page, "Batch")
    page.fill("#lines textarea", "calm piano\nx")
    page.press("#lines textarea", "Control+Enter")
    expect(page.locator(".problem:visible")).to_contain_text("Line 2: must have 3 to 500 characters, not 1.")
    expect(page.locator("#lines textarea")).to_have_value("calm piano\nx")
    assert place.studio.jobs().total == before


def test_the_queue_can_be_narrowed_to_one_status(page: Page, place: Served) -> None:
    place.finish(place.ask("this one completes"))
    open_tab(page, "Queue")
    page.get_by_label("Cancelled").check()
    page.wait_for_function("!document.querySelector('.job[data-status=completed]')")
    page.get_by_label("Completed").check()
    expect(page.locator(".job .prompt-text").first).to_have_text("this one completes")


def test_a_failed_job_can_be_tried_again(page: Page) -> None:
    job_id = generate(page, "explode", wait="failed")
    expect(page.locator(".card .why")).to_contain_text("exploded")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(f"{card(job_id, 'processing')}, {card(job_id, 'pending')}")


def test_a_link_opens_the_documentation_of_the_endpoints(context: BrowserContext, place: Served) -> None:
    page = context.new_page()  # it may complain: Gradio asks for its MCP schema and monitoring, which are off
    page.goto(f"{place.url}/?view=api")
    expect(page.locator(".api-docs")).to_contain_text("/generate_and_wait")
    page.close()


def test_the_chosen_theme_is_remembered(page: Page, place: Served) -> None:
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(page.locator("body.dark")).to_be_visible()
    visit(page, place.url)
    expect(page.locator("body.dark")).to_be_visible()


@pytest.mark.skipif("STUDIO_SCREENSHOTS" not in os.environ, reason="STUDIO_SCREENSHOTS names no folder")
@pytest.mark.timeout(900)
def test_pictures_for_the_readme(chromium: Browser, tmp_path: Path) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(300_000)
    page = context.new_page()
    with Studio(Settings(data_dir=tmp_path)) as studio, serving(studio) as url:
        visit(page, url)
        take_pictures(page, Path(os.environ["STUDIO_SCREENSHOTS"]))
        context.close()


def take_pictures(page: Page, folder: Path) -> None:
    """Make music in the page and take a picture of every tab."""

    def picture(name: str) -> None:
        page.wait_for_timeout(700)  # until transitions have ended
        page.screenshot(path=folder / f"{name}.png")

    generate(page, "warm lo-fi hip hop, dusty drums, 80 bpm", wait="completed")
    generate(page, "sad piano, slow, no drums", wait="completed")
    page.wait_for_function("document.querySelectorAll('.wave.drawn').length == 2")
    page.evaluate("document.querySelector('.card audio').currentTime = 3")
    generate(page, "epic orchestra, strings and brass", wait="processing")
    picture("prompt-light")
    page.set_viewport_size({"width": 390, "height": 844})
    picture("prompt-light-small")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.click("#theme-switch")
    picture("prompt-dark")
    page.click("#theme-switch")
    open_tab(page, "Batch")
    page.fill("#lines textarea", "calm piano, slow, no drums\njazz trio, walking bass\nheavy metal, fast drums")
    page.press("#lines textarea", "Control+Enter")
    page.locator("[role=tabpanel]:visible .job[data-status=completed]").first.wait_for()
    picture("batch-light")
    open_tab(page, "Queue")
    page.locator("[role=tabpanel]:visible .job").first.wait_for()
    picture("queue-light")
    page.click("#theme-switch")
    picture("queue-dark")
