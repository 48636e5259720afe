"""The controls of a request, made from `GenerationRequest`: bounds, defaults and meanings have their home there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import annotated_types
import gradio as gr
from pydantic import ValidationError

from studio.api.security import client_of_request
from studio.errors import InvalidRequest, RateLimited, StudioError
from studio.runtime import Studio
from studio.schemas import GenerationRequest, describe
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
    seed: gr.Number

    @property
    def all(self) -> list[Any]:
        return [self.model, self.duration, self.temperature, self.top_k, self.top_p, self.cfg_coef, self.seed]


def controls(studio: Studio, *, seed_info: str = "") -> Controls:
    """Model and duration, and below them an accordion with every sampling control."""
    model = _model(studio)
    note = gr.HTML(cards.model_note(_info(studio, studio.settings.model_name)), apply_default_css=False)
    duration = _slider("duration", 1)
    model.change(lambda name: cards.model_note(_info(studio, name)), model, note, **QUIET)
    with gr.Accordion("Sampling", open=False, elem_classes=["sampling"]):
        cfg_coef, temperature = _slider("cfg_coef", 0.1), _slider("temperature", 0.05)
        top_k, top_p = _slider("top_k", 1), _slider("top_p", 0.01)
        seed = gr.Number(
            None, label=LABELS["seed"], info=f"{_field('seed').description} {seed_info}".strip(),
            placeholder="random", precision=0,
        )  # fmt: skip
    return Controls(model, duration, temperature, top_k, top_p, cfg_coef, seed)


def request_of(prompt: str, *values: Any) -> GenerationRequest:
    """The request that the form's values make. Raises pydantic's ValidationError."""
    model, duration, temperature, top_k, top_p, cfg_coef, seed = values
    return GenerationRequest(
        prompt=prompt, model=model or None, duration=duration, temperature=temperature,
        top_k=top_k, top_p=top_p, cfg_coef=cfg_coef, seed=seed,
    )  # fmt: skip


def sentences(error: ValidationError | StudioError) -> list[str]:
    """What is wrong, for a person: one sentence a field."""
    if isinstance(error, ValidationError):
        return [_sentence(field, message) for field, message in describe(error)]
    if isinstance(error, InvalidRequest):
        return [_sentence(error.field, error.reason)]
    if isinstance(error, RateLimited):
        return [f"Too many requests: please wait {error.retry_after_s} s, then try again."]
    return [str(error)]


def problems(error: ValidationError | StudioError) -> tuple[str, str]:
    """What is wrong as HTML: what belongs under the prompt, and what belongs under the other controls."""
    said = sentences(error)
    at_prompt = [sentence for sentence in said if sentence.startswith(LABELS["prompt"])]
    return cards.problems(at_prompt), cards.problems(sentence for sentence in said if sentence not in at_prompt)


def client_of(request: gr.Request, studio: Studio) -> str:
    """Who asks, for the rate limit."""
    return client_of_request(request, studio.settings)


def _sentence(field: str, message: str) -> str:
    return f"{LABELS.get(field, field)}: {message}."


def _field(name: str) -> Any:
    return GenerationRequest.model_fields[name]


def _slider(name: str, step: float) -> gr.Slider:
    field = _field(name)
    low = next(limit.ge for limit in field.metadata if isinstance(limit, annotated_types.Ge))
    high = next(limit.le for limit in field.metadata if isinstance(limit, annotated_types.Le))
    return gr.Slider(low, high, value=field.default, step=step, label=LABELS[name], info=field.description)


def _model(studio: Studio) -> gr.Dropdown:
    choices = [(cards.model_choice(info), info.name) for info in studio.models()]
    return gr.Dropdown(choices, value=studio.settings.model_name, label=LABELS["model"], allow_custom_value=True)


def _info(studio: Studio, name: str | None) -> Any:
    return next((info for info in studio.models() if info.name == name), None)
