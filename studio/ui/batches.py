"""Batches as HTML: what a sheet will make, and how far the batches are that it has made. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from studio.engine.catalog import ModelInfo
from studio.schemas import BATCH_MAX, BatchView, JobStatus, JobView, batch_view
from studio.sheet import FILE_MAX_BYTES, Plan, Problem
from studio.ui.cards import bar, escape, moment, rows, seconds
from studio.ui.form import LABELS

LISTED = 12  # problems, and requests of a plan, that are written out at first


# The sheet


def intro(csv: str, jsonl: str, models: Iterable[ModelInfo]) -> str:
    """How to fill the sheet, samples to start from, and the models' names for its cells."""
    options = "".join(f'<option value="{escape(info.name)}">' for info in models)
    return (
        '<p class="note lead">Type, paste from a spreadsheet, or drop a CSV or JSON Lines file on the sheet. '
        f"<code>{escape('{calm|dark} piano at {80|120} bpm')}</code> makes four jobs; <b>Takes</b> makes variations "
        f"that differ by seed. Samples: {_sample('sheet.csv', 'text/csv', csv)}, "
        f'{_sample("sheet.jsonl", "application/jsonl", jsonl)}.</p><datalist id="models">{options}</datalist>'
    )


def _sample(name: str, media_type: str, text: str) -> str:
    return f'<a download="{name}" href="data:{media_type};charset=utf-8,{quote(text)}">{name}</a>'


def plan(planned: Plan, forecast_s: float | None, defaults: Mapping[str, object]) -> str:
    """What the sheet makes: jobs, batches, time, all of them; or what is wrong, which the sheet shows in place."""
    return _marks(planned, defaults) + (
        _wrong(planned.problems) if planned.problems else _right(planned, forecast_s) if planned.requests else ""
    )


def _marks(planned: Plan, defaults: Mapping[str, object]) -> str:
    """What the sheet itself shows of it: problems at their rows, and the defaults in blank cells."""
    problems = [{"row": problem.row, "field": problem.field, "words": _words(problem)} for problem in planned.problems]
    shown = {
        field: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for field, value in defaults.items()
        if value is not None
    }
    return (
        f'<studio-plan hidden bytes="{FILE_MAX_BYTES}" problems="{escape(json.dumps(problems))}" '
        f'defaults="{escape(json.dumps(shown))}"></studio-plan>'
    )


def sentences(problems: Iterable[Problem]) -> list[str]:
    """The problems for people, with the sheet's own names of columns; many are counted."""
    said = [f"Row {problem.row}, {_words(problem)}" for problem in problems]
    more = len(said) - LISTED
    return said if more <= 1 else [*said[:LISTED], f"And {more} more."]


def _words(problem: Problem) -> str:
    name = LABELS.get(problem.field or "")
    return f"{name}: {problem.message}." if name else f"{problem.message}."


def _wrong(problems: Sequence[Problem]) -> str:
    number = len({problem.row for problem in problems})
    return (
        f'<p class="plan wrong"><b>{_count(number, "row")}</b> cannot be made yet; the sheet shows why. '
        "Nothing is submitted until all can.</p>"
    )


def _right(planned: Plan, forecast_s: float | None) -> str:
    count, parts = len(planned.requests), len(planned.batches)
    source = f" from {_count(len(set(planned.rows)), 'row')}" if len(set(planned.rows)) != count else ""
    soon, about = "<b>less than a second</b>", f"about <b>{seconds(forecast_s, exact=False)}</b>"
    time = f", {soon if forecast_s < 1 else about} until all are done" if forecast_s else ""
    split = f" They go as {parts} batches, since a batch has at most {BATCH_MAX}." if parts > 1 else ""
    return f'<p class="plan"><b>{_count(count, "job")}</b>{source}{time}.{split}</p>{_all(planned)}'


def _all(planned: Plan) -> str:
    if len(planned.requests) == len(set(planned.rows)):
        return ""
    items = "".join(
        f"<li>{escape(request.prompt)} <span>{seconds(request.duration)}"
        f"{f', seed {request.seed}' if request.seed is not None else ''}</span></li>"
        for request in planned.requests
    )
    summary = f"<summary>See all {len(planned.requests)}</summary>"
    return f'<details class="makes" data-key="makes">{summary}<ol>{items}</ol></details>'


# Batches on their way


def first_open(found: Mapping[str, Sequence[JobView]]) -> str:
    """The first batch with something left to do, else the first one; there is at least one."""
    going = (batch_id for batch_id, jobs in found.items() if not all(job.status.ended for job in jobs))
    return next(going, next(iter(found)))


def batches(found: Mapping[str, Sequence[JobView]], shown: str, jobs: Iterable[JobView]) -> str:
    """The batches, the last ones first, together and each; below them the jobs of the one that is shown."""
    views = {batch_id: batch_view(batch_id, theirs) for batch_id, theirs in found.items()}
    lines = "".join(_line(view, found[batch_id], batch_id == shown) for batch_id, view in views.items())
    head = f'<h2 class="section">Your batches</h2>{_together(views)}'
    return f'{head}<div class="batches">{lines}</div>{rows(jobs)}'


def _together(views: Mapping[str, BatchView]) -> str:
    going = [view for view in views.values() if _open(view)]
    if len(going) < 2:
        return ""
    total = sum(view.total_jobs for view in going)
    ended = sum(map(_ended, going))
    share = sum(view.progress * view.total_jobs for view in going) / total
    left = max((view.estimated_time_seconds for view in going if view.estimated_time_seconds is not None), default=None)
    return (
        f'<div class="batch all"><div><b>{len(going)} batches on their way</b></div>{bar(share)}'
        f'<p>{ended} of {total} ended, {_left(left)}</p><div class="actions">'
        f"{_cancel('cancel_batches', '', 'Cancel all the rest')}</div></div>"
    )


def _line(view: BatchView, jobs: Sequence[JobView], shown: bool) -> str:
    others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    name = escape(view.batch_id)
    buttons = ""
    if _open(view):
        buttons += (
            f'<button type="button" class="stop" data-do="cancel_batch" data-what="{name}">Cancel the rest</button>'
        )
    if view.jobs_by_status[JobStatus.COMPLETED]:
        buttons += f'<a href="/api/v1/batches/{name}/zip" download>Download as zip</a>'
    return (
        f'<div class="batch{" shown" if shown else ""}" data-key="{name}"><div><button type="button" class="plain" '
        f'data-do="rows" data-what="{name}" aria-expanded="{str(shown).lower()}"><b>{escape(jobs[0].prompt)}</b>'
        f"{others}</button><span>{moment(jobs[0])}</span></div>{bar(view.progress)}"
        f'<p>{_standing(view)}</p><div class="actions">{buttons}</div></div>'
    )


def _cancel(action: str, what: str, words: str) -> str:
    return f'<button type="button" class="stop" data-do="{action}" data-what="{what}">{words}</button>'


def _standing(view: BatchView) -> str:
    done, failed, gone = (
        view.jobs_by_status[status] for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
    )
    parts = [f"{done} of {view.total_jobs} done"]
    parts += [f'<b class="bad">{failed} failed</b>'] if failed else []
    parts += [f"{gone} cancelled"] if gone else []
    parts += [_left(view.estimated_time_seconds)] if _open(view) else []
    return ", ".join(parts)


def _left(left_s: float | None) -> str:
    if left_s is None:
        return "paused"
    return f"about {seconds(left_s, exact=False)} left" if left_s >= 1 else "almost there"


def _open(view: BatchView) -> bool:
    return _ended(view) < view.total_jobs


def _ended(view: BatchView) -> int:
    return sum(count for status, count in view.jobs_by_status.items() if status.ended)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
