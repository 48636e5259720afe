"""The page in a real browser: Debian's chromium, a real server, the sine engine. Nothing may go out to other hosts.

`STUDIO_SCREENSHOTS=assets/screenshots pytest tests/test_browser.py -k picture` takes the README's pictures, of
the bundled model at work.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)  # fmt: skip

from studio import Settings, Studio
from studio.api.server import serving
from studio.engine.base import LoadProgress
from studio.errors import JobConflict
from studio.schemas import GenerationRequest, JobStatus
from tests.conftest import missing
from tests.fakes import SineEngine
from tests.receivers import receiving
from tests.serving import Served, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000
NASTY = "<b>${alert(1)}</b> `tick` {{mustache}} \\ \"double\" 'single'"
STEP_S = 0.025
HEARD = "Number(document.querySelector('.card .wave').ariaValueNow)"  # seconds


def load_audible(model: str, progress: LoadProgress) -> SineEngine:
    """Slow enough to be watched: a second of audio takes a quarter of one."""
    return SineEngine(model, slots=2, step_s=STEP_S)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Needs an installed chromium."""
    if not CHROMIUM.exists():
        missing(f"there is no {CHROMIUM}")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    proxied = {"trusted_proxies": ["127.0.0.1"]}  # a page that says X-Forwarded-For comes from somewhere else
    hooks = {"webhook_secret": f"whsec_{'QUJD' * 8}", "webhook_allow_private": True}
    with served(tmp_path_factory.mktemp("data"), load_audible, **proxied, **hooks) as running:
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
        # of a job that failed before it was heard; of a file that is no music
        silent = message.location["url"].endswith(("/stream", "/clips"))
        if message.type == "error" and not silent:
            self.heard.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.heard.append(f"foreign: {request.url}")


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """One for all tests, since its cache makes the page quick to load."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, permissions=["clipboard-read"])
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
    end_all(place)
    assert complaints.heard == []


def end_all(place: Served) -> None:
    """Leave no work of this visitor's to the next one."""
    place.studio.resume()
    unfinished = [place.studio.jobs(status, page_size=100).jobs for status in (JobStatus.PENDING, JobStatus.PROCESSING)]
    for job in itertools.chain(*unfinished):
        with contextlib.suppress(JobConflict):  # it has ended by itself
            place.studio.cancel(job.job_id, force=True)


def visit(page: Page, url: str) -> None:
    page.goto(url)
    page.locator("#prompt textarea").wait_for()
    page.wait_for_function("window.studio && document.querySelector('.cards, .empty')")


def generate(page: Page, prompt: str, *, wait: str = "", seconds: int | None = None) -> str:
    """Type a prompt, press Ctrl+Enter; the id of the job that appears (and has reached the status `wait`)."""
    known = page.locator("#composer ~ * .card").count()
    if seconds:
        page.get_by_label("number input for Duration").first.fill(str(seconds))
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


def test_a_prompt_becomes_music_that_plays_while_it_is_made(page: Page) -> None:
    job_id = generate(page, "sad piano", seconds=20)
    player = page.locator(".card studio-player")
    expect(player.get_by_role("button", name="Pause")).to_be_visible()
    page.wait_for_function(f"{HEARD} > 0")
    assert page.locator(card(job_id, "processing")).count()
    page.evaluate("window.first = document.querySelector('.card studio-player')")
    page.wait_for_selector(card(job_id, "completed"))
    assert page.evaluate("window.first === document.querySelector('.card studio-player')")
    at = page.evaluate(HEARD)
    assert 0 < at < 20
    player.get_by_role("button", name="Pause").click()
    page.wait_for_function("document.querySelector('.card audio').duration > 0")  # from here on it is the file
    assert page.evaluate("document.querySelector('.card audio').duration") == pytest.approx(20.0, abs=0.1)
    assert page.evaluate(HEARD) == pytest.approx(at, abs=2)
    expect(player.locator(".wave.drawn")).to_be_visible()
    player.get_by_role("button", name="Play").click()
    page.wait_for_function(f"{HEARD} > {at} && !document.querySelector('.card audio').paused")
    expect(player.get_by_role("button", name="Pause")).to_be_visible()


def test_music_that_is_not_paused_is_heard_to_its_end_once(page: Page) -> None:
    generate(page, "short piece", seconds=3, wait="completed")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.wait_for_function("document.querySelector('.card audio').duration > 0")
    assert page.evaluate("document.querySelector('.card audio').played.length") == 0
    assert page.evaluate(HEARD) == 0


def test_music_that_is_made_slowly_waits_until_it_will_not_stutter(context: BrowserContext, tmp_path: Path) -> None:
    def load(model: str, progress: LoadProgress) -> SineEngine:
        return SineEngine(model, step_s=0.2)

    with served(tmp_path, load) as server:
        page = context.new_page()
        visit(page, server.url)
        generate(page, "slow one", seconds=4)
        button = page.locator(".card .play.playing")
        expect(button).to_have_class(re.compile("waiting"))
        page.wait_for_function(f"{HEARD} > 0")
        assert server.studio.jobs().jobs[0].progress > 0.5
        page.close()


def test_a_running_job_that_was_asked_for_elsewhere_plays_at_a_click(page: Page, place: Served) -> None:
    job_id = place.ask("made elsewhere", duration=20)
    visit(page, f"{place.url}/?job={job_id}")
    page.locator(card(job_id, "processing")).get_by_role("button", name="Play").click()
    page.wait_for_function(f"{HEARD} > 0")
    place.studio.cancel(job_id, force=True)
    page.wait_for_selector(card(job_id, "cancelled"))
    expect(page.locator(".card studio-player")).to_have_count(0)


def test_the_download_has_a_name_that_says_what_it_is(page: Page) -> None:
    generate(page, "Sad piano, slow", wait="completed")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.startswith("sad-piano-slow-seed-")
    assert Path(download.value.path()).read_bytes()[:4] == b"RIFF"


def test_the_bar_moves_with_the_decode_steps(page: Page) -> None:
    job_id = generate(page, "long drone", seconds=14)
    seen = set()
    while not page.locator(card(job_id, "completed")).count():
        seen.add(page.evaluate("document.querySelector('.card [role=progressbar]')?.ariaValueNow"))
        page.wait_for_timeout(60)
    assert len(seen - {None, "0"}) >= 3


def test_a_job_can_be_cancelled_while_it_runs(page: Page, place: Served) -> None:
    job_id = generate(page, "cancel me", wait="processing", seconds=30)
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(card(job_id, "cancelled"))
    assert place.job(job_id)["status"] == "cancelled"


def test_a_reload_while_music_is_made_finds_the_job(page: Page, place: Served) -> None:
    job_id = generate(page, "come back to me", wait="processing", seconds=20)
    visit(page, place.url)
    page.wait_for_selector(card(job_id, "completed"))
    expect(page.locator("#prompt textarea")).to_have_value("come back to me")


def test_what_is_typed_while_the_server_is_away_outlives_the_reload(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, load_audible) as server:
        page = context.new_page()
        visit(page, server.url)
        generate(page, "a beginning", seconds=3, wait="completed")
        page.get_by_role("button", name="Continue", exact=True).click()
        page.get_by_label("number input for Keep").fill("2")
        page.get_by_text("Sampling, seed, order, webhook").click()
        server.close()
        page.get_by_text("Connection to the server was lost").wait_for()
        page.fill("#prompt textarea", "typed meanwhile")
        page.get_by_label("number input for Duration").fill("13")
        page.get_by_label("Seed").fill("77")
        page.get_by_role("combobox", name="Model").click()
        page.get_by_role("option", name="MusicGen small").click()
        with serving(server.studio, int(server.url.rpartition(":")[2])):
            page.wait_for_event("load")
            expect(page.locator("#opening")).to_contain_text("Goes on from a beginning")
            expect(page.get_by_label("number input for Keep")).to_have_value("2")
            expect(page.locator("#prompt textarea")).to_have_value("typed meanwhile")
            expect(page.get_by_label("number input for Duration")).to_have_value("13")
            expect(page.get_by_role("combobox", name="Model")).to_have_value(re.compile("MusicGen small"))
            page.get_by_text("Sampling, seed, order, webhook").click()
            expect(page.get_by_label("Seed")).to_have_value("77")
        page.close()


def test_two_tabs_of_a_browser_share_their_music_and_their_batches(page: Page, context: BrowserContext) -> None:
    other = context.new_page()
    visit(other, page.url)
    expected = []
    for prompt, tab in (("first", page), ("second", other), ("third", page)):
        open_tab(tab, "Prompt")
        expect(tab.locator(".card")).to_have_count(len(expected))  # what the other tab has asked for appears by itself
        expected.insert(0, generate(tab, prompt, seconds=1))
        open_tab(tab, "Batch")
        cell(tab, 1, "prompt").fill(prompt)
        cell(tab, 1, "prompt").press("Control+Enter")
        expect(tab.locator(".batch[data-key]")).to_have_count(len(expected))
    for tab in (page, other):
        visit(tab, page.url.partition("#")[0])
        expect(tab.locator(".card")).to_have_count(3)
        assert tab.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.key)") == expected
        open_tab(tab, "Batch")
        expect(tab.locator(".batch[data-key] b")).to_have_text(["third", "second", "first"])
    other.close()


def test_another_browser_finds_a_job_by_its_link(page: Page, place: Served) -> None:
    job_id = place.ask("shared music")
    place.finish(job_id)
    visit(page, f"{place.url}/?job={job_id}")
    expect(page.locator(card(job_id, "completed"))).to_be_visible()


def test_music_goes_on_playing_while_more_is_made(page: Page) -> None:
    generate(page, "play this", seconds=20, wait="completed")
    page.evaluate("window.playing = document.querySelector('.card studio-player')")
    second = generate(page, "and make this", seconds=1, wait="completed")
    assert page.evaluate("window.playing.isConnected && !window.playing.sound.paused")
    other = page.locator(card(second, "completed"))
    other.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.card audio').currentTime > 0")
    assert page.evaluate("window.playing.sound.paused")


def test_again_makes_a_second_job_with_another_seed(page: Page) -> None:
    first = generate(page, "once more", wait="completed")
    page.get_by_role("button", name="Again with a new seed").click()
    expect(page.locator(".card")).to_have_count(2)
    assert page.locator(".card").nth(1).get_attribute("data-key") == first


def test_a_finished_piece_is_continued_and_let_go_of(page: Page, place: Served) -> None:
    first = generate(page, "a short beginning", seconds=3, wait="completed")
    page.fill("#prompt textarea", "something else")
    page.get_by_role("button", name="Continue", exact=True).click()
    expect(page.locator("#opening")).to_contain_text("Goes on from a short beginning")
    expect(page.locator("#prompt textarea")).to_have_value("something else")
    page.locator(".chips button").first.click()
    page.get_by_role("button", name="Continue", exact=True).click()
    expect(page.locator("#prompt textarea")).to_have_value("a short beginning")
    expect(page.get_by_label("number input for Duration").first).to_have_value("11")
    expect(page.get_by_label("number input for Keep")).to_have_value("3")
    page.get_by_label("number input for Keep").fill("2")
    page.get_by_label("number input for Keep").blur()
    longer = place.job(generate(page, "a longer end", wait="completed"))
    assert (longer["continue_from"], longer["continue_seconds"], longer["duration"]) == (first, 2.0, 11.0)
    expect(page.locator(".card").first).to_contain_text("goes on after 2 s")
    page.locator(".card").first.locator("[data-do=open]").click()
    expect(page.locator(".drawer")).to_contain_text(f"the first 2 s of {first}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Do not go on from it").click()
    expect(page.get_by_label("number input for Keep")).not_to_be_visible()
    assert place.job(generate(page, "afresh"))["continue_from"] is None


def test_a_piece_is_continued_from_its_drawer_in_another_tab(page: Page) -> None:
    job_id = generate(page, "found again", seconds=2, wait="completed")
    open_tab(page, "Queue")
    page.locator(f'[role=tabpanel] .job[data-key="{job_id}"] .open').click()
    page.locator(".drawer").get_by_role("button", name="Continue", exact=True).click()
    expect(page.locator("#opening")).to_contain_text("Goes on from found again")
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator(".drawer")).to_have_count(0)


def test_a_prompt_is_edited_from_the_drawer_of_another_tab(page: Page) -> None:
    job_id = generate(page, "edit me there", wait="completed")
    page.fill("#prompt textarea", "something else")
    open_tab(page, "Queue")
    page.locator(f'[role=tabpanel] .job[data-key="{job_id}"] .open').click()
    page.locator(".drawer").get_by_role("button", name="Edit the prompt").click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value("edit me there")


def test_a_file_of_ones_own_is_brought_and_what_is_no_music_is_said(page: Page, place: Served, tmp_path: Path) -> None:
    (tmp_path / "letter.wav").write_bytes(b"Dear studio,")
    page.set_input_files("[data-bring]", tmp_path / "letter.wav")
    said = page.locator("#opening [role=status]")
    expect(said).to_contain_text("This file is no audio that the studio can read: send WAV")
    soundfile.write(
        tmp_path / f"my {NASTY.replace('/', '')}.flac", np.random.default_rng(0).normal(0, 0.1, 40_000), 8000
    )
    page.set_input_files("[data-bring]", next(tmp_path.glob("*.flac")))
    expect(page.locator("#opening b")).to_contain_text("${alert(1)}")
    expect(page.get_by_label("number input for Keep")).to_have_value("5")
    page.get_by_label("number input for Duration").first.fill("4")
    page.fill("#prompt textarea", "my own music")
    page.press("#prompt textarea", "Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("Duration: must be more than the 5 s that are kept")
    job = place.job(generate(page, "my own music", seconds=7, wait="completed"))
    assert job["continue_from"].startswith("clip_")
    assert (job["continue_seconds"], job["duration"]) == (5.0, 7.0)


def test_two_prompts_asked_for_at_once_are_two_jobs_and_a_double_click_is_one(page: Page) -> None:
    for prompt in ("the one", "the other"):
        page.fill("#prompt textarea", prompt)
        page.evaluate("document.querySelector('button.go').click()")  # the second while the first is on its way
    for prompt in ("the one", "the other"):
        expect(page.locator(".card", has_text=prompt)).to_have_count(1)
    page.fill("#prompt textarea", "twice")
    page.get_by_role("button", name="Generate").dblclick()
    expect(page.locator(".card", has_text="twice")).to_have_count(1)
    generate(page, "once more")
    expect(page.locator(".card")).to_have_count(4)


def test_a_job_can_start_after_another_and_tell_a_webhook(page: Page, place: Served) -> None:
    place.studio.pause()
    first = generate(page, "the first of two", seconds=1)
    page.get_by_text("Sampling, seed, order, webhook").click()
    page.get_by_label("Starts after").fill(f"{first}, gen_nonesuch")
    page.fill("#prompt textarea", "the second of two")
    page.press("#prompt textarea", "Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("Starts after: There is no job 'gen_nonesuch'.")
    page.get_by_label("Starts after").fill(first)
    with receiving() as receiver:
        page.get_by_label("Webhook").fill(receiver.url)
        second = generate(page, "the second of two", seconds=1)
        expect(page.locator(".card").first).to_contain_text("Starts after 1 other job")
        place.studio.cancel(first)
        page.locator(f'.card[data-key="{second}"] [data-do=open]').click()
        expect(page.locator(".drawer")).to_contain_text("had to be completed before this one")
        expect(page.locator(".drawer .attempts .delivered")).to_contain_text("job.failed")
        assert len(receiver.requests) == 1


def test_an_invalid_prompt_says_why_and_stays(page: Page) -> None:
    page.fill("#prompt textarea", "x")
    page.press("#prompt textarea", "Control+Enter")
    expect(page.locator(".problem").first).to_contain_text("Prompt: must have 3 to 500 characters, not 1.")
    expect(page.locator("#prompt textarea")).to_have_value("x")
    generate(page, "good enough")
    expect(page.locator(".problem")).to_have_count(0)


@pytest.mark.parametrize("size", [(1280, 700), (390, 844)])
def test_what_is_wrong_with_a_prompt_is_seen_from_the_button_far_below(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.get_by_text("Sampling, seed, order, webhook").click()
    button = page.locator("[role=tabpanel]:visible button.go")
    for prompt in ("", "x" * 501, "x" * 501):  # said twice, the same words are seen twice
        page.fill("#prompt textarea", prompt)
        button.scroll_into_view_if_needed()
        expect(page.locator("#prompt textarea")).not_to_be_in_viewport()
        button.click()
        expect(page.locator(".problem")).to_be_in_viewport()
        expect(page.locator(".problem")).to_contain_text(f"not {len(prompt)}.")
        expect(page.locator("#prompt textarea")).to_be_focused()


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


# Sheets and batches


def cell(page: Page, row: int, field: str) -> Locator:
    """A cell of the sheet; rows count from 1."""
    return page.locator(".sheet-row").nth(row - 1).locator(f"[data-field={field}]")


def sheet_says(page: Page) -> list[dict[str, str]]:
    """The rows as the sheet would send them."""
    rows: list[dict[str, str]] = page.evaluate("document.querySelector('.sheet').studioSheet.rows")
    return rows


def test_a_template_and_takes_become_jobs_in_batches(page: Page, place: Served) -> None:
    open_tab(page, "Batch")
    cell(page, 1, "prompt").fill("{calm|dark} piano {{80}}")
    cell(page, 2, "prompt").fill("fast drums")
    cell(page, 2, "variations").fill("9")
    cell(page, 2, "duration").fill("1")
    expect(page.locator(".plan")).to_contain_text("11 jobs from 2 rows")
    expect(page.locator(".plan")).to_contain_text("They go as 2 batches")
    cell(page, 2, "prompt").press("Control+Enter")
    expect(page.locator(".batch[data-key]")).to_have_count(2)
    expect(page.locator(".batch.all")).to_contain_text("of 11 ended")
    expect(page.locator("#batches .prompt-text").first).to_have_text("calm piano {80}")
    assert sheet_says(page) == []
    page.get_by_role("button", name="Undo").click()
    assert sheet_says(page)[1] == {"prompt": "fast drums", "variations": "9", "duration": "1"}
    page.get_by_role("button", name="Cancel all the rest").click()
    expect(page.locator(".batch.all")).to_have_count(0)
    assert place.studio.queue_stats().pending_jobs == 0


def test_a_row_of_all_columns_is_one_line_and_six_on_a_phone(page: Page) -> None:
    open_tab(page, "Batch")
    page.get_by_role("button", name="More columns").click()
    lines = "row => new Set([...row.querySelectorAll('.cell')].map(cell => cell.offsetTop)).size"
    assert page.locator(".sheet-row").first.evaluate(lines) == 1
    assert page.locator(".sheet-head").evaluate(lines) == 1
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator(".sheet-row").first.evaluate(lines) == 6


def test_a_csv_file_fills_the_sheet_and_its_batch_can_be_followed_cancelled_and_downloaded(page: Page) -> None:
    open_tab(page, "Batch")
    page.locator(".sheet").wait_for()
    csv = b'prompt,duration,seed\n"piano, calm",1,7\njazz trio,30,\n'
    upload = page.locator(".sheet input[type=file]")
    upload.set_input_files({"name": "songs.csv", "mimeType": "text/csv", "buffer": csv})
    expect(cell(page, 1, "prompt")).to_have_value("piano, calm")
    upload.set_input_files({"name": "bad.csv", "mimeType": "text/csv", "buffer": b"prompt,tempo\nx,1"})
    expect(page.locator(".problem:visible")).to_contain_text("there is no column 'tempo'")
    jsonl = b'{"prompt": "slow blues", "duration": 30}'
    upload.set_input_files({"name": "more.jsonl", "mimeType": "text/plain", "buffer": jsonl})
    expect(cell(page, 3, "prompt")).to_have_value("slow blues")
    page.get_by_role("button", name="Generate 3").click()
    batch = page.locator(".batch[data-key]")
    expect(batch).to_contain_text("1 of 3 done")
    batch.get_by_role("button", name="Cancel the rest").click()
    expect(batch).to_contain_text("2 cancelled")
    with page.expect_download() as download:
        batch.get_by_role("link", name="Download as zip").click()
    assert Path(download.value.path()).read_bytes()[:2] == b"PK"


def test_cells_are_pasted_from_a_spreadsheet_and_wrong_ones_say_why_in_place(page: Page, place: Served) -> None:
    before = place.studio.jobs().total
    open_tab(page, "Batch")
    cell(page, 2, "prompt").focus()
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.setData("text/plain", "sad piano\\t99\\nfast drums\\t4\\n");
            const options = { clipboardData: data, bubbles: true, cancelable: true };
            document.activeElement.dispatchEvent(new ClipboardEvent("paste", options));
        }"""
    )
    expect(cell(page, 3, "duration")).to_have_value("4")
    assert sheet_says(page) == [
        {},
        {"prompt": "sad piano", "duration": "99"},
        {"prompt": "fast drums", "duration": "4"},
    ]
    wrong = page.locator(".sheet-row").nth(1).locator(".wrong")
    expect(wrong).to_contain_text("Duration: Input should be less than or equal to 30.")
    cell(page, 2, "prompt").press("Control+Enter")
    expect(page.locator(".problem:visible")).to_contain_text("Row 2, Duration")
    assert place.studio.jobs().total == before
    visit(page, place.url)  # a sheet outlives the page
    open_tab(page, "Batch")
    expect(cell(page, 3, "prompt")).to_have_value("fast drums")
    cell(page, 2, "duration").fill("4")
    expect(wrong).to_be_hidden()


def test_who_asks_too_often_is_told_when_to_try_again_and_loses_nothing(page: Page, place: Served) -> None:
    page.set_extra_http_headers({"X-Forwarded-For": "203.0.113.9"})
    open_tab(page, "Batch")
    cell(page, 1, "prompt").fill("burst {a|b|c|d|e|f|g|h|i|j|k|l}")
    cell(page, 1, "duration").fill("1")
    page.get_by_role("button", name="Generate 12").click()
    refusal = page.locator("[role=tabpanel]:visible .problem")
    expect(refusal).to_contain_text("1 of 2 batches are on their way; the others are still in the sheet.")
    expect(refusal.locator("studio-countdown")).to_have_text(re.compile(r"try again in \d+ s\."))
    expect(cell(page, 2, "prompt")).to_have_value("burst l")
    open_tab(page, "Prompt")
    page.fill("#prompt textarea", "one more")
    page.press("#prompt textarea", "Control+Enter")
    expect(page.locator("[role=tabpanel]:visible .problem")).to_contain_text("Too many requests: try again in ")
    first = page.locator("[role=tabpanel]:visible studio-countdown").text_content()
    expect(page.locator("[role=tabpanel]:visible studio-countdown")).not_to_have_text(first or "")
    expect(page.locator("#prompt textarea")).to_have_value("one more")


# The queue


def in_queue(page: Page, job_id: str) -> Locator:
    return page.locator(f'#queue-table .job[data-key="{job_id}"]')


def test_the_queue_is_paused_reordered_cancelled_stopped_and_tried_again(page: Page, place: Served) -> None:
    running = place.ask("runs for long", duration=30)
    place.until(lambda: place.job(running)["status"] == "processing")
    open_tab(page, "Queue")
    page.get_by_role("button", name="Pause the queue").click()
    expect(page.locator(".queue-state.paused")).to_contain_text("The queue is paused since")
    first, second = place.ask("waits first", duration=30), place.ask("waits second", duration=30)
    expect(in_queue(page, second)).to_contain_text("Number 2 in the queue")
    in_queue(page, second).get_by_role("button", name="To the front").click()
    expect(in_queue(page, second)).to_contain_text("Next in the queue")
    in_queue(page, second).get_by_role("button", name="Cancel").click()
    expect(in_queue(page, second)).to_have_attribute("data-status", "cancelled")
    in_queue(page, running).get_by_role("button", name="Stop").click()
    expect(in_queue(page, running)).to_have_attribute("data-status", "cancelled")
    in_queue(page, second).get_by_role("button", name="Try again").click()
    expect(in_queue(page, second)).to_have_attribute("data-status", "pending")
    page.get_by_role("button", name="Resume").click()
    expect(in_queue(page, first)).to_have_attribute("data-status", "processing")
    for job_id in (first, second):
        place.studio.cancel(job_id, force=True)


def test_the_queue_has_pages_and_can_be_searched(page: Page, place: Served) -> None:
    place.studio.pause()
    jobs = [place.ask(f"needle {number}", duration=30) for number in range(21)]
    open_tab(page, "Queue")
    page.fill("#search input, #search textarea", "NEEDLE 1")
    expect(page.locator("#queue-table .job")).to_have_count(11)
    page.fill("#search input, #search textarea", "needle")
    expect(page.locator("#queue-table .pager")).to_contain_text("Page 1 of 2")
    page.get_by_label("Waiting").check()  # then the next to start comes first
    expect(page.locator("#queue-table .job .prompt-text").first).to_have_text("needle 0")
    page.get_by_role("button", name="Last").click()
    expect(page.locator("#queue-table .job")).to_have_count(1)
    page.fill("#search input, #search textarea", "no such thing")
    expect(page.locator("#queue-table .empty")).to_contain_text("Nothing matches “no such thing”.")
    for job_id in jobs:
        place.studio.cancel(job_id)
    place.studio.resume()


def test_the_drawer_shows_all_attempts_and_the_keyboard_goes_from_job_to_job(page: Page, place: Served) -> None:
    other, failed = place.ask("quiet one"), place.ask("explode in the drawer")
    place.finish(failed)
    place.finish(other)
    open_tab(page, "Queue")
    in_queue(page, failed).locator(".open").click()
    drawer = page.locator(".drawer")
    expect(drawer.locator(".attempts li")).to_have_count(4)
    drawer.get_by_text("Stack trace").first.click()
    expect(drawer.locator("pre").first).to_contain_text("RuntimeError: the engine exploded")
    drawer.get_by_role("button", name="Copy as curl").click()
    expect(drawer.get_by_role("button", name="Copied")).to_be_visible()
    assert f"curl -X POST {place.url}/api/v1/generate" in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(in_queue(page, failed).locator(".open")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(in_queue(page, other).locator(".open")).to_be_focused()
    page.keyboard.press("Enter")
    expect(drawer).to_contain_text("quiet one")
    expect(drawer.locator("studio-player")).to_be_visible()
    expect(drawer.locator(".close")).to_be_focused()
    page.keyboard.press("ArrowUp")  # the drawer goes along
    expect(drawer).to_contain_text("explode in the drawer")
    page.keyboard.press("ArrowDown")
    expect(drawer).to_contain_text("quiet one")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#search input, #search textarea")).to_be_focused()


def test_the_arrows_begin_at_the_first_job_and_are_left_to_what_needs_them(page: Page, place: Served) -> None:
    place.finish(place.ask("listed first"))
    open_tab(page, "Queue")
    first = page.locator("#queue-table .open").first
    first.wait_for()
    page.get_by_label("All").press("ArrowDown")
    expect(page.locator(".open:focus")).to_have_count(0)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowDown")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    page.locator(".drawer").get_by_role("slider").press("ArrowDown")
    expect(page.locator(".drawer")).to_contain_text("listed first")
    open_tab(page, "Prompt")
    page.fill("#prompt textarea", "two\nlines")
    page.press("#prompt textarea", "ArrowUp")
    expect(page.locator("#prompt textarea")).to_be_focused()


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


def test_progress_shows_in_two_browsers_at_once(page: Page, place: Served, chromium: Browser) -> None:
    other = chromium.new_context()
    second = other.new_page()
    second.set_default_timeout(PATIENCE_MS)
    second.goto(f"{place.url}/#queue")
    second.locator("#queue-table").wait_for()
    job_id = place.ask("seen by two", duration=30)
    visit(page, f"{place.url}/?job={job_id}")
    for bar in (page.locator(".card [role=progressbar]"), in_queue(second, job_id).locator("[role=progressbar]")):
        expect(bar).not_to_have_attribute("aria-valuenow", "0")
    place.studio.cancel(job_id, force=True)
    page.wait_for_selector(card(job_id, "cancelled"))
    expect(in_queue(second, job_id)).to_have_attribute("data-status", "cancelled")
    other.close()


# The system


def test_the_system_tab_tells_what_is_well_and_what_is_set(page: Page, place: Served) -> None:
    open_tab(page, "System")
    expect(page.locator(".sum")).to_contain_text("Everything works")
    for name in ("Database", "Queue", "GPU", "Disk space"):
        expect(page.locator(".check h3").filter(has_text=name)).to_be_visible()
    expect(page.locator(".chart")).to_have_count(2)
    expect(page.locator(".workers li")).to_contain_text("musicgen-mini on cpu")
    page.locator(".settings summary").click()
    expect(page.locator(".settings")).to_contain_text("DGX_MUSIC_RATE_LIMIT_PER_MINUTE")
    waiting = page.locator("[role=tabpanel]:visible .stats div").first
    place.studio.pause()
    job_id = place.ask("counted")
    expect(waiting).to_have_text("Waiting1")
    expect(page.locator(".settings[open]")).to_be_visible()  # what was opened stays open
    place.studio.cancel(job_id)
    place.studio.resume()
    expect(waiting).to_have_text("Waiting0")


def test_no_tab_is_wider_than_a_phone(page: Page) -> None:
    generate(page, "on the way", wait="completed")
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("Prompt", "Batch", "Queue", "System"):
        open_tab(page, name)
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    open_tab(page, "Queue")
    page.locator("#queue-table .open").first.click()
    assert page.locator(".drawer").evaluate("drawer => drawer.offsetWidth") == 390


def test_a_reload_comes_back_to_the_tab(page: Page) -> None:
    open_tab(page, "Queue")
    page.reload()
    expect(page.locator("#search")).to_be_visible()


def test_a_link_to_a_job_and_a_tab_shows_both(page: Page, place: Served) -> None:
    job_id = place.studio.submit(GenerationRequest(prompt="by link", duration=1), "somebody").job_id
    visit(page, f"{place.url}/?job={job_id}#prompt")
    expect(page.locator(f'.card[data-key="{job_id}"]')).to_be_visible()
    open_tab(page, "Queue")
    page.reload()
    expect(page.locator("#search")).to_be_visible()
    open_tab(page, "Prompt")
    expect(page.locator(f'.card[data-key="{job_id}"]')).to_be_visible()


def test_a_page_where_nothing_happens_asks_seldom_and_wakes_at_a_touch(chromium: Browser, place: Served) -> None:
    context = chromium.new_context()  # its own, since the clock stands still in all pages of a context
    page = context.new_page()
    page.clock.install()
    visit(page, place.url)
    page.clock.pause_at((page.evaluate("Date.now()") + 1000) / 1000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def pulses(seconds: int) -> int:
        asked.clear()
        for _ in range(2 * seconds):
            page.clock.run_for(500)
            page.wait_for_timeout(100)  # the page's clock stands still: the server has time to answer
        return sum("gradio_api" in url for url in asked)

    assert pulses(3) > 3  # twice a second, while the page is new
    page.clock.run_for(9000)
    assert 1 <= pulses(5) <= 3  # every 2.5 s, since nothing happens
    page.keyboard.press("Shift")
    assert pulses(3) > 3
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")
    page.clock.run_for(30_000)
    assert pulses(20) == 1  # nobody looks
    context.close()


def test_a_link_opens_the_documentation_of_the_endpoints(context: BrowserContext, place: Served) -> None:
    page = context.new_page()  # it may complain: Gradio asks for its MCP schema and monitoring, which are off
    page.goto(f"{place.url}/?view=api")
    expect(page.locator(".api-docs")).to_contain_text("/generate_and_wait")
    page.close()


def test_a_studio_with_keys_lets_people_log_in_and_out(chromium: Browser, tmp_path: Path) -> None:
    key = "correct-horse-battery"
    with served(tmp_path, load_audible, api_keys=[key]) as closed:
        page = chromium.new_page()
        page.goto(closed.url)
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("The studio does not know this key.")
        page.get_by_label("Key").fill(key)
        with page.expect_response("**/gradio_api/run/predict"):  # then its listeners are there
            page.get_by_role("button", name="Log in").click()
        generate(page, "sad piano", wait="completed")
        page.wait_for_function(f"{HEARD} > 0.5")
        page.get_by_role("tab", name="System").click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        page.goto(closed.url)
        expect(page.get_by_label("Key")).to_be_visible()
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

    def both(name: str) -> None:
        picture(f"{name}-light")
        page.click("#theme-switch")
        picture(f"{name}-dark")
        page.click("#theme-switch")

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
    cell(page, 1, "prompt").fill("{calm|dark} piano at {80|120} bpm")
    cell(page, 2, "prompt").fill("jazz trio, walking bass")
    cell(page, 2, "variations").fill("3")
    cell(page, 2, "duration").fill("4")
    cell(page, 2, "prompt").press("Control+Enter")
    page.locator("#batches .job[data-status=completed]").first.wait_for()
    page.get_by_role("button", name="Undo").click()
    page.locator(".plan b").first.wait_for()
    both("batch")
    page.get_by_role("button", name="Generate 7").click()
    open_tab(page, "Queue")
    page.locator("#queue-table .job[data-status=processing]").first.wait_for()
    both("queue")
    page.locator("#queue-table .job[data-status=completed] .open").first.click()
    page.locator(".drawer .wave.drawn").wait_for()
    picture("drawer-light")
    page.keyboard.press("Escape")
    open_tab(page, "System")
    page.locator(".chart .line").first.wait_for()
    both("system")
