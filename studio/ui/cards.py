"""A job as HTML: cards, rows, figures. Pure functions; all text from outside goes through `escape`."""

from __future__ import annotations

import html
from collections.abc import Iterable

from studio.audio.files import track_name
from studio.engine.catalog import ModelInfo
from studio.errors import JobNotFound
from studio.schemas import JobPage, JobStatus, JobView, QueueState, QueueStats, Step

PIPELINE = [Step.QUEUED, Step.LOADING_MODEL, Step.ENCODING_PROMPT, Step.GENERATING, Step.SAVING, Step.COMPLETED]
STATUS_WORDS = {
    JobStatus.PENDING: "Waiting",
    JobStatus.PROCESSING: "Working",
    JobStatus.COMPLETED: "Completed",
    JobStatus.FAILED: "Failed",
    JobStatus.CANCELLED: "Cancelled",
}
_TEMPLATE_CHARS = str.maketrans({char: f"&#{ord(char)};" for char in "`$\\{}"})


def escape(text: object) -> str:
    """Text as HTML, safe also where Gradio pastes it into a JavaScript template literal."""
    return html.escape(str(text), quote=True).translate(_TEMPLATE_CHARS)


# Cards: the prompt tab


def cards(jobs: Iterable[JobView]) -> str:
    """The jobs as cards, in the given order; an invitation when there is none."""
    shown = list(jobs)
    if not shown:
        return EMPTY
    active = next((job for job in shown if not job.status.ended), None)
    title = f"{percent(active)} % · Studio" if active else "Studio"
    return f'<div class="cards" data-title="{title}">{"".join(map(card, shown))}</div>'


def card(job: JobView) -> str:
    """One job: its steps while it runs, its player when it is done, its reason when it failed."""
    active = "" if job.status.ended else " active"
    return (
        f'<article class="card{active}" data-key="{escape(job.job_id)}" data-status="{job.status}">'
        f'<header><p class="prompt-text" title="{escape(job.prompt)}">{escape(job.prompt)}</p>{pill(job)}</header>'
        f"{body(job)}{facts(job)}{actions(job)}</article>"
    )


def body(job: JobView) -> str:
    """What the job shows of itself: its steps, its player, its reason."""
    match job.status:
        case JobStatus.PENDING | JobStatus.PROCESSING:
            return stepper(job) + progress(job) + preview(job)
        case JobStatus.COMPLETED:
            return player(job)
        case JobStatus.FAILED:
            return why(job)
        case JobStatus.CANCELLED:
            return ""


def pill(job: JobView) -> str:
    """The status in a word."""
    return f'<span class="pill {job.status}">{STATUS_WORDS[job.status]}</span>'


def stepper(job: JobView) -> str:
    """The pipeline's steps, with the one at work marked."""
    now = PIPELINE.index(job.current_step) if job.current_step in PIPELINE else 0
    marks = ['class="done"'] * now + ['class="now" aria-current="step"'] + ['class="next"'] * len(PIPELINE)
    items = [f"<li {mark}>{step_words(step)}</li>" for mark, step in zip(marks, PIPELINE, strict=False)]
    return f'<ol class="steps">{"".join(items)}</ol>'


def progress(job: JobView) -> str:
    """The bar, and in words how far and how long."""
    unknown = job.status is JobStatus.PROCESSING and not job.progress
    return (
        f"{'' if job.status is JobStatus.PENDING else bar(job.progress, unknown=unknown)}"
        f'<div class="progress-text"><span>{_standing(job)}</span><span>{_time_left(job)}</span></div>'
    )


def bar(share: float, *, unknown: bool = False) -> str:
    """A progress bar; `share` 0..1. One whose share is `unknown` breathes."""
    done = round(100 * share)
    value = "" if unknown else f' aria-valuenow="{done}"'
    return (
        f'<div class="bar{" unknown" if unknown else ""}" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100"{value}><i style="width:{done}%"></i></div>'
    )


def _standing(job: JobView) -> str:
    if job.status is JobStatus.PENDING:
        if job.after:
            return f"Starts after {len(job.after)} other job{'s' * (len(job.after) > 1)}"
        place = "Next in the queue" if job.queue_position in (None, 1) else f"Number {job.queue_position} in the queue"
        failed = f", after {job.retry_count} failed attempt{'s' * (job.retry_count > 1)}" if job.retry_count else ""
        return place + failed
    doing = "starting" if job.current_step is Step.QUEUED else step_words(job.current_step).lower()
    return f"<b>{percent(job)} %</b> {doing}"


def _time_left(job: JobView) -> str:
    left = job.estimated_time_seconds
    if left is None:
        return ""
    return "almost there" if left < 1 else f"about {seconds(left, exact=False)} left"


def player(job: JobView, *, compact: bool = False) -> str:
    """The audio, with its waveform unless `compact`."""
    length = job.metadata.duration if job.metadata else job.duration
    return (
        f'<studio-player data-key="player-{escape(job.job_id)}" src="{escape(job.file_url)}" '
        f'seconds="{length:.2f}"{" compact" if compact else ""}></studio-player>'
    )


def preview(job: JobView) -> str:
    """The audio while it is made: the same element becomes its `player`. It is not seen before there can be sound."""
    soon = "" if job.current_step in (Step.GENERATING, Step.SAVING) else " soon"
    return (
        f'<studio-player data-key="player-{escape(job.job_id)}" stream="/api/v1/jobs/{escape(job.job_id)}/stream" '
        f'seconds="{job.duration:.2f}"{soon}></studio-player>'
    )


def why(job: JobView) -> str:
    """The reason of a failure."""
    return f'<p class="why">{escape(job.error_message or "It failed, and nobody said why.")}</p>'


def facts(job: JobView) -> str:
    """What the job was made with."""
    pairs = {
        "": f"{seconds(job.duration)} of {job.model}",
        "seed": job.seed,
        "temperature": f"{job.temperature:g}",
        "top-k": job.top_k,
        "top-p": f"{job.top_p:g}",
        "guidance": f"{job.cfg_coef:g}",
        "goes on after": job.continue_seconds and seconds(job.continue_seconds),
        "made in": seconds(job.generation_time_seconds) if job.generation_time_seconds is not None else None,
    }
    del pairs["top-k" if job.top_p else "top-p"]  # top_p replaces top_k
    spans = [f"<span>{name} <b>{escape(value)}</b></span>" for name, value in pairs.items() if value is not None]
    return f'<p class="facts">{"".join(spans)}</p>'


def actions(job: JobView) -> str:
    """What can be done with the job."""
    buttons = {
        JobStatus.PENDING: [button("cancel", job, "Cancel", "stop")],
        JobStatus.PROCESSING: [button("cancel", job, "Cancel", "stop")],
        JobStatus.COMPLETED: [
            download(job),
            button("continue", job, "Continue"),
            button("again", job, "Again with a new seed"),
            reuse(job),
        ],
        JobStatus.FAILED: [button("retry", job, "Try again"), reuse(job)],
        JobStatus.CANCELLED: [button("retry", job, "Try again"), reuse(job)],
    }[job.status]
    details = f'data-do="open" data-what="{escape(job.job_id)}" title="Details">{moment(job)}'
    return f'<div class="actions">{"".join(buttons)}<button type="button" class="end plain" {details}</button></div>'


def download(job: JobView) -> str:
    """A link that saves the audio under a name that a person can find again."""
    return f'<a href="{escape(job.file_url)}" download="{escape(track_name(job.prompt, job.seed))}">Download</a>'


def button(action: str, job: JobView, words: str, css: str = "") -> str:
    """A button that does something with the job."""
    return f'<button type="button" class="{css}" data-do="{action}" data-what="{escape(job.job_id)}">{words}</button>'


def reuse(job: JobView) -> str:
    """A button that takes the job's prompt into the box."""
    target = f'data-into="#prompt textarea" data-insert="{escape(job.prompt)}"'
    return f'<button type="button" {target}>Edit the prompt</button>'


def moment(job: JobView) -> str:
    """When it was asked for, in the reader's time zone."""
    return f'<studio-time at="{job.created_at.isoformat()}"></studio-time>'


# Rows: batch and queue


def rows(jobs: Iterable[JobView], title: str = "") -> str:
    """The jobs as a table's rows."""
    head = f'<h2 class="section" data-key="head-{title}">{title}</h2>' if title else ""
    return f'{head}<div class="jobs" role="list" data-key="jobs-{title}">{"".join(map(row, jobs))}</div>'


def row(job: JobView) -> str:
    """One job on one line (on several where the screen is small)."""
    return (
        f'<div class="job" role="listitem" data-key="{escape(job.job_id)}" data-status="{job.status}">'
        f'<div><button type="button" class="plain open" data-do="open" data-what="{escape(job.job_id)}">'
        f'<span class="prompt-text" title="{escape(job.prompt)}">{escape(job.prompt)}</span></button>'
        f'<p class="facts"><span>{moment(job)}</span><span>{seconds(job.duration)}</span>'
        f'<span>{escape(job.model)}</span><span class="seed">seed {job.seed}</span>{_urgency(job)}</p></div>'
        f'<div>{pill(job)}</div><div class="middle">{_middle(job)}</div>'
        f'<div class="actions">{_row_actions(job)}</div></div>'
    )


def _urgency(job: JobView) -> str:
    return f"<span>priority {job.priority:+}</span>" if job.priority else ""


def _middle(job: JobView) -> str:
    match job.status:
        case JobStatus.PENDING | JobStatus.PROCESSING:
            return progress(job)
        case JobStatus.COMPLETED:
            return player(job, compact=True)
        case JobStatus.FAILED:
            return why(job)
        case JobStatus.CANCELLED:
            return ""


def _row_actions(job: JobView) -> str:
    match job.status:
        case JobStatus.PENDING:
            first = "" if job.queue_position == 1 or job.after else button("front", job, "To the front")
            return first + button("cancel", job, "Cancel", "stop")
        case JobStatus.PROCESSING:
            return button("cancel", job, "Stop", "stop")
        case JobStatus.COMPLETED:
            return download(job)
        case JobStatus.FAILED | JobStatus.CANCELLED:
            return button("retry", job, "Try again")


def pager(page: JobPage) -> str:
    """Where in the list, and the way to the neighbours and the ends; nothing when all is on one page."""
    pages = max(1, -(-page.total // page.page_size))
    if pages == 1:
        return ""
    back, on = page.page > 1, page.page < pages
    return (
        f'<div class="pager">{_turn("First", 1, back)}{_turn("Newer", page.page - 1, back)}'
        f"<span>Page {page.page:,} of {pages:,}</span>"
        f"{_turn('Older', page.page + 1, on)}{_turn('Last', pages, on)}</div>"
    )


def _turn(words: str, number: int, possible: bool) -> str:
    return (
        f'<button type="button" data-do="page" data-what="{number}"{"" if possible else " disabled"}>{words}</button>'
    )


def queue_state(state: QueueState) -> str:
    """Whether jobs are started, and the switch."""
    if not state.paused:
        return (
            '<div class="queue-state"><span>Jobs start as soon as there is room.</span><div class="actions">'
            '<button type="button" data-do="pause" data-what="">Pause the queue</button></div></div>'
        )
    since = f' since <studio-time at="{state.paused_at.isoformat()}"></studio-time>' if state.paused_at else ""
    return (
        f'<div class="queue-state paused"><span><b>The queue is paused</b>{since}. What is being made goes on; nothing '
        'new starts.</span><div class="actions"><button type="button" data-do="resume" data-what="">Resume</button>'
        "</div></div>"
    )


def paused(state: QueueState) -> str:
    """A note for those who wait; nothing while the queue runs."""
    return '<p class="paused-note">The queue is paused: nothing new starts.</p>' if state.paused else ""


def missing(job_id: str) -> str:
    """A note for who follows a link to a job that is not there."""
    return f'<p class="paused-note">{escape(JobNotFound(job_id[:40]))}</p>'


def nothing(status: JobStatus | None, search: str | None) -> str:
    """An empty list, and why."""
    words = f"Nothing matches “{escape(search)}”." if search else NOTHING[status]
    return f'<div class="empty"><p>{words}</p></div>'


def figures(stats: QueueStats) -> str:
    """The queue in six figures."""
    pairs = {
        "Waiting": stats.pending_jobs,
        "Working": stats.processing_jobs,
        "Completed": stats.completed_jobs,
        "Failed": stats.failed_jobs,
        "Longest wait": seconds(stats.oldest_pending_job_age_seconds),
        "Average time": seconds(stats.average_processing_time_seconds),
    }
    cells = [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs.items()]
    return f'<dl class="stats">{"".join(cells)}</dl>'


# Notes


def problems(sentences: Iterable[str]) -> str:
    """What is wrong, in words, where it was asked for; nothing when nothing is."""
    items = [escape(sentence) for sentence in sentences]
    if not items:
        return ""
    text = items[0] if len(items) == 1 else f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
    return f'<div class="problem" role="alert">{text}</div>'


def limited(retry_after_s: int, before: str = "") -> str:
    """Too many requests: when to try again, counting down. What was typed stays where it is."""
    return (
        f'<div class="problem" role="alert">{escape(before)}Too many requests: '
        f'<studio-countdown seconds="{retry_after_s}">try again in {retry_after_s} s.</studio-countdown></div>'
    )


def model_note(info: ModelInfo | None) -> str:
    """What choosing this model means: its licence and what it downloads."""
    if info is None:
        return '<div class="note">A fine-tune: the name of its folder under <b>models</b> in the data dir.</div>'
    size = f"Downloads <b>{_bytes(info.download_bytes)}</b> the first time. " if info.download_bytes else ""
    warning = ": not for commercial use" if "NC" in info.licence else ""
    return f'<div class="note">{size}Licence <b>{escape(info.licence)}</b>{warning}.</div>'


def model_choice(info: ModelInfo) -> str:
    """A model in the list of all: what it is, weighs and may be used for."""
    terms = f" ({_bytes(info.download_bytes)}, {info.licence})" if info.download_bytes else ""
    return f"{info.title} – {info.what}{terms}"


def opening(name: str = "", title: str = "") -> str:
    """What the next piece goes on from, and a way to let go of it; or a way to bring a file."""
    if not name:
        what = '<label>Go on from a file of yours<input type="file" accept="audio/*,.flac,.aiff" data-bring></label>'
    else:
        what = (
            f'<span>Goes on from <b>{escape(title)}</b></span><button type="button" class="plain" data-do="let_go" '
            'data-what="" aria-label="Do not go on from it" title="Do not go on from it">✕</button>'
        )
    state = "chosen" if name else "open"
    brought = '<button type="button" data-do="brought" data-what="" hidden></button><span role="status"></span>'
    return f'<div class="opening {state}" data-key="{state}" data-source="{escape(name)}">{what}{brought}</div>'


def chips(prompts: Iterable[str], into: str) -> str:
    """Prompts to click; a click writes one into the box that the selector `into` names, undone with Ctrl+Z."""
    buttons = (
        f'<button type="button" data-into="{escape(into)}" data-insert="{escape(prompt)}">{escape(prompt)}</button>'
        for prompt in prompts
    )
    return f'<div class="chips">{"".join(buttons)}</div>'


# Words


def step_words(step: Step) -> str:
    """`loading_model` → `Loading model`."""
    return step.value.replace("_", " ").capitalize()


def percent(job: JobView) -> int:
    """0..100."""
    return round(100 * job.progress)


def seconds(value: float | None, *, exact: bool = True) -> str:
    """A length of time for people: `1.4 s`, `8 s`, `2 min 5 s`."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s".replace(".0 s", " s") if exact and value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


LOGO = (
    '<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9" fill="#d2492a"/>'
    '<path d="M7.5 14v4M12 9.5v13M16 12.5v7M20 6.5v19M24.5 13v6" stroke="#fff7f2" stroke-width="2.8" '
    'stroke-linecap="round"/></svg>'
)
MASTHEAD = (
    f'<div class="masthead">{LOGO}<div><h1>Studio</h1><p>Say it, hear it.</p></div>'
    '<button id="theme-switch" type="button" aria-label="Switch between light and dark" title="Light or dark">'
    '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="9" fill="none" stroke="currentColor" '
    'stroke-width="2"/><path d="M12 3a9 9 0 0 1 0 18z" fill="currentColor"/></svg></button></div>'
)
KEYS = '<div class="note keys"><kbd>Ctrl</kbd> <kbd>Enter</kbd> generates, also while music is being made</div>'
NOTHING: dict[JobStatus | None, str] = {
    None: "No jobs yet. What anybody asks for appears here.",
    JobStatus.PENDING: "Nothing waits.",
    JobStatus.PROCESSING: "Nothing is being made.",
    JobStatus.COMPLETED: "Nothing is completed yet.",
    JobStatus.FAILED: "Nothing has failed.",
    JobStatus.CANCELLED: "Nothing was cancelled.",
}
EMPTY = (
    '<div class="empty" data-title="Studio"><svg viewBox="0 0 96 40" aria-hidden="true">'
    '<path d="M4 18v4M16 12v16M28 4v32M40 14v12M52 8v24M64 16v8M76 10v20M88 17v6" stroke="currentColor" '
    'stroke-width="4" stroke-linecap="round"/></svg><p>Your music appears here.<br>'
    "Describe some, or take one of the ideas, and press Generate.</p></div>"
)
