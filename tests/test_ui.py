"""The page without a browser: what the HTML says, what the forms make of what was typed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from studio import Settings, Studio
from studio.engine.catalog import CATALOG
from studio.errors import InvalidRequest, RateLimited
from studio.schemas import JobPage, JobStatus, JobView, QueueStats, Step, TrackInfo, utcnow
from studio.ui import blocks, cards
from studio.ui.form import problems, request_of
from studio.ui.tabs import batch

NASTY = "<b>${alert(1)}</b> `x` {{y}} \\ \"quoted\" 'single'"
VALUES = (None, 8, 1.0, 250, 0, 3.0, None)  # model, duration, temperature, top_k, top_p, cfg_coef, seed


def job(**changes: Any) -> JobView:
    fields: dict[str, Any] = {
        "job_id": "gen_0123456789abcdef", "status": JobStatus.PENDING, "current_step": Step.QUEUED, "progress": 0.0,
        "prompt": "sad piano", "model": "musicgen-mini", "duration": 8.0, "temperature": 1.0, "top_k": 250,
        "top_p": 0.0, "cfg_coef": 3.0, "seed": 42, "retry_count": 0, "queue_position": 1,
        "estimated_time_seconds": 3.2, "created_at": utcnow(),
    }  # fmt: skip
    return JobView(**fields | changes)


def completed(**changes: Any) -> JobView:
    track = TrackInfo(duration=8.0, sample_rate=32000, channels=1, file_size_bytes=512044, format="wav")
    return job(
        status=JobStatus.COMPLETED, current_step=Step.COMPLETED, progress=1.0, file_url="/api/v1/files/a.wav",
        metadata=track, generation_time_seconds=1.84, queue_position=None, estimated_time_seconds=None, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("build", [cards.card, cards.row])
@pytest.mark.parametrize("status", list(JobStatus))
def test_text_from_outside_is_never_markup(build: Any, status: JobStatus) -> None:
    made = completed(prompt=NASTY) if status is JobStatus.COMPLETED else job(prompt=NASTY, status=status)
    shown = build(made.model_copy(update={"error_message": NASTY, "model": NASTY}))
    assert "<b>$" not in shown
    assert not set("`$\\{}") & set(shown)


def test_an_active_job_shows_its_steps_its_percent_and_the_time_left() -> None:
    shown = cards.card(job(status=JobStatus.PROCESSING, current_step=Step.GENERATING, progress=0.42))
    assert [words in shown for words in ("Loading model", "Encoding prompt", "Saving", "42 %", "about 3 s left")]
    assert '<li class="now" aria-current="step">Generating</li>' in shown
    assert 'aria-valuenow="42"' in shown
    assert 'data-do="cancel"' in shown


def test_a_waiting_job_shows_its_place_in_the_queue() -> None:
    assert "Next in the queue" in cards.card(job())
    assert "Number 4 in the queue" in cards.card(job(queue_position=4))
    assert "after 1 failed attempt<" in cards.card(job(retry_count=1))
    assert "after 2 failed attempts<" in cards.card(job(retry_count=2))


def test_a_completed_job_shows_its_player_its_seed_and_a_download_with_a_good_name() -> None:
    shown = cards.card(completed(prompt="Föhn & Sad piano!"))
    assert '<studio-player src="/api/v1/files/a.wav" seconds="8.00">' in shown
    assert 'download="fohn-sad-piano-seed-42.wav"' in shown
    assert "made in <b>1.8 s</b>" in shown
    assert "<b>42</b>" in shown


def test_a_prompt_without_latin_letters_still_gives_a_file_name() -> None:
    assert cards.filename(completed(prompt="静かなピアノ")) == "music-seed-42.wav"


def test_a_failed_job_says_why_and_can_be_tried_again() -> None:
    shown = cards.card(job(status=JobStatus.FAILED, current_step=Step.FAILED, error_message="The disk is full."))
    assert "The disk is full." in shown
    assert 'data-do="retry"' in shown


def test_no_job_is_an_invitation() -> None:
    assert cards.cards([]) == cards.EMPTY


def test_the_title_tells_the_percent_while_music_is_made() -> None:
    assert 'data-title="42 % · Studio"' in cards.cards([job(progress=0.42), completed()])
    assert 'data-title="Studio"' in cards.cards([completed()])


def test_pages_have_neighbours_only_where_there_are_some() -> None:
    assert cards.pager(JobPage(jobs=[], total=20, page=1, page_size=20)) == ""
    first = cards.pager(JobPage(jobs=[], total=41, page=1, page_size=20))
    assert "Page 1 of 3" in first
    assert first.count("disabled") == 1
    assert cards.pager(JobPage(jobs=[], total=41, page=2, page_size=20)).count("disabled") == 0


def test_figures_without_history_are_dashes() -> None:
    empty = QueueStats(
        pending_jobs=0, processing_jobs=0, completed_jobs=0, failed_jobs=0,
        oldest_pending_job_age_seconds=None, average_processing_time_seconds=None,
    )  # fmt: skip
    assert cards.figures(empty).count("<dd>–</dd>") == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (1.44, "1.4 s"),
        (8.0, "8 s"),
        (59.4, "59 s"),
        (125, "2 min 5 s"),
        (120, "2 min"),
        (7265, "2 h 1 min"),
    ],
)
def test_times_are_for_people(value: float | None, words: str) -> None:
    assert cards.seconds(value) == words


def test_a_model_that_must_not_be_used_commercially_says_so() -> None:
    note = cards.model_note(CATALOG["musicgen-small"])
    assert "CC-BY-NC" in note
    assert "not for commercial use" in note
    assert "2.0 GB" in note
    assert cards.model_choice(CATALOG["musicgen-small"]).endswith("(2.0 GB, CC-BY-NC 4.0)")
    assert "Downloads" not in cards.model_note(CATALOG["musicgen-mini"])


def test_a_problem_is_said_where_its_control_is() -> None:
    at_prompt, at_form = problems(InvalidRequest("prompt", "is odd"))
    assert ("Prompt: is odd." in at_prompt, at_form) == (True, "")
    at_prompt, at_form = problems(RateLimited(7))
    assert (at_prompt, "please wait 7 s" in at_form) == ("", True)


def test_every_listener_of_the_page_is_private_and_passes_gradios_queue(tmp_path: Path) -> None:
    async def build() -> gr.Blocks:  # outside a loop Gradio makes some that it never closes
        return blocks.build(Studio(Settings(data_dir=tmp_path)))

    listeners = asyncio.run(build()).fns.values()
    assert len(listeners) > 10
    assert {(listener.api_visibility, listener.queue) for listener in listeners} == {("private", False)}


def test_the_form_makes_a_request() -> None:
    request = request_of("sad piano", "musicgen-mini", 12, 0.9, 0, 0.5, 4, 7)
    assert (request.duration, request.top_k, request.seed) == (12.0, 0, 7)
    assert request_of("sad piano", *VALUES).seed is None


def test_a_batch_takes_the_lines_that_are_not_empty() -> None:
    requests, wrong = batch.parse("sad piano\n\n  fast drums \n", *VALUES)
    assert [request.prompt for request in requests] == ["sad piano", "fast drums"]
    assert wrong == []


def test_a_batch_names_the_lines_that_are_wrong_by_their_number() -> None:
    _, wrong = batch.parse("sad piano\n\nx\n" + "a" * 501, *VALUES)
    assert [sentence.split(":")[0] for sentence in wrong] == ["Line 3", "Line 4"]


def test_a_batch_has_a_most() -> None:
    _, wrong = batch.parse("\n".join(["sad piano"] * 11), *VALUES)
    assert wrong == ["Line 11: a batch has at most 10 prompts."]


def test_an_empty_batch_asks_for_a_prompt() -> None:
    assert batch.parse(" \n", *VALUES) == ([], ["Write at least one prompt."])


def test_a_wrong_setting_of_a_batch_is_said_once() -> None:
    _, wrong = batch.parse("sad piano\nfast drums", None, 99, *VALUES[2:])
    assert len(wrong) == 1
    assert wrong[0].startswith("Duration")
