"""What the buttons of a job do: cancel, to the front, once more, again with a new seed."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runtime import Studio
from studio.schemas import RECIPE_FIELDS, GenerationRequest, JobView
from studio.ui import lists
from studio.ui.cards import escape
from studio.ui.form import client_of, sentences
from studio.ui.live import QUIET, action

RECENT = 8  # jobs that a browser's list shows
IDS_MAX = 12  # a batch, or the list and the job that the address names


def act_on_jobs(studio: Studio, shown: gr.HTML, mine: gr.HTML) -> None:
    """Listen to the buttons of the cards or rows that are `shown`; each click counts, however soon the next one.

    `mine` lists this browser's jobs.
    """

    def act(event: gr.EventData, request: gr.Request, mine: str) -> Any:
        name, job_id = action(event)
        try:
            if name == "cancel":
                studio.cancel(job_id, force=True)
            elif name == "front":
                studio.to_front(job_id)
            elif name == "retry":
                studio.retry(job_id, client_of(request, studio))
            elif name == "again":
                accepted = studio.submit(_with_new_seed(studio.job(job_id)), client_of(request, studio))
                return lists.text(accepted.job_id, to=lists.ids(mine, RECENT))
        except StudioError as error:
            gr.Warning(escape(" ".join(sentences(error))))
        return gr.skip()

    shown.click(act, mine, mine, trigger_mode="multiple", **QUIET)


def found(studio: Studio, job_ids: list[str]) -> list[JobView]:
    """The jobs that (still) exist, in the given order. The ids come from a browser: they may be anything."""
    wanted = job_ids[:IDS_MAX]
    jobs = {change.job.job_id: change.job for change in studio.changes(wanted)} if wanted else {}
    return [jobs[job_id] for job_id in dict.fromkeys(wanted) if job_id in jobs]


def _with_new_seed(job: JobView) -> GenerationRequest:
    fields = {name: getattr(job, name) for name in RECIPE_FIELDS}
    return GenerationRequest(**fields | {"seed": None})
