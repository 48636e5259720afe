"""The queue tab: what waits, what runs, what has ended, of everybody."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runtime import Studio
from studio.schemas import PROMPT_MAX, JobPage, JobStatus
from studio.ui import cards
from studio.ui.actions import act_on_jobs
from studio.ui.live import QUIET, Part, action, live

PAGE_SIZE = 20
RUNNING_MAX = 64  # jobs in slots, shown above the list
ALL = "all"


def build(studio: Studio, mine: gr.HTML) -> Part:
    """The tab's components and its listeners."""
    state = live(elem_id="queue-state")
    figures = live()
    choices = [("All", ALL), *((words, status.value) for status, words in cards.STATUS_WORDS.items())]
    with gr.Row(elem_id="queue-tools"):
        status = gr.Radio(choices, value=ALL, show_label=False, container=False, elem_classes=["segments"], scale=3)
        search = gr.Textbox(
            show_label=False, label="Search", container=False, elem_id="search", max_length=PROMPT_MAX, max_lines=1,
            placeholder="Search prompts and ids", scale=1, min_width=220,
        )  # fmt: skip
    number = gr.State(1)
    table = live(elem_id="queue-table")

    def turn(event: gr.EventData, now: int) -> int:
        name, wanted = action(event)
        return max(1, int(wanted[:7])) if name == "page" and wanted.isdecimal() else now

    def switch(event: gr.EventData) -> str:
        name, _ = action(event)
        try:
            return cards.queue_state(studio.pause() if name == "pause" else studio.resume())
        except StudioError as error:
            gr.Warning(cards.escape(str(error)))
            return cards.queue_state(studio.queue_state())

    gr.on([status.input, search.input], lambda: 1, None, number, **QUIET)
    state.click(switch, None, state, **QUIET)
    table.click(turn, number, number, **QUIET)
    act_on_jobs(studio, table, mine)
    return Part([status, search, number], [state, figures, table], lambda *view: show(studio, *view))


def show(studio: Studio, status: str, search: str | None, number: int) -> tuple[str, str, str]:
    """Whether the queue runs, its figures, and a page of rows: above the newest of all, those that are being made."""
    wanted = None if status == ALL else JobStatus(status)
    text = "".join(filter(str.isprintable, search or "")).strip()[:PROMPT_MAX] or None
    running = [] if wanted or text or number > 1 else studio.jobs(JobStatus.PROCESSING, 1, RUNNING_MAX).jobs
    page = _within(studio, wanted, number, text)
    pinned = {job.job_id for job in running}
    rest = [job for job in page.jobs if job.job_id not in pinned]
    body = (cards.rows(running, "Being made") if running else "") + (cards.rows(rest, "") if rest else "")
    state, figures = cards.queue_state(studio.queue_state()), cards.figures(studio.queue_stats())
    return state, figures, body + cards.pager(page) if body else cards.nothing(wanted, text)


def _within(studio: Studio, status: JobStatus | None, number: Any, search: str | None) -> JobPage:
    """The page asked for, or the last one when there are no longer so many."""

    def look(page: int) -> JobPage:
        if status is JobStatus.PENDING:
            return studio.waiting(page, PAGE_SIZE, search)
        return studio.jobs(status, page, PAGE_SIZE, search)

    page = look(number)
    last = max(1, -(-page.total // PAGE_SIZE))
    return page if number <= last else look(last)
