"""The controls of a request, made from `GenerationRequest`: bounds, defaults and meanings have their home there."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import annotated_types
import gradio as gr
from pydantic import ValidationError

from studio.errors import InvalidRequest, RateLimited, StudioError
from studio.limits import client_of_request
from studio.runtime import Studio
from studio.schemas import AFTER_MAX, URL_MAX, GenerationRequest, describe
from studio.settings import ENV_PREFIX
from studio.sheet import names
from studio.ui import cards
from studio.ui.live import QUIET

LABELS = {
    "prompt": "Prompt",
    "duration": "Duration",
    "temperature": "Temperature",
    "top_k": "Top-k",
    "top_p": "Top-p",
    "cfg_coef": "Guidance (cfg_coef)",
    "seed": "Seed",
    "model": "Model",
    "priority": "Priority",
    "after": "Starts after",
    "webhook_url": "Webhook",
    "variations": "Takes",
    "continue_from": "Go on from",
    "continue_seconds": "Keep",
}


@dataclass(frozen=True)
class Controls:
    """A form's components, in the order of `request_of`'s arguments after the prompt."""

    model: gr.Dropdown
    duration: gr.Slider
    temperature: gr.Slider
    top_k: gr.Slider
    top_p: gr.Slider
    cfg_coef: gr.Slider
    seed: gr.Textbox
    priority: gr.Slider
    after: gr.Textbox
    webhook_url: gr.Textbox

    @property
    def all(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def controls(studio: Studio, form: str, *, folded: bool = True) -> Controls:
    """Model and duration, and below them, `folded` in an accordion, every other control; ids begin with `form`."""
    model = _model(studio)
    note = gr.HTML(cards.model_note(_info(studio, studio.settings.model_name)), apply_default_css=False)
    duration = _slider("duration", 1)
    model.change(lambda name: cards.model_note(_info(studio, name)), model, note, **QUIET)
    more = "Sampling, seed, order, webhook"
    with gr.Accordion(more, open=False, elem_classes=["sampling"]) if folded else nullcontext():
        cfg_coef, temperature = _slider("cfg_coef", 0.1), _slider("temperature", 0.05)
        top_k, top_p = _slider("top_k", 1), _slider("top_p", 0.01)
        seed = _line("seed", "random", 20)  # a gr.Number that says nothing says 0 once it has been seen
        priority = _slider("priority", 1)
        after = _line("after", "gen_…", AFTER_MAX * 41)
        webhook = _webhook(studio)
    made = Controls(model, duration, temperature, top_k, top_p, cfg_coef, seed, priority, after, webhook)
    for field in fields(made):
        getattr(made, field.name).elem_id = f"{form}-{field.name}"
    return made


def request_of(prompt: str, *values: Any, **more: Any) -> GenerationRequest:
    """The request that the form's values make, and `more`. Raises pydantic's ValidationError."""
    return GenerationRequest(prompt=prompt, **values_of(*values), **more)


def values_of(*values: Any) -> dict[str, Any]:
    """The form's values by field of a request; one that says nothing is left out."""
    given = dict(zip((field.name for field in fields(Controls)), values, strict=True))
    seed = "" if given["seed"] is None else str(given["seed"]).strip()
    given["seed"] = int(seed) if seed.removeprefix("-").isdecimal() else seed
    given["after"] = names(given["after"] or "")
    return {name: value for name, value in given.items() if value not in (None, "", [])}


def sentences(error: ValidationError | StudioError) -> list[str]:
    """What is wrong, for a person: one sentence a field."""
    if isinstance(error, ValidationError):
        return [_sentence(field, message) for field, message in describe(error)]
    if isinstance(error, InvalidRequest):
        return [_sentence(error.field, error.reason)]
    if isinstance(error, RateLimited):
        return [f"Too many requests: try again in {error.retry_after_s} s."]
    return [str(error)]


def problems(error: ValidationError | StudioError) -> tuple[str, str]:
    """What is wrong as HTML: what belongs under the prompt, and what belongs under the other controls."""
    if isinstance(error, RateLimited):
        return "", cards.limited(error.retry_after_s)
    said = sentences(error)
    at_prompt = [sentence for sentence in said if sentence.startswith(LABELS["prompt"])]
    return cards.problems(at_prompt), cards.problems(sentence for sentence in said if sentence not in at_prompt)


def client_of(request: gr.Request, studio: Studio) -> str:
    """Who asks, for the rate limit."""
    return client_of_request(request, studio.settings)


def _sentence(field: str, message: str) -> str:
    return f"{LABELS.get(field.partition('.')[0], field)}: {message.rstrip('.')}."


def _field(name: str) -> Any:
    return GenerationRequest.model_fields[name]


def _slider(name: str, step: float) -> gr.Slider:
    field = _field(name)
    low = next(limit.ge for limit in field.metadata if isinstance(limit, annotated_types.Ge))
    high = next(limit.le for limit in field.metadata if isinstance(limit, annotated_types.Le))
    return gr.Slider(low, high, value=field.default, step=step, label=LABELS[name], info=field.description)


def _line(name: str, placeholder: str, max_length: int, **more: Any) -> gr.Textbox:
    return gr.Textbox(
        label=LABELS[name], info=_field(name).description, placeholder=placeholder, max_lines=1, max_length=max_length,
        **more,
    )  # fmt: skip


def _webhook(studio: Studio) -> gr.Textbox:
    possible = studio.settings.webhook_secret is not None
    hint = "https://…" if possible else f"needs {ENV_PREFIX}WEBHOOK_SECRET"
    return _line("webhook_url", hint, URL_MAX, interactive=possible)


def choices(studio: Studio) -> dict[str, str]:
    """The models' names by what the form says of them."""
    return {cards.model_choice(info): info.name for info in studio.models()}


def _model(studio: Studio) -> gr.Dropdown:
    options, default = list(choices(studio).items()), studio.settings.model_name
    return gr.Dropdown(options, value=default, label=LABELS["model"], allow_custom_value=True)


def _info(studio: Studio, name: str | None) -> Any:
    return next((info for info in studio.models() if info.name == name), None)
