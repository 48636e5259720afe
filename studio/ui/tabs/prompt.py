"""The prompt tab: say what you want, watch it being made, hear it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr
from pydantic import ValidationError

from studio.errors import StudioError
from studio.runtime import Studio
from studio.ui import cards, drafts, lists
from studio.ui.actions import RECENT, act_on_jobs, found
from studio.ui.form import choices, client_of, controls, problems, request_of
from studio.ui.live import AS_TEXT, QUIET, SHOW_PROBLEM, Part, live
from studio.ui.opening import Opening, Source

EXAMPLES = [
    "lo-fi hip hop beat to study to, 80 bpm",
    "sad piano, slow, no drums",
    "fast drum and bass",
    "dreamy ambient pads, no drums",
    "funk bass and drums, 110 bpm",
    "cheerful folk guitar",
    "epic orchestra",
    "slow blues",
    "driving techno, 130 bpm",
]


def build(studio: Studio, page: gr.Blocks, mine: gr.HTML) -> tuple[Part, Callable[[Sequence[gr.HTML]], None]]:
    """The tab, where this browser's jobs are shown, and what lets jobs be continued here that are shown anywhere."""
    draft = gr.BrowserState("", storage_key="studio-draft", secret="studio")
    asked = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_id="composer"):
            prompt = gr.Textbox(
                show_label=False, label="Prompt", lines=3, max_lines=8, autofocus=True, elem_id="prompt",
                placeholder="Describe the music: style, instruments, mood, tempo …", container=False,
            )  # fmt: skip
            at_prompt = gr.HTML("", elem_id="at-prompt", elem_classes=["maybe"], apply_default_css=False)
            gr.HTML(cards.chips(EXAMPLES, "#prompt textarea"), apply_default_css=False)
            opening = Opening(studio, EXAMPLES)
            form = controls(studio, "prompt")
            at_form = gr.HTML("", elem_classes=["maybe"], apply_default_css=False)
            generate = gr.Button("Generate", variant="primary", size="lg", elem_classes=["go"])
            gr.HTML(cards.KEYS, apply_default_css=False)
        with gr.Column(scale=6, min_width=320):
            gr.HTML('<h2 class="section">Your recent music</h2>', apply_default_css=False)
            paused = live(elem_id="paused")
            recent = live(cards.EMPTY)

    def submit(
        request: gr.Request, mine: str, source: Source | None, keep: float, prompt: str,
        *values: Any,
    ) -> tuple[Any, str, str]:  # fmt: skip
        try:
            asked = request_of(prompt, *values, **opening.asked(source, keep))
            accepted = studio.submit(asked, client_of(request, studio))
        except (ValidationError, StudioError) as error:
            return gr.skip(), *problems(error)
        return lists.text(accepted.job_id, to=lists.ids(mine, RECENT)), "", ""

    given = [mine, *opening.given, prompt, *form.all]
    shown = [mine, at_prompt, at_form]
    generate.click(submit, given, shown, trigger_mode="multiple", **QUIET).then(**SHOW_PROBLEM)
    act_on_jobs(studio, recent, mine)
    prompt.change(None, prompt, draft, js=AS_TEXT, **QUIET)
    drafts.restore(page, [prompt, *form.all], draft, choices(studio))
    page.load(_asked_for, None, asked, **QUIET)
    listen = partial(opening.listen, prompt, form, mine)
    return Part([mine, asked], [paused, recent], lambda *view: show(studio, *view)), listen


def _asked_for(request: gr.Request) -> str | None:
    job_id: str | None = request.query_params.get("job")
    return job_id


def show(studio: Studio, mine: str, asked: str | None) -> tuple[str, str]:
    """What to know first: the queue is paused, or there is no job such as the address names. Then the cards of that one
    and of this browser's jobs."""
    ids = lists.ids(mine, RECENT)
    shown = found(studio, [asked, *ids] if asked and asked not in ids else ids)
    missing = cards.missing(asked) if asked and asked not in [job.job_id for job in shown] else ""
    return missing + cards.paused(studio.queue_state()), cards.cards(shown)
