"""What changes while somebody looks: HTML that `page.js` patches instead of writing it anew, and the pulse that asks.

One listener a page draws the parts that are in view when any job, or the view on them, has changed; else it answers
nothing. The pulse is quick while things change, slow when nothing does, and slower still while the page is hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import gradio as gr

from studio.errors import DatabaseUnavailable

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # for every listener
T = TypeVar("T")
SHOW_PROBLEM: dict[str, Any] = {"fn": None, "js": "() => studio.showProblem()", **QUIET}  # once one may be there
AS_TEXT = '(text) => text || ""'  # a browser that has stored nothing yet says null

_ON_LOAD = """
const show = () => window.studio ? studio.patch(element, props.value || "") : setTimeout(show, 20);
watch("value", show);
show();
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button && !button.disabled) trigger("click", { do: button.dataset.do, what: button.dataset.what });
});
"""
_PULSE = """
const begin = () => window.studio ? studio.pulse(trigger, (changed) => watch("value", changed)) : setTimeout(begin, 20);
begin();
"""


def live(value: str = "", *, elem_id: str | None = None) -> gr.HTML:
    """HTML that is patched in place. A click on `<button data-do="x" data-what="y">` is its click event.

    The template is empty on purpose: Gradio would paste the value into a JavaScript literal.
    """
    return gr.HTML(value, html_template="", js_on_load=_ON_LOAD, apply_default_css=False, elem_id=elem_id)


def action(event: gr.EventData) -> tuple[str, str]:
    """What a click on live HTML asks for: the action and its object. Sent by the browser, so it may be anything."""
    data = event._data if isinstance(event._data, dict) else {}
    return str(data.get("do", "")), str(data.get("what", ""))


@dataclass(frozen=True)
class Part:
    """A piece of the page: `draw` takes the values of `asks` and gives those of `shows`."""

    asks: Sequence[Any]
    shows: Sequence[Any]
    draw: Callable[..., Sequence[Any]]
    every_s: float | None = None  # drawn anew this often, though no job has changed


def keep_live(page: gr.Blocks, tab: gr.State, version: Callable[[], object], parts: dict[str, Part]) -> None:
    """Draw the part of the open tab, and those of no tab (their names begin with `/`), whenever they have changed.

    `version` grows with every change of anything that the parts show.
    """
    pulse = gr.HTML("", html_template="", js_on_load=_PULSE, elem_id="pulse", apply_default_css=False)
    views = [shown for part in parts.values() for shown in part.shows]
    asked = [component for part in parts.values() for component in part.asks]

    def refresh(last: str, tab: str, *values: Any) -> Any:
        given = _shared_out(parts, list(values))
        in_view = {name for name in parts if name == tab or name.startswith("/")}
        now = _unless_away(version)
        seen = [(name, now, given[name], _beat(parts[name].every_s)) for name in parts if name in in_view]
        mark = f"{hash(repr(seen)):x}"
        if mark == last:
            return gr.skip()
        drawn: list[Any] = []
        for name, part in parts.items():
            shown = _unless_away(partial(part.draw, *given[name])) if name in in_view else None
            drawn += [gr.skip()] * len(part.shows) if shown is None else shown
            if shown is None and name in in_view:
                mark = ""  # the next pulse tries again
        return mark, *drawn

    triggers = [pulse.click, page.load, tab.change, *(component.change for component in asked)]
    gr.on(triggers, refresh, [pulse, tab, *asked], [pulse, *views], **QUIET)


def _shared_out(parts: dict[str, Part], values: list[Any]) -> dict[str, list[Any]]:
    given = {}
    for name, part in parts.items():
        given[name], values = values[: len(part.asks)], values[len(part.asks) :]
    return given


def _unless_away(look: Callable[[], T]) -> T | None:
    """Nothing while the database does not answer: then what is shown stays."""
    try:
        return look()
    except DatabaseUnavailable:
        return None


def _beat(every_s: float | None) -> int:
    return int(time.monotonic() / every_s) if every_s else 0
