"""A sheet of requests: rows of cells as somebody typed, pasted or uploaded them, and the requests that they make.

Cells are text until `plan` reads them; what cannot be read is named by row and field, and no row is lost. A cell may
hold alternatives, `{calm|dark} piano`: its row becomes one request for each. Knows no page and no queue.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from studio.errors import InvalidRequest, SheetUnreadable
from studio.schemas import AFTER_MAX, BATCH_MAX, SEED_MAX, GenerationRequest, describe

FIELDS = (
    "prompt", "duration", "seed", "variations", "model", "cfg_coef", "temperature", "top_k", "top_p", "priority",
    "after", "continue_from", "continue_seconds", "webhook_url",
)  # fmt: skip
ALIASES = {
    "text": "prompt", "seconds": "duration", "length": "duration", "cfg": "cfg_coef", "guidance": "cfg_coef",
    "takes": "variations", "starts_after": "after", "webhook": "webhook_url",
}  # fmt: skip
NUMBERS = {"duration", "cfg_coef", "temperature", "top_p", "continue_seconds"}
WHOLE = {"seed", "variations", "top_k", "priority"}
FILE_MAX_BYTES = 500_000
ROWS_MAX = 500
JOBS_MAX = 500
VARIATIONS_MAX = 50
CELL_MAX = 2000  # characters: four of the longest prompts
EXACT = 2**53  # whole numbers below it are exact as floats
GROUPS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[^{}]+|[{}]")

Row = dict[str, str]  # cells by field, as typed; one that is absent or blank takes the default


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row."""

    row: int  # counts from 1
    field: str | None
    message: str

    def __str__(self) -> str:
        where = f"Row {self.row}" + (f", {self.field}" if self.field else "")
        return f"{where}: {self.message}."


@dataclass(frozen=True)
class Plan:
    """What a sheet makes: requests in its order, each with its row, and what is wrong with rows that make none."""

    rows: list[int]  # of each request, counting from 1
    requests: list[GenerationRequest]
    problems: list[Problem]

    @property
    def batches(self) -> list[list[GenerationRequest]]:
        """The requests, as many at a time as are accepted together."""
        return [self.requests[start : start + BATCH_MAX] for start in range(0, len(self.requests), BATCH_MAX)]


# From rows to requests


def plan(
    rows: Sequence[Row], defaults: Mapping[str, object], check: Callable[[GenerationRequest], object] = lambda _: None
) -> Plan:
    """The requests that the rows make.

    Args:
        rows: blank ones are passed over, but counted.
        defaults: values of a request for cells that are blank.
        check: raises InvalidRequest for a request that will not be accepted, because of its model, say.
    """
    found = Plan([], [], [])
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row.values()):
            continue
        try:
            requests = _requests(row, defaults, check)
        except _RowWrong as wrong:
            found.problems.extend(Problem(number, field, message) for field, message in wrong.reasons)
            continue
        if len(found.requests) + len(requests) > JOBS_MAX:
            found.problems.append(
                Problem(number, None, f"a sheet makes at most {JOBS_MAX} jobs, and here it passes that")
            )
            break
        found.rows.extend([number] * len(requests))
        found.requests.extend(requests)
    _refer_to_jobs(found)
    return found


def _refer_to_jobs(found: Plan) -> None:
    """`#3` in a sheet is its third row; in the batch that it makes, the jobs of that row."""
    places = {row: [f"#{n}" for n, of in enumerate(found.rows, 1) if of == row] for row in found.rows}
    for n, (row, request) in enumerate(zip(found.rows, found.requests, strict=True)):
        referring = [name for name in request.after if name.startswith("#")]
        if referring and len(found.requests) > BATCH_MAX:
            reason = f"{referring[0]} can be named in a sheet of one batch only, of at most {BATCH_MAX} jobs"
            found.problems.append(Problem(row, "after", reason))
            continue
        try:
            after = _all_named(request.after, row, places)
        except _RowWrong as wrong:
            found.problems.extend(Problem(row, field, message) for field, message in wrong.reasons)
            continue
        found.requests[n] = request.model_copy(update={"after": after})
    found.problems[:] = dict.fromkeys(found.problems)


def _all_named(names: Sequence[str], row: int, places: Mapping[int, list[str]]) -> list[str]:
    after = list(dict.fromkeys(job for name in names for job in _jobs_named(name, row, places)))
    if len(after) > AFTER_MAX:
        raise _RowWrong(("after", f"names {len(after)} jobs; a job waits for at most {AFTER_MAX}"))
    return after


def _jobs_named(name: str, row: int, places: Mapping[int, list[str]]) -> list[str]:
    if not name.startswith("#"):
        return [name]
    number = int(name[1:]) if name[1:].isdecimal() and len(name) < 6 else 0
    if number not in places or number >= row:
        raise _RowWrong(("after", f"there is no row {name} above that makes jobs"))
    return places[number]


def expand(rows: Sequence[Row], defaults: Mapping[str, object]) -> list[Row]:
    """The rows with alternatives and variations written out, in the order of `plan`; what is wrong stays as it is.

    Raises:
        SheetUnreadable: there would be too many.
    """
    parts: list[list[Row]] = []
    for row in rows:
        parts.append(_parts(row, defaults.get("seed")))
        if sum(map(len, parts)) > ROWS_MAX:
            raise SheetUnreadable(f"Written out there are more than {ROWS_MAX} rows, the most that a sheet has.")
    numbers: list[list[str]] = []  # of the written rows that each row becomes
    for part in parts:
        first = sum(map(len, numbers)) + 1
        numbers.append([f"#{number}" for number in range(first, first + len(part))])
    return [_renumbered(row, numbers) for part in parts for row in part]


def _parts(row: Row, seed: object) -> list[Row]:
    try:
        return _written_out(row, seed)
    except _RowWrong:
        return [row]


def _renumbered(row: Row, numbers: Sequence[Sequence[str]]) -> Row:
    """What the row refers to by number has other numbers once all is written out."""

    def now(match: re.Match[str]) -> str:
        number = int(match[1])
        return " ".join(numbers[number - 1]) if 1 <= number <= len(numbers) else match[0]

    after = row.get("after", "")
    return row | {"after": re.sub(r"#(\d{1,4})\b", now, after)} if "#" in after and len(after) <= CELL_MAX else row


def _written_out(row: Row, seed: object) -> list[Row]:
    """`seed`: of a row without one; its variations count up from it."""
    given = {field: row[field] for field in FIELDS if row.get(field, "").strip()}
    copies = _variations(given.pop("variations", ""))
    choices = {field: alternatives(cell, field) for field, cell in given.items()}
    if math.prod(map(len, choices.values())) * copies > JOBS_MAX:
        raise _RowWrong
    texts = [dict(zip(choices, cells, strict=True)) for cells in product(*choices.values())] if given else []
    return [_numbered(text, seed if copies > 1 else None, number) for text in texts for number in range(copies)]


def _numbered(row: Row, seed: object, number: int) -> Row:
    escaped = {field: cell.replace("{", "{{").replace("}", "}}") for field, cell in row.items()}
    first = value("seed", row["seed"]) if "seed" in row else seed
    return escaped | {"seed": str(first + number)} if isinstance(first, int) else escaped


class _RowWrong(Exception):
    """Why a row makes no requests: fields and what is wrong with them."""

    def __init__(self, *reasons: tuple[str | None, str]) -> None:
        self.reasons = list(dict.fromkeys(reasons))


def _requests(
    row: Row, defaults: Mapping[str, object], check: Callable[[GenerationRequest], object]
) -> list[GenerationRequest]:
    """One request for each of the row's alternatives, and each as often as it wants variations."""
    given = {field: row[field] for field in FIELDS if row.get(field, "").strip()}
    copies = _variations(given.pop("variations", ""))
    choices = {field: alternatives(cell, field) for field, cell in given.items()}
    if math.prod(map(len, choices.values())) * copies > JOBS_MAX:
        raise _RowWrong((None, f"it makes more than {JOBS_MAX} jobs"))
    made, reasons = [], []
    for cells in product(*choices.values()):
        try:
            request = _request(dict(zip(choices, cells, strict=True)), defaults)
            check(request)
            made += [_varied(request, number) for number in range(copies)]
        except _RowWrong as wrong:
            reasons += wrong.reasons
        except ValidationError as error:
            reasons += [(field.partition(".")[0], message) for field, message in describe(error)]
        except InvalidRequest as error:
            reasons.append((error.field.partition(".")[0], error.reason.rstrip(".")))
    if reasons:
        raise _RowWrong(*reasons)
    return made


def _request(cells: Mapping[str, str], defaults: Mapping[str, object]) -> GenerationRequest:
    if "prompt" not in cells:
        raise _RowWrong(("prompt", "is missing"))
    return GenerationRequest(**{**defaults, **{field: value(field, cell) for field, cell in cells.items()}})


def _variations(cell: str) -> int:
    number = int(value("variations", cell)) if cell else 1
    if not 1 <= number <= VARIATIONS_MAX:
        raise _RowWrong(("variations", f"must be 1 to {VARIATIONS_MAX}"))
    return number


def _varied(request: GenerationRequest, number: int) -> GenerationRequest:
    """Without a seed every one draws its own; with one they count up."""
    if request.seed is None or number == 0:
        return request
    if request.seed + number > SEED_MAX:
        raise _RowWrong(("seed", f"with its variations it passes {SEED_MAX}"))
    return request.model_copy(update={"seed": request.seed + number})


def value(field: str, cell: str) -> Any:
    """A cell as the request's field wants it: text, a number, a whole number, or names. `0,5` is a half."""
    cell = cell.strip()
    if field == "after":
        return names(cell)
    if field not in NUMBERS | WHOLE:
        return cell
    try:
        if field in NUMBERS:
            return float(cell.replace(",", "."))
        number = float(cell)
        return int(number) if number.is_integer() and abs(number) < EXACT else int(cell)
    except (ValueError, OverflowError):
        kind = "a number" if field in NUMBERS else "a whole number"
        raise _RowWrong((field, f"must be {kind}, not {cell[:30]!r}")) from None


def names(text: str) -> list[str]:
    """`gen_1, gen_2` → both; spaces, commas and semicolons part them."""
    return list(dict.fromkeys(re.findall(r"[^\s,;]+", text)))


def alternatives(template: str, field: str = "prompt") -> list[str]:
    """`{calm|dark} piano at {80|120} bpm` → four texts, the first group the slowest to change. `{{` is a brace."""
    if len(template) > CELL_MAX:
        raise _RowWrong((field, f"has more than {CELL_MAX} characters"))
    parts: list[list[str]] = []
    for match in GROUPS.finditer(template):
        text = match[0]
        if text in ("{", "}"):
            reason = "a brace has no partner: write {calm|dark} (groups cannot be nested), or {{ for the brace itself"
            raise _RowWrong((field, reason))
        parts.append(match[1].split("|") if match[1] is not None else [text[0] if text in ("{{", "}}") else text])
        if math.prod(map(len, parts)) > JOBS_MAX:
            raise _RowWrong((field, f"has more than {JOBS_MAX} alternatives"))
    return [re.sub(" {2,}", " ", "".join(chosen)).strip() for chosen in product(*parts)]


# From files and clipboards to rows


def read(name: str, data: bytes) -> list[Row]:
    """The rows of a file: CSV or TSV with a line of column names, JSON Lines, a JSON list, or one prompt a line.

    Raises:
        SheetUnreadable: says which row and field cannot be read, or what is too much.
    """
    if len(data) > FILE_MAX_BYTES:
        size = f"{len(data) / 1e6:.1f} MB"
        raise SheetUnreadable(f"{name} has {size}; a sheet has at most {FILE_MAX_BYTES / 1e6:g} MB.")
    text = _decode(data)
    if "\0" in text:
        raise SheetUnreadable(f"{name} is not a text file. Save the spreadsheet as CSV.")
    kind = name.lower().rpartition(".")[2]
    if kind in ("jsonl", "ndjson", "json") or _is_json(text):
        rows = _json_rows(text)
    elif kind == "txt":
        rows = [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]
    else:
        rows = _table_rows(text, strict=True)
    return _few_enough(rows)


def _lines(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error as error:
        raise SheetUnreadable(f"It is not a table: {error}.") from error


def paste(rows: Sequence[Row], text: str, at: int = 0, column: str = "prompt") -> list[Row]:
    """The rows with a clipboard's cells written over them from row `at` (counting from 0) and `column` on.

    JSON objects are rows. Tabs separate cells, as spreadsheets copy them; without one, a line of column names makes it
    CSV, and anything else is one prompt a line: prompts have commas of their own. Raises SheetUnreadable.
    """
    if _is_json(text):
        new = _json_rows(text)
    elif "\t" in text and not _header(next(_lines(text.partition("\n")[0], "\t"), [])):
        start = FIELDS.index(column) if column in FIELDS else 0
        new = [dict(zip(FIELDS[start:], map(str.strip, line), strict=False)) for line in _lines(text, "\t") if line]
    else:
        new = _table_rows(text, strict=False)
    merged = [*rows[:at], *({} for _ in range(at - len(rows)))]
    merged += [{**(rows[at + number] if at + number < len(rows) else {}), **row} for number, row in enumerate(new)]
    return _few_enough([*merged, *rows[at + len(new) :]])


def _table_rows(text: str, *, strict: bool) -> list[Row]:
    first = text.lstrip("\r\n").partition("\n")[0]
    for delimiter in "\t,;":
        header = _header(next(_lines(first, delimiter), []))
        if header:
            return list(_cells(text, delimiter, header))
    if strict and any(len(line) > 1 for line in _lines(text, ",")):
        raise SheetUnreadable(f"The first row has to name the columns: prompt, and any of {', '.join(FIELDS[1:])}.")
    return [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]


def _header(names: Iterable[str]) -> list[str]:
    """The fields that a line of column names means; nothing when it is none. Raises SheetUnreadable."""
    fields = [_field(name) for name in names]
    if "prompt" not in fields:
        return []
    for name, field in zip(names, fields, strict=True):
        if field and field not in FIELDS:
            raise SheetUnreadable(f"Row 1: there is no column {name[:40]!r}; there are {', '.join(FIELDS)}.")
        if field and fields.count(field) > 1:
            raise SheetUnreadable(f"Row 1: the column {field} is there twice.")
    return fields


def _field(name: str) -> str:
    field = re.sub(r"[\s-]+", "_", name.strip().lower())
    return ALIASES.get(field, field)


def _cells(text: str, delimiter: str, header: list[str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(text.lstrip("\r\n"), delimiter)):
        if number == 0 or not any(cell.strip() for cell in line):
            continue
        if len(line) > len(header):
            raise SheetUnreadable(
                f"Row {number}: it has {len(line)} cells, but there are {len(header)} columns."
                " Put a prompt with commas in quotation marks."
            )
        yield {field: cell.strip() for field, cell in zip(header, line, strict=False) if field and cell.strip()}


def _is_json(text: str) -> bool:
    return re.match(r'\s*(\{\s*"|\[\s*\{)', text) is not None


def _json_rows(text: str) -> list[Row]:
    stripped = text.strip()
    if stripped.startswith("["):
        items = _json(stripped, "The file")
    else:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        items = [_json(line, f"Line {number}") for number, line in lines]
    return [_json_row(number, item) for number, item in enumerate(items, 1)]


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is too deep, or has too long a number"
        raise SheetUnreadable(f"{what} is not JSON: {reason}.") from error


def _json_row(number: int, item: object) -> Row:
    if isinstance(item, str):
        return {"prompt": item}
    if not isinstance(item, dict):
        raise SheetUnreadable(f'Row {number}: write an object, such as {{"prompt": "sad piano", "duration": 8}}.')
    row = {}
    for name, cell in item.items():
        field = _field(str(name))
        if field not in FIELDS:
            raise SheetUnreadable(f"Row {number}: there is no field {str(name)[:40]!r}; there are {', '.join(FIELDS)}.")
        if field == "after" and isinstance(cell, list):
            cell = " ".join(map(str, cell))
        if isinstance(cell, bool) or not isinstance(cell, str | int | float | None):
            raise SheetUnreadable(f"Row {number}, {field}: write text or a number.")
        if cell is not None:
            row[field] = str(cell)
    return row


def _decode(data: bytes) -> str:
    """UTF-8, UTF-16 where it says so, else what old spreadsheets write."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _few_enough(rows: list[Row]) -> list[Row]:
    if len(rows) > ROWS_MAX:
        raise SheetUnreadable(f"There are {len(rows)} rows; a sheet has at most {ROWS_MAX}.")
    return rows


# Samples to start from

SAMPLE: list[Row] = [
    {"prompt": "{calm|dark} piano at {80|120} bpm", "duration": "8"},
    {"prompt": "lo-fi hip hop, dusty drums", "duration": "12", "seed": "7", "variations": "3"},
    {"prompt": "slow blues, no drums", "cfg_coef": "4.5", "temperature": "0.9"},
]


def sample_csv() -> str:
    """A sheet to start from, as CSV."""
    columns = ["prompt", "duration", "seed", "variations", "cfg_coef", "temperature"]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns)
    writer.writeheader()
    writer.writerows(SAMPLE)
    return out.getvalue()


def sample_jsonl() -> str:
    """The same as JSON Lines."""
    return "".join(json.dumps({f: value(f, cell) for f, cell in row.items()}) + "\n" for row in SAMPLE)
