"""The drawer: everything about one job, beside whatever tab is open."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import gradio as gr

from studio.errors import JobNotFound
from studio.runtime import Studio
from studio.schemas import RECIPE_FIELDS, AttemptView, DeliveryStatus, DeliveryView, JobStatus, JobView, Outcome
from studio.ui import cards
from studio.ui.actions import act_on_jobs
from studio.ui.cards import button, escape, seconds
from studio.ui.live import QUIET, Part, action, live

OUTCOMES = {
    Outcome.COMPLETED: "Completed",
    Outcome.FAILED: "Failed",
    Outcome.INTERRUPTED: "Interrupted: its worker died",
    Outcome.CANCELLED: "Cancelled",
}
CARRIED = {
    DeliveryStatus.PENDING: "On its way",
    DeliveryStatus.DELIVERED: "Delivered",
    DeliveryStatus.ABANDONED: "Given up",
}


def build(studio: Studio, mine: gr.HTML, lists: Sequence[gr.HTML]) -> Part:
    """The drawer, which clicks on jobs in the `lists` open."""
    opened = gr.State(None)
    drawer = live(elem_id="drawer")

    def turn(event: gr.EventData, now: str | None) -> Any:
        name, job_id = action(event)
        if name not in ("open", "close", "continue"):  # which goes on in the prompt tab
            return gr.skip()
        wanted = job_id if name == "open" else None
        return wanted, show(studio, wanted)

    gr.on([shown.click for shown in (*lists, drawer)], turn, opened, [opened, drawer], **QUIET)
    act_on_jobs(studio, drawer, mine)
    return Part([opened], [drawer], lambda opened: [show(studio, opened)])


def show(studio: Studio, job_id: str | None) -> str:
    """The job's drawer; nothing when none is open, or the job is not there."""
    if job_id is None:
        return ""
    try:
        job, attempts, deliveries = studio.job(job_id), studio.attempts(job_id), studio.deliveries(job_id)
        return details(job, attempts.attempts, deliveries.deliveries)
    except JobNotFound:
        return ""


def details(job: JobView, attempts: Sequence[AttemptView], deliveries: Sequence[DeliveryView] = ()) -> str:
    """All that is known of a job."""
    return (
        f'<aside class="drawer" role="dialog" aria-label="Details of a job" data-job="{escape(job.job_id)}"><header>'
        f'{cards.pill(job)}<button type="button" class="close" data-do="close" data-what="" aria-label="Close" '
        'title="Close (Esc)"></button></header><div class="drawer-body">'
        f'<p class="prompt-text">{escape(job.prompt)}</p>{cards.body(job)}'
        f"{_actions(job)}<h3>How it was asked for</h3>{_recipe(job)}{_attempts(attempts)}{_deliveries(deliveries)}"
        f"<h3>When</h3>{_times(job)}</div></aside>"
    )


def _actions(job: JobView) -> str:
    buttons = {
        JobStatus.PENDING: [button("front", job, "To the front"), button("cancel", job, "Cancel", "stop")],
        JobStatus.PROCESSING: [button("cancel", job, "Stop", "stop")],
        JobStatus.COMPLETED: [
            cards.download(job),
            button("continue", job, "Continue"),
            button("again", job, "Again with a new seed"),
        ],
        JobStatus.FAILED: [button("retry", job, "Try again")],
        JobStatus.CANCELLED: [button("retry", job, "Try again")],
    }[job.status]
    link = f"{{origin}}/?job={job.job_id}"
    copies = [_copy("Copy as curl", curl(job)), _copy("Copy the link", link), _copy("Copy the id", job.job_id)]
    return f'<div class="actions">{"".join((*buttons, cards.reuse(job), *copies))}</div>'


def curl(job: JobView) -> str:
    """A command that asks for the same music again; the page puts its address for `{origin}`."""
    recipe = {name: getattr(job, name) for name in sorted(RECIPE_FIELDS, key=list(JobView.model_fields).index)}
    body = shlex.quote(json.dumps(recipe, ensure_ascii=False))
    return f"curl -X POST {{origin}}/api/v1/generate -H 'Content-Type: application/json' -d {body}"


def _copy(words: str, text: str) -> str:
    return f'<button type="button" data-copy="{escape(text)}">{words}</button>'


def _recipe(job: JobView) -> str:
    track = job.metadata
    return _pairs({
        "Model": job.model,
        "Duration": seconds(job.duration),
        "Seed": job.seed,
        "Guidance": f"{job.cfg_coef:g}",
        "Temperature": f"{job.temperature:g}",
        "Top-k": None if job.top_p else job.top_k,
        "Top-p": f"{job.top_p:g}" if job.top_p else None,
        "Goes on from": job.continue_seconds and f"the first {seconds(job.continue_seconds)} of {job.continue_from}",
        "Priority": f"{job.priority:+}" if job.priority else None,
        "Starts after": ", ".join(job.after) or None,
        "Audio": track and f"{track.sample_rate / 1000:g} kHz, {_channels(track.channels)}, {track.format}, "
        f"{track.file_size_bytes / 1e6:.1f} MB",
        "Job": job.job_id,
        "Batch": job.batch_id,
    })  # fmt: skip


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _times(job: JobView) -> str:
    moments = {"Asked for": job.created_at, "Started": job.started_at, "Ended": job.completed_at}
    cells = [f"<div><dt>{name}</dt><dd>{_moment(at)}</dd></div>" for name, at in moments.items() if at]
    if job.generation_time_seconds is not None:
        cells.append(f"<div><dt>Made in</dt><dd>{seconds(job.generation_time_seconds)}</dd></div>")
    return f'<dl class="pairs">{"".join(cells)}</dl>'


def _attempts(attempts: Sequence[AttemptView]) -> str:
    if not attempts:
        return ""
    items = "".join(map(_attempt, attempts))
    return f'<h3>Attempts</h3><ol class="attempts">{items}</ol>'


def _attempt(attempt: AttemptView) -> str:
    again = f", started again by hand ({attempt.series})" if attempt.series > 1 else ""
    error = f'<p class="why">{escape(attempt.error_message)}</p>' if attempt.error_message else ""
    trace = ""
    if attempt.stack_trace:
        trace = f"<details><summary>Stack trace</summary><pre>{escape(attempt.stack_trace)}</pre></details>"
    return (
        f'<li data-key="{attempt.series}-{attempt.number}" class="{attempt.outcome}">'
        f"<b>Attempt {attempt.number}{again}</b><p>{OUTCOMES[attempt.outcome]} after {seconds(attempt.seconds)}, "
        f"{_moment(attempt.started_at)}</p>{error}{trace}</li>"
    )


def _deliveries(deliveries: Sequence[DeliveryView]) -> str:
    if not deliveries:
        return ""
    items = "".join(map(_delivery, deliveries))
    return f'<h3>Webhooks</h3><ol class="attempts">{items}</ol>'


def _delivery(delivery: DeliveryView) -> str:
    said = CARRIED[delivery.status] + (f" at attempt {delivery.attempts}" if delivery.attempts > 1 else "")
    if at := delivery.ended_at or (delivery.next_attempt_at if delivery.attempts else None):
        said += f", {'' if delivery.ended_at else 'again '}{_moment(at)}"
    error = f'<p class="why">{escape(delivery.error_message)}</p>' if delivery.error_message else ""
    return (
        f'<li data-key="{escape(delivery.delivery_id)}" class="{delivery.status}"><b>{escape(delivery.event)}</b>'
        f"<p>{said}</p>{error}</li>"
    )


def _moment(at: datetime) -> str:
    return f'<studio-time at="{at.isoformat()}" exact></studio-time>'


def _pairs(pairs: dict[str, object]) -> str:
    cells = (
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items() if value is not None
    )
    return f'<dl class="pairs">{"".join(cells)}</dl>'
