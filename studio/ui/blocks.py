"""The page: four tabs, kept live by one listener. Every listener is private; what they ask is decided by `Studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio.runtime import Studio
from studio.ui import cards, drawer, lists
from studio.ui.actions import RECENT
from studio.ui.live import QUIET, keep_live
from studio.ui.tabs import batch, prompt, queue, system
from studio.ui.theme import theme

HERE = Path(__file__).parent
SCRIPTS = ("player.js", "page.js", "sheet.js")
FAVICON = HERE.parent.parent / "assets" / "favicon.svg"


def build(studio: Studio) -> gr.Blocks:
    """The page's components and listeners, without its looks, which `looks` gives to whoever mounts it."""
    with gr.Blocks(title="Studio", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(cards.MASTHEAD, elem_id="top", apply_default_css=False)
        mine, memory = lists.shared(page, "studio-jobs", RECENT), batch.memory(page)
        with gr.Tabs():
            with gr.Tab("Prompt", id="prompt") as prompt_tab:
                prompts, continue_from = prompt.build(studio, page, mine)
            with gr.Tab("Batch", id="batch") as batch_tab:
                batches = batch.build(studio, page, mine, memory)
            with gr.Tab("Queue", id="queue") as queue_tab:
                queues = queue.build(studio, mine)
            with gr.Tab("System", id="system") as system_tab:
                systems = system.build(studio)
        tab = gr.State("prompt")
        for choice in (prompt_tab, batch_tab, queue_tab, system_tab):
            choice.select(lambda name=choice.id: name, None, tab, **QUIET)
        openers = [part.shows[-1] for part in (prompts, batches, queues)]
        drawers = drawer.build(studio, mine, openers)
        continue_from([*prompts.shows[-1:], *drawers.shows])
        parts = {"prompt": prompts, "batch": batches, "queue": queues, "system": systems, "/drawer": drawers}
        keep_live(page, tab, studio.version, parts)
    return page


def looks() -> dict[str, Any]:
    """Arguments for `gr.mount_gradio_app`: theme, style, script, icon, footer; all from this machine."""
    scripts = "".join(f"<script>{(HERE / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS)
    return {
        "theme": theme(),
        "css_paths": [HERE / "page.css"],
        "head": scripts,
        "favicon_path": str(FAVICON),
        "footer_links": ["api"],
    }
