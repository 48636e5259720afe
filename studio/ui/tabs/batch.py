"""The batch tab: one prompt a line, accepted together or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import ValidationError

from studio.errors import StudioError
from studio.runtime import Studio
from studio.schemas import BATCH_MAX, BatchRequest, GenerationRequest, describe
from studio.ui import cards
from studio.ui.actions import found, job_actions
from studio.ui.form import client_of, controls, request_of, sentences
from studio.ui.live import AS_TEXT, QUIET, live

PLACEHOLDER = "calm piano, slow, no drums\njazz trio, walking bass\nheavy metal, fast drums"


@dataclass(frozen=True)
class BatchTab:
    """What the page wires to its live updates."""

    batch: gr.BrowserState  # ids of the jobs of this browser's last batch
    table: gr.HTML


def build(studio: Studio, page: gr.Blocks, mine: gr.BrowserState) -> BatchTab:
    """The tab's components and its listeners."""
    batch = gr.BrowserState([], storage_key="studio-batch", secret="studio")
    draft = gr.BrowserState("", storage_key="studio-batch-draft", secret="studio")
    lines = gr.Textbox(
        label="One prompt a line", lines=6, max_lines=14, elem_id="lines", placeholder=PLACEHOLDER
    )  # fmt: skip
    count = gr.HTML(_count(""), apply_default_css=False)
    problem = gr.HTML("", elem_classes=["maybe"], apply_default_css=False)
    form = controls(studio, seed_info="In a batch every line gets it.")
    generate = gr.Button("Generate all", variant="primary", size="lg", elem_classes=["go"])
    table = live("")

    def submit(request: gr.Request, text: str, *values: Any) -> tuple[Any, str]:
        requests, wrong = parse(text, *values)
        if wrong:
            return gr.skip(), cards.problems(wrong)
        try:
            accepted = studio.submit_batch(BatchRequest(requests=requests), client_of(request, studio))
        except (ValidationError, StudioError) as error:
            return gr.skip(), cards.problems(sentences(error))
        return accepted.job_ids, ""

    generate.click(submit, [lines, *form.all], [batch, problem], **QUIET)
    table.click(job_actions(studio), mine, mine, **QUIET)
    lines.change(_count, lines, count, trigger_mode="always_last", **QUIET)
    lines.change(None, lines, draft, js=AS_TEXT, **QUIET)
    page.load(None, draft, lines, js=AS_TEXT, **QUIET)
    return BatchTab(batch, table)


def show(studio: Studio, batch: list[str] | None) -> str:
    """The rows of the last batch."""
    jobs = found(studio, batch or [])
    return cards.rows(jobs) if jobs else ""


def parse(text: str, *values: Any) -> tuple[list[GenerationRequest], list[str]]:
    """The requests of the lines that are not empty, and what is wrong with which line."""
    requests, wrong = [], []
    for number, line in _prompts(text):
        try:
            requests.append(request_of(line, *values))
        except ValidationError as error:
            for field, message in describe(error):
                where = f"Line {number}" if field == "prompt" else field.capitalize()
                wrong.append(f"{where}: {message}.")
    if not requests and not wrong:
        wrong.append("Write at least one prompt.")
    if len(_prompts(text)) > BATCH_MAX:
        wrong.append(f"Line {_prompts(text)[BATCH_MAX][0]}: a batch has at most {BATCH_MAX} prompts.")
    return requests, list(dict.fromkeys(wrong))


def _prompts(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _count(text: str) -> str:
    return f'<div class="note count"><b>{len(_prompts(text))}</b> of {BATCH_MAX} prompts</div>'
