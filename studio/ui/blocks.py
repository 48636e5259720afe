"""The page: three tabs, kept live by one timer. Every listener is private; what they ask is decided by `Studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import DatabaseUnavailable
from studio.runtime import Studio
from studio.ui import cards
from studio.ui.live import QUIET
from studio.ui.tabs import batch, prompt, queue
from studio.ui.theme import theme

TICK_S = 0.5
HERE = Path(__file__).parent
FAVICON = HERE.parent.parent / "assets" / "favicon.svg"


def build(studio: Studio) -> gr.Blocks:
    """The page's components and listeners, without its looks, which `looks` gives to whoever mounts it."""
    with gr.Blocks(title="Studio", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(cards.MASTHEAD, elem_id="top", apply_default_css=False)
        with gr.Tabs():
            with gr.Tab("Prompt", id="prompt") as prompt_tab:
                prompts = prompt.build(studio, page)
            with gr.Tab("Batch", id="batch") as batch_tab:
                batches = batch.build(studio, page, prompts.mine)
            with gr.Tab("Queue", id="queue") as queue_tab:
                queues = queue.build(studio, prompts.mine)
        tab = gr.State("prompt")
        for choice in (prompt_tab, batch_tab, queue_tab):
            choice.select(lambda name=choice.id: name, None, tab, **QUIET)
        _keep_live(studio, page, tab, prompts, batches, queues)
    return page


def looks() -> dict[str, Any]:
    """Arguments for `gr.mount_gradio_app`: theme, style, script, icon, footer; all from this machine."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return {
        "theme": theme(),
        "css_paths": [HERE / "page.css"],
        "head": f"<script>{script}</script>",
        "favicon_path": str(FAVICON),
        "footer_links": ["api"],
    }


def _keep_live(
    studio: Studio,
    page: gr.Blocks,
    tab: gr.State,
    prompts: prompt.PromptTab,
    batches: batch.BatchTab,
    queues: queue.QueueTab,
) -> None:
    """One listener draws the open tab anew when any job or the view on them has changed, and else answers nothing."""
    seen = gr.State(None)
    views = [prompts.recent, batches.table, queues.figures, queues.table]

    def refresh(last: object, tab: str, mine: Any, asked: str | None, ids: Any, status: str, number: int) -> Any:
        try:
            now = (studio.version(), tab, mine, asked, ids, status, number)
            if now == last:
                return gr.skip()
            drawn: list[Any] = [gr.skip()] * len(views)
            match tab:
                case "batch":
                    drawn[1] = batch.show(studio, ids)
                case "queue":
                    drawn[2:] = queue.show(studio, status, number)
                case _:
                    drawn[0] = prompt.show(studio, mine, asked)
            return now, *drawn
        except DatabaseUnavailable:  # what is shown stays; the next tick tries again
            return gr.skip()

    view = [tab, prompts.mine, prompts.asked, batches.batch, queues.status, queues.page_number]
    triggers = [gr.Timer(TICK_S).tick, page.load, *(component.change for component in view)]
    gr.on(triggers, refresh, [seen, *view], [seen, *views], **QUIET)
