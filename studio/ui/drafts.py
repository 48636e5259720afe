"""What is typed outlives a reload. `page.js` keeps it for its tab of the browser, by the ids of the components: also
while the server is away, when no listener is heard, and the page reloads once it is back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from studio.ui.live import QUIET


def restore(page: gr.Blocks, boxes: Sequence[Any], draft: gr.BrowserState, names: dict[str, str]) -> None:
    """Fill the boxes with what the tab has kept of them.

    Args:
        draft: what the first box says in a new tab.
        names: of choices, by the words that a dropdown shows.
    """
    js = f"(...given) => studio.restore({_ids(boxes)}, given, {json.dumps(names)})"
    page.load(None, [draft, *boxes[1:]], boxes, js=js, **QUIET)


def keep(boxes: Sequence[Any]) -> dict[str, Any]:
    """A listener that keeps what the boxes say, also of those that are not in the page: an accordion is closed."""
    return {"fn": None, "inputs": boxes, "js": f"(...values) => studio.keep({_ids(boxes)}, values)", **QUIET}


def _ids(boxes: Sequence[Any]) -> str:
    return json.dumps([box.elem_id for box in boxes])
