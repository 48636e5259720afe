"""Lists of ids that a browser keeps, newest first: this page's and those that its other tabs add meanwhile."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from studio.ui.live import QUIET

_ON_LOAD = """
const begin = () => window.studio ? studio.share(props, watch, "%s", %d) : setTimeout(begin, 20);
begin();
"""


def shared(page: gr.Blocks, name: str, most: int) -> gr.HTML:
    """A list under the `name` in the browser's store, of at most so many ids; unseen. Its value is text: see `ids`."""
    js = _ON_LOAD % (name, most)
    made = gr.HTML("[]", html_template="", js_on_load=js, apply_default_css=False, elem_classes=["unseen"])
    page.load(None, None, made, js=f'() => JSON.stringify(studio.listed("{name}"))', **QUIET)
    return made


def ids(text: Any, most: int) -> list[str]:
    """The ids. They come from a browser's store: they may be anything."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return []
    return [str(one) for one in found[:most]] if isinstance(found, list) else []


def text(*added: str, to: list[str]) -> str:
    """The list with more in front; the page puts what is new before what other tabs have added."""
    return json.dumps([*added, *to])
