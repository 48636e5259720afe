"""The batch tab: a sheet of prompts, what it makes, and the batches on their way."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import ValidationError

from studio.errors import (
    BatchNotFound,
    DatabaseUnavailable,
    InvalidRequest,
    JobConflict,
    RateLimited,
    SheetUnreadable,
    StudioError,
)
from studio.runtime import Studio
from studio.schemas import BatchRequest, GenerationRequest
from studio.sheet import (
    FIELDS,
    FILE_MAX_BYTES,
    ROWS_MAX,
    Plan,
    Row,
    expand,
    paste,
    plan,
    read,
    sample_csv,
    sample_jsonl,
)
from studio.ui import batches, cards, drafts, lists
from studio.ui.actions import act_on_jobs
from studio.ui.form import choices, client_of, controls, sentences, values_of
from studio.ui.live import AS_TEXT, QUIET, SHOW_PROBLEM, Part, action, live

REMEMBERED = 50  # batches of this browser: the largest sheet makes as many
EMPTY = json.dumps({"rows": []})
_ON_LOAD = """
const begin = () => window.studioSheet ? studioSheet(element, props, watch, trigger) : setTimeout(begin, 20);
begin();
"""


@dataclass(frozen=True)
class Memory:
    """What this browser remembers. Made outside of the tab: Gradio gives a tab its contents when it is first opened."""

    batch_ids: gr.HTML
    draft: gr.BrowserState  # the sheet


def memory(page: gr.Blocks) -> Memory:
    """The browser's stores, made where they stand."""
    return Memory(
        lists.shared(page, "studio-batches", REMEMBERED),
        gr.BrowserState(EMPTY, storage_key="studio-sheet", secret="studio"),
    )


def build(studio: Studio, page: gr.Blocks, mine: gr.HTML, memory: Memory) -> Part:
    """The tab's components and its listeners."""
    batch_ids, draft = memory.batch_ids, memory.draft
    chosen = gr.State(None)
    gr.HTML(batches.intro(sample_csv(), sample_jsonl(), studio.models()), apply_default_css=False)
    sheet = gr.HTML(EMPTY, html_template="", js_on_load=_ON_LOAD, apply_default_css=False, elem_id="sheet")
    problem = gr.HTML("", elem_classes=["maybe"], apply_default_css=False)
    with gr.Accordion("Defaults for blank cells", open=False, elem_classes=["sampling"]):
        form = controls(studio, "batch", folded=False)
    made = live(elem_id="made")
    generate = gr.Button("Generate", variant="primary", size="lg", elem_classes=["go"])
    table = live(elem_id="batches")

    def work_out(text: str, *values: Any) -> tuple[Any, Any]:
        try:
            planned, defaults = _plan(studio, text, values)
            good = planned.requests and not planned.problems
            seconds = studio.forecast(planned.requests) if good else None
        except DatabaseUnavailable:  # what is shown stays
            return gr.skip(), gr.skip()
        count = len(planned.requests)
        words = f"Generate {count}" if good and count > 1 else "Generate"
        return batches.plan(planned, seconds, defaults), gr.Button(words)

    def submit(request: gr.Request, text: str, known: Any, *values: Any) -> tuple[Any, Any, str]:
        try:
            planned, defaults = _plan(studio, text, values)
        except DatabaseUnavailable as away:
            return gr.skip(), gr.skip(), cards.problems([str(away)])
        if planned.problems:
            return gr.skip(), gr.skip(), cards.problems(batches.sentences(planned.problems))
        if not planned.requests:
            return gr.skip(), gr.skip(), cards.problems(["Write at least one prompt."])
        accepted, error = _submit(studio, planned, client_of(request, studio))
        left = expand(_rows(text), defaults)[sum(map(len, planned.batches[: len(accepted)])) :]
        said = _refusal(error, len(accepted), len(planned.batches)) if error else ""
        return json.dumps({"rows": left}), lists.text(*accepted, to=lists.ids(known, REMEMBERED)), said

    def use(event: gr.EventData, text: str, *values: Any) -> tuple[Any, str]:
        try:
            return json.dumps({"rows": _used(event, _rows(text), values_of(*values))}), ""
        except SheetUnreadable as error:
            return gr.skip(), cards.problems([str(error)])

    sheet.change(None, sheet, draft, js=AS_TEXT, **QUIET)
    sheet.click(use, [sheet, *form.all], [sheet, problem], **QUIET)
    triggers = [sheet.change, page.load, *(component.change for component in form.all)]
    gr.on(triggers, work_out, [sheet, *form.all], [made, generate], trigger_mode="always_last", **QUIET)
    given, shown = [sheet, batch_ids, *form.all], [sheet, batch_ids, problem]
    generate.click(submit, given, shown, **QUIET).then(**SHOW_PROBLEM)
    drafts.restore(page, [sheet, *form.all], draft, choices(studio))
    table.click(batch_actions(studio), [batch_ids, chosen], chosen, **QUIET)
    act_on_jobs(studio, table, mine)
    return Part([batch_ids, chosen], [table], lambda known, chosen: [show(studio, known, chosen)])


def show(studio: Studio, known: Any, chosen: str | None) -> str:
    """This browser's batches, the last one first, and the rows of the chosen one."""
    found = studio.batch_jobs(lists.ids(known, REMEMBERED), sketched=True)
    if not found:
        return ""
    shown = chosen if chosen in found else batches.first_open(found)
    return batches.batches(found, shown, studio.batch_jobs([shown]).get(shown, []))


def batch_actions(studio: Studio) -> Any:
    """A listener for clicks on batches; gives the one whose rows are shown."""

    def act(event: gr.EventData, known: Any, chosen: str | None) -> str | None:
        name, batch_id = action(event)
        match name:
            case "rows":
                return None if batch_id == chosen else batch_id
            case "cancel_batch":
                _cancel(studio, [batch_id])
            case "cancel_batches":
                _cancel(studio, lists.ids(known, REMEMBERED))
        return chosen

    return act


def _cancel(studio: Studio, batch_ids: Iterable[str]) -> None:
    for batch_id in batch_ids:
        try:
            studio.cancel_batch(batch_id, force=True)
        except (BatchNotFound, JobConflict):  # it has ended
            continue
        except StudioError as error:
            gr.Warning(cards.escape(str(error)))
            return


def _plan(studio: Studio, text: str, values: tuple[Any, ...]) -> tuple[Plan, dict[str, Any]]:
    """What the sheet makes, and what its blank cells stand for."""
    defaults = values_of(*values)
    known: dict[tuple[object, ...], InvalidRequest | None] = {}

    def check(request: GenerationRequest) -> None:
        kept = request.continue_from and (request.continue_from, request.continue_seconds, request.duration)
        asked = (request.model, request.webhook_url, kept, *request.after)
        if asked not in known:
            known[asked] = _refused(studio, request)
        if error := known[asked]:
            raise error

    return plan(_rows(text), defaults, check), defaults


def _refused(studio: Studio, request: GenerationRequest) -> InvalidRequest | None:
    try:
        studio.check(request)
    except InvalidRequest as error:
        return error
    return None


def _submit(studio: Studio, planned: Plan, client: str) -> tuple[list[str], Exception | None]:
    """The ids of the batches that were accepted, in order, and why the next one was not."""
    accepted: list[str] = []
    for requests in planned.batches:
        try:
            accepted.append(studio.submit_batch(BatchRequest(requests=requests), client).batch_id)
        except (ValidationError, StudioError) as error:
            return accepted, error
    return accepted, None


def _refusal(error: Exception, accepted: int, total: int) -> str:
    assert isinstance(error, ValidationError | StudioError)
    some = f"{accepted} of {total} batches are on their way; the others are still in the sheet. " if accepted else ""
    if isinstance(error, RateLimited):
        return cards.limited(error.retry_after_s, some)
    return cards.problems(some + sentence for sentence in sentences(error))


def _used(event: gr.EventData, rows: list[Row], defaults: dict[str, Any]) -> list[Row]:
    """The rows after an upload, a paste, or writing out. Raises SheetUnreadable."""
    data = event._data if isinstance(event._data, dict) else {}
    match data:
        case {"do": "expand"}:
            return expand(rows, defaults)
        case {"do": "paste", "text": str(text), "row": int(row), "field": str(field)}:
            return paste(rows, text, min(max(0, row), ROWS_MAX), field)
        case {"do": "upload", "name": str(name), "bytes": str(encoded)}:
            return [*_filled(rows), *read(name[:100], _decoded(encoded))]
        case {"do": "upload", "name": str(name)}:
            raise SheetUnreadable(f"{name[:100]} is too large: a sheet has at most {FILE_MAX_BYTES / 1e6:g} MB.")
    return rows


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SheetUnreadable("The file arrived damaged: upload it again.") from error


def _filled(rows: list[Row]) -> list[Row]:
    while rows and not any(cell.strip() for cell in rows[-1].values()):
        rows = rows[:-1]
    return rows


def _rows(text: Any) -> list[Row]:
    """The sheet's rows as the browser sent them: whatever is not a cell of text is left out."""
    try:
        rows = json.loads(text or EMPTY)["rows"]
        return [{field: row[field] for field in FIELDS if isinstance(row.get(field), str)} for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
