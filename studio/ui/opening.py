"""What the next piece goes on from: a strip in the prompt tab that says so, takes a file and lets go of it again, and
how much of it is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runtime import Studio
from studio.schemas import CONTINUE_MIN_S, DURATION_MAX_S, RECIPE_FIELDS, JobView
from studio.ui import cards, drafts, lists
from studio.ui.actions import RECENT, found
from studio.ui.form import LABELS, Controls, sentences
from studio.ui.live import QUIET, action, live

ADDED_S = 8.0  # that a continuation adds, if nobody says otherwise
KEPT_S = 20.0  # of music that is as long as a piece can be
SECONDS = re.compile(r"\d\d?(\.\d)?")


@dataclass(frozen=True)
class Source:
    """What is gone on from."""

    name: str  # a job's or a clip's id
    title: str
    seconds: float

    @property
    def most(self) -> float:
        """Seconds of it that can be kept."""
        return min(math.floor(10 * self.seconds) / 10, DURATION_MAX_S - 1)

    @property
    def kept(self) -> float:
        """Seconds of it that are kept, if nobody says otherwise: all, where that leaves room for more."""
        return self.most if self.seconds < DURATION_MAX_S - 1 else KEPT_S

    @property
    def duration(self) -> float:
        """Seconds of the whole, if nobody says otherwise: never less than there is."""
        return min(DURATION_MAX_S, float(math.ceil(max(self.kept + ADDED_S, self.seconds))))


class Opening:
    """The strip and the slider below it. `given` are their inputs to a listener, which `asked` turns into fields."""

    def __init__(self, studio: Studio, ideas: Sequence[str]) -> None:
        self._studio, self._ideas = studio, ideas
        self._source = gr.State(None)
        self._strip = live(cards.opening(), elem_id="opening")
        self._keep = gr.Slider(
            CONTINUE_MIN_S, DURATION_MAX_S, step=0.1, label=LABELS["continue_seconds"], visible=False, elem_id="keep",
            info="Seconds of its beginning. Duration is the length of the whole.",
        )  # fmt: skip

    @property
    def given(self) -> list[Any]:
        return [self._source, self._keep]

    @staticmethod
    def asked(source: Source | None, keep: float) -> dict[str, Any]:
        """What a request says of it."""
        return {"continue_from": source.name, "continue_seconds": float(keep)} if source else {}

    def listen(self, prompt: gr.Textbox, form: Controls, mine: gr.HTML, shown: Sequence[gr.HTML]) -> None:
        """Listen to the strip, and to the buttons of the jobs that are `shown`. `mine` lists this browser's jobs."""
        names = [field.name for field in fields(form)]
        filled = [self._source, self._strip, self._keep, prompt, *form.all]

        def act(event: gr.EventData, text: str, before: Source | None, mine: str) -> Any:
            name, what = action(event)
            try:
                source, values = self._chosen(name, what)
                if self._is_draft(text, before, mine):
                    values.pop("prompt", None)
            except StudioError as error:
                gr.Warning(cards.escape(" ".join(sentences(error))))
                return gr.skip()
            except _NotMine:
                return gr.skip()
            shows = [values.get(name, gr.skip()) for name in ("prompt", *names)]
            strip = cards.opening(source.name, source.title) if source else cards.opening()
            return source, strip, _slider(source, values.get("keep")), *shows

        clicks = [self._strip.click, *(html.click for html in shown)]
        given = [prompt, self._source, mine]
        answered = gr.on(clicks, act, given, filled, trigger_mode="multiple", **QUIET)  # also while another one is
        answered.then(**drafts.keep([prompt, *form.all]))

    def _is_draft(self, text: str, before: Source | None, mine: str) -> bool:
        """Whether somebody has typed this and not sent it: the page has put it there neither as an idea nor before."""
        sent = [job.prompt for job in found(self._studio, lists.ids(mine, RECENT))]
        return text.strip() not in ("", *self._ideas, before and before.title, *sent)

    def _chosen(self, name: str, what: str) -> tuple[Source | None, dict[str, Any]]:
        """What a click means: the source from now on, and what the form's controls become."""
        match name:
            case "continue":
                job = self._studio.job(what)
                source = Source(what, job.prompt, self._studio.length_of(what))
                return source, _recipe(job) | {"duration": source.duration, "seed": ""}
            case "brought":
                source_id, kept, title = [*what.split(" ", 2), "", ""][:3]  # after a reload it says how much is kept
                source = Source(source_id, title, self._studio.length_of(source_id))
                return source, {"keep": float(kept)} if SECONDS.fullmatch(kept) else {"duration": source.duration}
            case "let_go":
                return None, {}
        raise _NotMine


class _NotMine(Exception):
    """Another listener's click."""


def _recipe(job: JobView) -> dict[str, Any]:
    return {name: getattr(job, name) for name in RECIPE_FIELDS}


def _slider(source: Source | None, keep: float | None) -> gr.Slider:
    if source is None:
        return gr.Slider(visible=False)
    return gr.Slider(maximum=source.most, value=source.kept if keep is None else keep, visible=True)
