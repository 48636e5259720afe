"""The page without a browser: what the HTML says, what the forms make of what was typed."""

from __future__ import annotations

import asyncio
import html
import json
import shlex
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from pydantic import ValidationError

from studio import GenerationRequest, Settings, Studio, sheet
from studio.audio.files import track_name
from studio.engine.catalog import CATALOG
from studio.errors import InvalidRequest, RateLimited
from studio.schemas import (
    AttemptView,
    DeliveryStatus,
    DeliveryView,
    HealthCheck,
    HealthReport,
    HealthStatus,
    JobPage,
    JobStatus,
    JobView,
    Outcome,
    QueueState,
    QueueStats,
    Step,
    TrackInfo,
    utcnow,
)  # fmt: skip
from studio.settings import in_effect
from studio.ui import batches, blocks, cards, drawer, gauges
from studio.ui.form import problems, request_of
from studio.ui.opening import Source
from studio.ui.tabs import prompt, queue, system
from studio.vitals import Machine, Sample

NASTY = "<b>${alert(1)}</b> `x` {{y}} \\ \"quoted\" 'single'"
NOW = utcnow()
# model, duration, temperature, top_k, top_p, cfg_coef, seed, priority, after, webhook_url
VALUES = (None, 8, 1.0, 250, 0, 3.0, "", 0, "", "")


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


def in_drawer(job: JobView) -> str:
    attempt = AttemptView(
        series=1, number=1, outcome=Outcome.FAILED, started_at=utcnow(), ended_at=utcnow(), seconds=0.5,
        error_message=NASTY, stack_trace=NASTY, worker_id=NASTY,
    )  # fmt: skip
    return drawer.details(job, [attempt])


def in_batch(job: JobView) -> str:
    return batches.batches({"batch_0123456789abcdef": [job]}, "batch_0123456789abcdef", [job])


@pytest.mark.parametrize("build", [cards.card, cards.row, in_drawer, in_batch])
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


def test_a_progress_that_nobody_knows_has_no_value() -> None:
    loading = job(status=JobStatus.PROCESSING, current_step=Step.LOADING_MODEL, progress=0.0)
    assert 'role="progressbar"' in cards.card(loading)
    assert "aria-valuenow" not in cards.card(loading)


def test_a_waiting_job_shows_its_place_in_the_queue() -> None:
    assert "Next in the queue" in cards.card(job())
    assert "Number 4 in the queue" in cards.card(job(queue_position=4))
    assert "after 1 failed attempt<" in cards.card(job(retry_count=1))
    assert "after 2 failed attempts<" in cards.card(job(retry_count=2))


def test_a_running_job_can_be_heard_as_soon_as_there_is_sound() -> None:
    stream = 'stream="/api/v1/jobs/gen_0123456789abcdef/stream" seconds="8.00"'
    loading = job(status=JobStatus.PROCESSING, current_step=Step.LOADING_MODEL)
    generating = job(status=JobStatus.PROCESSING, current_step=Step.GENERATING)
    assert f"{stream} soon>" in cards.card(loading)
    assert f"{stream}>" in cards.card(generating)


def test_a_completed_job_shows_its_player_its_seed_and_a_download_with_a_good_name() -> None:
    shown = cards.card(completed(prompt="Föhn & Sad piano!"))
    assert 'src="/api/v1/files/a.wav" seconds="8.00">' in shown
    assert 'download="fohn-sad-piano-seed-42.wav"' in shown
    assert "made in <b>1.8 s</b>" in shown
    assert "<b>42</b>" in shown


def test_a_prompt_without_latin_letters_still_gives_a_file_name() -> None:
    assert track_name("静かなピアノ", 42) == "music-seed-42.wav"


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
    assert first.count("disabled") == 2
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
    assert (at_prompt, '<studio-countdown seconds="7">' in at_form) == ("", True)


def test_every_listener_of_the_page_is_private_and_passes_gradios_queue(tmp_path: Path) -> None:
    async def build() -> gr.Blocks:  # outside a loop Gradio makes some that it never closes
        return blocks.build(Studio(Settings(data_dir=tmp_path)))

    listeners = asyncio.run(build()).fns.values()
    assert len(listeners) > 10
    assert {(listener.api_visibility, listener.queue) for listener in listeners} == {("private", False)}


def test_the_form_makes_a_request() -> None:
    request = request_of(
        "sad piano", "musicgen-mini", 12, 0.9, 0, 0.5, 4, " 7 ", -3, "gen_1, gen_2", "http://a.example"
    )
    assert (request.duration, request.top_k, request.seed, request.priority) == (12.0, 0, 7, -3)
    assert (request.after, request.webhook_url) == (["gen_1", "gen_2"], "http://a.example/")
    assert request_of("sad piano", *VALUES).seed is None
    assert request_of("sad piano", *VALUES[:6], "0", *VALUES[7:]).seed == 0


def test_a_seed_that_is_no_number_is_said_where_it_stands() -> None:
    with pytest.raises(ValidationError) as error:
        request_of("sad piano", *VALUES[:6], "seven", *VALUES[7:])
    assert problems(error.value)[1].count("Seed: ") == 1
    with pytest.raises(ValidationError) as error:
        request_of("sad piano", *VALUES[:6], "-1", *VALUES[7:])
    assert "Seed: Input should be greater than or equal to 0." in problems(error.value)[1]


@pytest.mark.parametrize(
    ("seconds", "kept", "duration"), [(3.0, 3.0, 11.0), (21.5, 21.5, 30.0), (29.02, 20.0, 30.0), (30.0, 20.0, 30.0)]
)
def test_a_continuation_is_no_shorter_than_what_it_goes_on_from(seconds: float, kept: float, duration: float) -> None:
    source = Source("gen_1", "sad piano", seconds)
    assert (source.kept, source.duration) == (kept, duration)


# The drawer


def test_the_drawer_shows_every_attempt_with_its_error_and_stack_trace() -> None:
    attempts = [
        AttemptView(
            series=1, number=number, outcome=Outcome.FAILED, started_at=utcnow(), ended_at=utcnow(), seconds=1.5,
            error_message="The disk is full.", stack_trace="Traceback …",
        )
        for number in (1, 2)
    ]  # fmt: skip
    shown = drawer.details(job(status=JobStatus.FAILED, error_message="The disk is full."), attempts)
    assert shown.count("Failed after 1.5 s") == 2
    assert shown.count("<pre>Traceback …</pre>") == 2
    assert "Attempt 2" in shown


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": DeliveryStatus.PENDING, "attempts": 0, "next_attempt_at": NOW}, "On its way</p>"),
        ({"status": DeliveryStatus.PENDING, "attempts": 2, "next_attempt_at": NOW, "error_message": "<b>503"},
         "On its way at attempt 2, again <studio-time"),
        ({"status": DeliveryStatus.DELIVERED, "attempts": 1, "ended_at": NOW}, "Delivered, <studio-time"),
        ({"status": DeliveryStatus.ABANDONED, "attempts": 8, "ended_at": NOW}, "Given up at attempt 8, <studio-time"),
    ],
)  # fmt: skip
def test_the_drawer_shows_what_became_of_webhooks(fields: dict[str, Any], words: str) -> None:
    delivery = DeliveryView(delivery_id="msg_1", event="job.completed", created_at=NOW, **fields)
    shown = drawer.details(completed(), [], [delivery])
    assert words in shown
    assert "<b>503" not in shown
    assert "Webhooks" not in drawer.details(completed(), [])


def test_the_drawers_curl_asks_for_the_same_music_again() -> None:
    made = completed(prompt='it\'s "nice" – $HOME `date`', seed=7)
    command = shlex.split(drawer.curl(made).replace("{origin}", "http://localhost:7860"))
    assert command[:4] == ["curl", "-X", "POST", "http://localhost:7860/api/v1/generate"]
    request = GenerationRequest.model_validate_json(command[-1])
    assert (request.prompt, request.seed, request.model) == (made.prompt, 7, "musicgen-mini")


# The batch tab


def planned(*rows: dict[str, str], seconds: float = 84.0) -> str:
    made = sheet.plan(rows, {"duration": 8.0})
    return batches.plan(made, seconds if not made.problems else None, {"duration": 8.0, "model": None})


def test_a_sheet_says_how_many_jobs_it_makes_how_long_they_take_and_that_they_go_as_several_batches() -> None:
    shown = planned({"prompt": "{calm|dark} piano"}, {"prompt": "fast drums", "variations": "10"})
    assert "<b>12 jobs</b> from 2 rows" in shown
    assert "about <b>1 min 24 s</b>" in shown
    assert "They go as 2 batches" in shown
    assert shown.count("<li>") == 12
    assert "batches" not in planned({"prompt": "sad piano"})
    assert "<b>less than a second</b> until" in planned({"prompt": "sad piano"}, seconds=0.3)


def test_a_sheet_hands_its_problems_to_the_rows_they_belong_to() -> None:
    shown = html.unescape(
        planned({"prompt": "sad piano"}, {"prompt": "fast drums", "duration": "99", "variations": "x"})
    )
    assert '"row": 2, "field": "variations", "words": "Takes: must be a whole number' in shown
    assert "1 row</b> cannot be made yet" in shown
    assert '"duration": "8.0"' in shown


def test_many_problems_are_counted() -> None:
    problems = sheet.plan([{"prompt": "x"}] * 30, {}).problems
    said = batches.sentences(problems)
    assert (len(said), said[0][:14], said[-1]) == (13, "Row 1, Prompt:", "And 18 more.")


def test_batches_are_shown_together_and_each_with_what_can_be_done() -> None:
    first = [completed(), job(status=JobStatus.PROCESSING, progress=0.5)]
    second = [job(), job()]
    found = {"batch_0": [completed()], "batch_1": first, "batch_2": second}
    assert batches.first_open(found) == "batch_1"
    del found["batch_0"]
    shown = batches.batches(found, "batch_1", first)
    assert "2 batches on their way" in shown
    assert "1 of 4 ended" in shown
    assert 'aria-valuenow="38"' in shown  # (1 + 0.5 + 0 + 0) / 4
    assert shown.count("Cancel the rest") == 2
    assert shown.count("/zip") == 1
    assert "1 of 2 done" in shown
    ended = batches.batches({"batch_1": [completed(), job(status=JobStatus.FAILED)]}, "batch_1", [])
    assert "Cancel" not in ended
    assert "1 failed" in ended


# The queue and the system


def test_batches_of_a_paused_queue_do_not_say_when_they_are_done() -> None:
    waits = job(estimated_time_seconds=None)
    shown = batches.batches({"batch_1": [waits], "batch_2": [waits]}, "batch_1", [waits])
    assert "0 of 2 ended, paused" in shown
    assert "0 of 1 done, paused" in shown


def test_a_paused_queue_says_so_and_can_be_resumed() -> None:
    assert 'data-do="pause"' in cards.queue_state(QueueState(paused=False))
    shown = cards.queue_state(QueueState(paused=True, paused_at=utcnow()))
    assert "The queue is paused" in shown
    assert 'data-do="resume"' in shown
    assert cards.paused(QueueState(paused=False)) == ""


def test_a_waiting_job_can_go_to_the_front_unless_it_is_there_or_waits_for_another() -> None:
    assert 'data-do="front"' in cards.row(job(queue_position=2))
    assert 'data-do="front"' not in cards.row(job(queue_position=1))
    blocked = cards.row(job(queue_position=2, after=["gen_1"]))
    assert 'data-do="front"' not in blocked
    assert "Starts after 1 other job<" in blocked


@pytest.mark.parametrize("status", list(HealthStatus))
def test_health_has_a_colour_a_word_and_a_reason(status: HealthStatus) -> None:
    check = HealthCheck(name="queue", status=status, message=f"because {NASTY}")
    report = HealthReport(
        status=status, checks={"queue": check}, version="1.2.3", uptime_seconds=90_061, timestamp=utcnow()
    )
    shown = gauges.health(report)
    assert gauges.SUMS[status] in shown
    assert f'class="dot {status}"' in shown
    assert "1 d 1 h" in shown
    assert not set("`$\\{}") & set(shown)


def test_a_chart_goes_from_the_first_sample_to_the_last_and_has_the_machine_as_its_top() -> None:
    start = utcnow()
    samples = [Sample(start + timedelta(seconds=5 * n), 50.0 * n, 25.0, 4.0, 1.0) for n in range(3)]
    host = Machine("a processor", 2, 8.0, "Linux", {"Python": "3.11"})
    shown = gauges.charts(samples, host)
    assert "Processor<b>100 %</b><small>the studio 25 %</small>" in shown
    assert "M0.0 83.0 L150.0 42.0 L300.0 1.0" in shown
    assert "Memory<b>4.0 GB</b>" in shown
    assert "10 s ago" in shown
    assert "GPU" not in shown
    with_gpu = [replace(sample, gpu_percent=30.0, gpu_memory_gb=12.5) for sample in samples]
    assert "GPU memory<b>12.5 GB</b>" in gauges.charts(with_gpu, host)
    assert "Processor<b>–</b>" in gauges.charts([], host)


def test_settings_that_were_changed_come_first_and_marks_become_code() -> None:
    shown = gauges.settings(in_effect(Settings(slots=7)))
    assert "1 of " in shown
    assert shown.index("DGX_MUSIC_SLOTS") < shown.index("DGX_MUSIC_API_HOST")
    assert "<code>cpu</code>" in shown


def test_the_system_tab_still_tells_what_is_wrong_when_the_database_is_broken(tmp_path: Path) -> None:
    studio = Studio(Settings(data_dir=tmp_path))
    studio.start(work=False)
    studio.stop()
    for file in tmp_path.glob("studio.db*"):
        file.write_bytes(b"this is not a database" * 1000)

    async def draw() -> list[Any]:
        with gr.Blocks():
            return list(system.build(studio).draw())

    health, figures, charts, _ = asyncio.run(draw())
    assert gauges.SUMS[HealthStatus.UNHEALTHY] in health
    assert 'class="check unhealthy" data-key="database"' in health
    assert "Processor" in charts
    assert figures == gr.skip()


def test_a_sheet_is_not_blamed_for_a_database_that_is_away(tmp_path: Path) -> None:
    studio = Studio(Settings(data_dir=tmp_path))

    async def listeners() -> dict[str, Any]:
        return {str(listener.name): listener.fn for listener in blocks.build(studio).fns.values()}

    found = asyncio.run(listeners())
    (tmp_path / "studio.db").write_bytes(b"this is not a database" * 1000)
    text = json.dumps({"rows": [{"prompt": "the end", "after": "gen_1"}]})
    assert found["work_out"](text, *VALUES) == (gr.skip(), gr.skip())


def test_a_link_to_a_job_that_is_not_there_says_so(tmp_path: Path) -> None:
    studio = Studio(Settings(data_dir=tmp_path))
    studio.start(work=False)
    assert "There is no job &#x27;gen_nope&lt;b&gt;&#x27;." in prompt.show(studio, "[]", "gen_nope<b>")[0]
    job_id = studio.submit(GenerationRequest(prompt="sad piano"), "somebody").job_id
    assert prompt.show(studio, "anything", job_id)[0] == ""
    studio.stop()


def test_a_search_may_be_any_text(tmp_path: Path) -> None:
    studio = Studio(Settings(data_dir=tmp_path))
    studio.start(work=False)
    for text in ("\ud800", "\0", "100%_\\", "  ", "x" * 1000, None):
        _, _, body = queue.show(studio, "all", text, 1)
        assert "empty" in body
    studio.stop()
