"""The queue tab: what waits, what runs, what has ended, of everybody."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from studio.runtime import Studio
from studio.schemas import JobStatus
from studio.ui import cards
from studio.ui.actions import job_actions
from studio.ui.live import QUIET, action, live

PAGE_SIZE = 20
ALL = "all"


@dataclass(frozen=True)
class QueueTab:
    """What the page wires to its live updates."""

    status: gr.Radio
    page_number: gr.State
    figures: gr.HTML
    table: gr.HTML


def build(studio: Studio, mine: gr.BrowserState) -> QueueTab:
    """The tab's components and its listeners."""
    figures = live("")
    choices = [("All", ALL), *((words, status.value) for status, words in cards.STATUS_WORDS.items())]
    status = gr.Radio(choices, value=ALL, show_label=False, container=False, elem_classes=["segments"])
    page_number = gr.State(1)
    table = live("")

    def turn(event: gr.EventData, now: int) -> int:
        name, number = action(event)
        return max(1, int(number[:6])) if name == "page" and number.isdecimal() else now

    status.input(lambda: 1, None, page_number, **QUIET)
    table.click(turn, page_number, page_number, **QUIET)
    table.click(job_actions(studio), mine, mine, **QUIET)
    return QueueTab(status, page_number, figures, table)


def show(studio: Studio, status: str, page_number: int) -> tuple[str, str]:
    """The figures and a page of rows."""
    wanted = None if status == ALL else JobStatus(status)
    page = studio.jobs(wanted, page_number, PAGE_SIZE)
    body = cards.rows(page.jobs) + cards.pager(page) if page.jobs else cards.NOTHING
    return cards.figures(studio.queue_stats()), body
