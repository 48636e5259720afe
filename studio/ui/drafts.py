"""What is typed outlives a reload. `page.js` keeps it for its tab of the browser, by the ids of the components: also
while the server is away, when no listener is heard, and the page reloads once it is back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from studio.ui.live import QUIET


def restore(
    page: gr.Blocks, boxes: Sequence[Any], names: dict[str, str] | None = None, *, first: gr.BrowserState | None = None
) -> None:
    """Fill the boxes with what the tab has kept of them.

    Args:
        names: of choices, by the words that a dropdown shows.
        first: what the first box says in a new tab.
    """
    given = [*([first] if first else boxes[:1]), *boxes[1:]]
    js = f"(...given) => studio.restore({_ids(boxes)}, given, {json.dumps(names or {})})"
    page.load(None, given, boxes, js=js, **QUIET)


def keep(boxes: Sequence[Any]) -> dict[str, Any]:
    """A listener that keeps what the boxes say, also of those that are not in the page: an accordion is closed."""
    return {"fn": None, "inputs": boxes, "js": f"(...values) => studio.keep({_ids(boxes)}, values)", **QUIET}


def _ids(boxes: Sequence[Any]) -> str:
    return json.dumps([box.elem_id for box in boxes])
