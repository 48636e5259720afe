"""Components whose HTML changes while somebody listens: `page.js` patches them instead of writing them anew."""

from __future__ import annotations

from typing import Any

import gradio as gr

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # for every listener
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


def live(value: str) -> gr.HTML:
    """HTML that is patched in place. A click on `<button data-do="x" data-what="y">` is its click event.

    The template is empty on purpose: Gradio would paste the value into a JavaScript literal.
    """
    return gr.HTML(value, html_template="", js_on_load=_ON_LOAD, apply_default_css=False)


def action(event: gr.EventData) -> tuple[str, str]:
    """What a click on live HTML asks for: the action and its object. Sent by the browser, so it may be anything."""
    data = event._data if isinstance(event._data, dict) else {}
    return str(data.get("do", "")), str(data.get("what", ""))
