"""The system tab: is the studio well, how hard does the machine work, and what has been set."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

from studio.errors import DatabaseUnavailable
from studio.runtime import Studio
from studio.settings import in_effect
from studio.ui import cards, gauges
from studio.ui.live import Part, live
from studio.vitals import machine

REDRAW_S = 2.0


def build(studio: Studio) -> Part:
    """The tab, which has no listeners of its own."""
    well = live()
    gr.HTML('<h2 class="section">The queue</h2>', apply_default_css=False)
    figures = live()
    gr.HTML('<h2 class="section">The machine, over the last minutes</h2>', apply_default_css=False)
    charts = live()
    parts = live()
    host, links = functools.cache(machine), gauges.links(login=bool(studio.settings.api_keys))

    def draw() -> list[Any]:
        health, load = gauges.health(studio.health()), gauges.charts(studio.vitals(), host())
        try:
            counts, running = cards.figures(studio.queue_stats()), gauges.workers(studio.workers())
        except DatabaseUnavailable:  # the health says so; what is known of the rest stays
            return [health, gr.skip(), load, gr.skip()]
        running += gauges.limiter(studio.limiter())
        about = f"<div>{running}</div>{gauges.versions(host(), studio.database())}"
        settings = gauges.settings(in_effect(studio.settings))
        return [health, counts, load, f'<div class="panels">{about}</div>{settings}{links}']

    return Part([], [well, figures, charts, parts], draw, REDRAW_S)
