"""Sheets: what files, clipboards and templates become, and how what is wrong is named."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import pytest

from studio import sheet
from studio.errors import InvalidRequest, SheetUnreadable
from studio.schemas import BATCH_MAX, SEED_MAX, GenerationRequest
from studio.sheet import FILE_MAX_BYTES, JOBS_MAX, ROWS_MAX, Row, alternatives, paste, plan, read


def prompts(*rows: str, **cells: str) -> list[str]:
    return [request.prompt for request in plan([{"prompt": row, **cells} for row in rows], {}).requests]


def said(*rows: dict[str, str], **defaults: Any) -> list[str]:
    return [str(problem) for problem in plan(rows, defaults).problems]


# Templates


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("sad piano", ["sad piano"]),
        ("{calm|dark} piano", ["calm piano", "dark piano"]),
        ("{a|b} {1|2}", ["a 1", "a 2", "b 1", "b 2"]),
        ("piano{, no drums|}", ["piano, no drums", "piano"]),
        ("{very |}dark  piano", ["very dark piano", "dark piano"]),
        ("{calm}", ["calm"]),
        ("{{not|this}} {a|b}", ["{not|this} a", "{not|this} b"]),
        ("a|b", ["a|b"]),
    ],
)
def test_a_template_becomes_one_text_for_each_choice(template: str, made: list[str]) -> None:
    assert alternatives(template) == made


def test_any_template_makes_the_product_of_its_groups_in_order() -> None:
    draw = random.Random(1)
    for _ in range(200):
        groups = [[f"w{draw.randrange(99)}" for _ in range(draw.randint(1, 4))] for _ in range(draw.randint(0, 4))]
        template = "start " + " and ".join("{" + "|".join(group) + "}" for group in groups)
        expected = ["start " + " and ".join(chosen) for chosen in itertools.product(*groups)]
        assert alternatives(template) == [text.strip() for text in expected]


def test_any_text_without_braces_is_itself_and_doubled_braces_are_text() -> None:
    draw = random.Random(2)
    for _ in range(200):
        text = "".join(draw.choice("ab|, é{}") for _ in range(draw.randint(1, 30))).strip()
        doubled = text.replace("{", "{{").replace("}", "}}")
        assert alternatives(doubled) == [" ".join(part for part in text.split(" ") if part)]


@pytest.mark.parametrize("template", ["{calm|dark piano", "calm} piano", "{a|{b|c}}", "{"])
def test_a_brace_without_a_partner_is_named(template: str) -> None:
    (problem,) = plan([{"prompt": template}], {}).problems
    assert (problem.row, problem.field) == (1, "prompt")
    assert "{calm|dark}" in problem.message


def test_a_row_makes_variations_of_a_piece() -> None:
    row = {
        "prompt": "sad piano",
        "continue_from": "gen_1",
        "continue_seconds": "{2|4,5}",
        "duration": "8",
        "variations": "2",
    }
    made = plan([row], {}).requests
    assert [(request.continue_from, request.continue_seconds) for request in made] == [
        ("gen_1", 2.0), ("gen_1", 2.0), ("gen_1", 4.5), ("gen_1", 4.5),
    ]  # fmt: skip
    assert said({"prompt": "sad piano", "continue_seconds": "much"}) == [
        "Row 1, continue_seconds: must be a number, not 'much'."
    ]


def test_alternatives_work_in_every_cell() -> None:
    made = plan([{"prompt": "sad piano", "duration": "{4|8}", "seed": "{1|2}"}], {}).requests
    assert [(request.duration, request.seed) for request in made] == [(4, 1), (4, 2), (8, 1), (8, 2)]


def test_a_template_that_explodes_is_refused_before_it_is_expanded() -> None:
    bomb = "".join("{a|b|c|d|e|f|g|h}" for _ in range(60))
    assert said({"prompt": bomb}) == [f"Row 1, prompt: has more than {JOBS_MAX} alternatives."]
    assert said({"prompt": "{{" * 100_000}) == ["Row 1, prompt: has more than 2000 characters."]
    assert "more than 500 jobs" in said({"prompt": "x{1|2|3|4|5}yz", "duration": "{4|5|6}", "variations": "50"})[0]


# Rows


def test_blank_cells_take_the_defaults_and_blank_rows_are_passed_over() -> None:
    rows = [{}, {"prompt": "sad piano"}, {"prompt": " ", "seed": ""}, {"prompt": "fast drums", "duration": "4"}]
    made = plan(rows, {"duration": 12.0, "cfg_coef": 4.0})
    assert made.rows == [2, 4]
    assert [(request.duration, request.cfg_coef) for request in made.requests] == [(12.0, 4.0), (4.0, 4.0)]


def test_variations_count_up_from_the_seed_or_draw_their_own() -> None:
    seeds = [r.seed for r in plan([{"prompt": "sad piano", "seed": "7", "variations": "3"}], {}).requests]
    assert seeds == [7, 8, 9]
    assert [r.seed for r in plan([{"prompt": "sad piano", "variations": "2"}], {}).requests] == [None, None]
    assert plan([{"prompt": "sad piano", "variations": "2"}], {"seed": 4}).requests[1].seed == 5


def test_a_row_may_start_after_others_by_number_and_after_jobs_by_id() -> None:
    rows = [{"prompt": "{calm|dark} piano"}, {}, {"prompt": "the end", "after": "#1, gen_1"}]
    made = plan(rows, {"webhook_url": "https://a.example/"})
    assert [request.after for request in made.requests] == [[], [], ["#1", "#2", "gen_1"]]
    assert {request.webhook_url for request in made.requests} == {"https://a.example/"}
    written = sheet.expand([*rows, {"prompt": "and again", "after": "#3"}], {})
    assert [row.get("after") for row in written] == [None, None, "#1 #2, gen_1", "#3"]
    assert plan(written[:3], {}).requests[2].after == ["#1", "#2", "gen_1"]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"after": "#1"}], "Row 1, after: there is no row #1 above that makes jobs."),
        ([{}, {"after": "#3"}], "Row 2, after: there is no row #3 above that makes jobs."),
        ([{}, {"after": "#one"}], "Row 2, after: there is no row #one above that makes jobs."),
        ([{"variations": "9"}, {"after": "#1 gen_1 gen_2"}],
         "Row 2, after: names 11 jobs; a job waits for at most 10."),
        ([{"variations": "10"}, {"after": "#1"}],
         "Row 2, after: #1 can be named in a sheet of one batch only, of at most 10 jobs."),
        ([{"after": "a " + "b" * 41}], "Row 1, after: String should have at most 40 characters."),
        ([{"webhook_url": "ftp://a"}], "Row 1, webhook_url: must be an http or https URL."),
    ],
)  # fmt: skip
def test_a_row_that_cannot_come_after_says_why(rows: list[Row], problem: str) -> None:
    assert said(*({"prompt": "sad piano", **row} for row in rows)) == [problem]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "x"}, "Row 1, prompt: must have 3 to 500 characters, not 1."),
        ({"duration": "8"}, "Row 1, prompt: is missing."),
        ({"prompt": "sad piano", "duration": "long"}, "Row 1, duration: must be a number, not 'long'."),
        ({"prompt": "sad piano", "seed": "1,000"}, "Row 1, seed: must be a whole number, not '1,000'."),
        ({"prompt": "sad piano", "seed": "1.5"}, "Row 1, seed: must be a whole number, not '1.5'."),
        ({"prompt": "sad piano", "duration": "nan"}, "Row 1, duration: Input should be a finite number."),
        ({"prompt": "sad piano", "top_k": "1e999"}, "Row 1, top_k: must be a whole number, not '1e999'."),
        ({"prompt": "sad piano", "variations": "51"}, "Row 1, variations: must be 1 to 50."),
        ({"prompt": "sad piano", "variations": "0"}, "Row 1, variations: must be 1 to 50."),
        (
            {"prompt": "sad piano", "seed": str(SEED_MAX), "variations": "2"},
            f"Row 1, seed: with its variations it passes {SEED_MAX}.",
        ),
    ],
)
def test_what_is_wrong_is_named_by_row_and_field(row: dict[str, str], problem: str) -> None:
    assert said(row) == [problem]


def test_all_rows_are_looked_at_and_a_row_says_the_same_thing_once() -> None:
    rows = [{"prompt": "{x|y}"}, {"prompt": "sad piano"}, {"prompt": "{calm|dark} piano", "duration": "99"}]
    made = plan(rows, {})
    assert [(problem.row, problem.field) for problem in made.problems] == [(1, "prompt"), (3, "duration")]
    assert made.rows == [2]


def test_a_decimal_comma_is_understood_and_large_seeds_stay_exact() -> None:
    made = plan([{"prompt": "sad piano", "duration": "7,5", "seed": str(SEED_MAX)}], {}).requests[0]
    assert (made.duration, made.seed) == (7.5, SEED_MAX)


def test_a_model_that_is_not_there_is_a_problem_of_its_row() -> None:
    def check(request: GenerationRequest) -> None:
        if request.model == "nonesuch":
            raise InvalidRequest("model", "There is no model 'nonesuch'.")

    made = plan([{"prompt": "sad piano"}, {"prompt": "sad piano", "model": "nonesuch"}], {}, check)
    assert [str(problem) for problem in made.problems] == ["Row 2, model: There is no model 'nonesuch'."]


def test_more_jobs_than_a_sheet_may_make_are_refused_with_the_row_where_it_passes_the_most() -> None:
    rows = [{"prompt": "sad piano", "variations": "50"}] * 11
    (problem,) = plan(rows, {}).problems
    assert (problem.row, problem.field) == (11, None)


def test_the_requests_go_in_batches_of_ten() -> None:
    made = plan([{"prompt": "sad piano", "variations": "23"}], {})
    assert [len(batch) for batch in made.batches] == [BATCH_MAX, BATCH_MAX, 3]
    assert [request for batch in made.batches for request in batch] == made.requests


def test_rows_written_out_make_the_same_requests_and_stay_what_they_are() -> None:
    rows = [
        {"prompt": "{calm|dark} piano {{x}}", "seed": "7", "variations": "2"}, {},
        {"prompt": "fast {a|b}", "duration": "4"}, {"prompt": "broken {", "seed": "1"},
    ]  # fmt: skip
    written = sheet.expand(rows, {})
    assert written[:2] == [{"prompt": "calm piano {{x}}", "seed": "7"}, {"prompt": "calm piano {{x}}", "seed": "8"}]
    assert written[-1] == rows[-1]
    assert plan(written, {}).requests == plan(rows, {}).requests
    assert sheet.expand(written, {}) == written


def test_takes_written_out_count_up_from_the_default_seed_as_they_do_in_the_sheet() -> None:
    rows = [{"prompt": "sad piano", "variations": "3"}, {"prompt": "fast drums"}]
    written = sheet.expand(rows, {"seed": 7})
    assert [row.get("seed") for row in written] == ["7", "8", "9", None]
    assert plan(written, {"seed": 7}).requests == plan(rows, {"seed": 7}).requests


def test_more_rows_than_a_sheet_has_are_not_written_out() -> None:
    rows = [{"prompt": "{sad|calm|dark} piano", "variations": "50"}] * 4
    with pytest.raises(SheetUnreadable, match="more than 500 rows"):
        sheet.expand(rows, {})


# Files


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_is_read_however_a_spreadsheet_writes_it(delimiter: str, encoding: str, newline: str) -> None:
    lines = [("Prompt", "Duration", "Top K"), ('"piano, café"', "8", "50"), ('"two\nlines"', "", "")]
    data = newline.join(delimiter.join(line) for line in lines).encode(encoding)
    rows = read("songs.csv", data)
    assert rows == [{"prompt": "piano, café", "duration": "8", "top_k": "50"}, {"prompt": "two\nlines"}]


def test_json_lines_are_read_and_a_list_too() -> None:
    items = [{"prompt": "sad piano", "duration": 8, "seed": None}, {"prompt": "fast {a|b}", "cfg_coef": 4.5}]
    expected = [{"prompt": "sad piano", "duration": "8"}, {"prompt": "fast {a|b}", "cfg_coef": "4.5"}]
    lines = "\n\n".join(map(json.dumps, items))
    assert read("songs.jsonl", lines.encode()) == expected
    assert read("songs.json", json.dumps(items).encode()) == expected


def test_plain_text_is_one_prompt_a_line() -> None:
    expected = [{"prompt": "calm piano, slow"}, {"prompt": "jazz trio"}]
    assert read("songs.txt", b"calm piano, slow\n\njazz trio\n") == expected
    assert read("one-column.csv", b"calm piano\njazz trio") == [{"prompt": "calm piano"}, {"prompt": "jazz trio"}]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"prompt,tempo\nsad piano,80", "Row 1: there is no column 'tempo'"),
        ("a.csv", b"prompt,text\nsad piano,80", "Row 1: the column prompt is there twice."),
        ("a.csv", b"sad piano,8\nfast,9", "The first row has to name the columns"),
        ("a.csv", b"prompt,seed\ncalm piano, slow, no drums,7", "Row 1: it has 4 cells, but there are 2 columns."),
        ("a.csv", b"PK\x03\x04\0\0", "not a text file"),
        ("a.jsonl", b'{"prompt": "sad piano"}\n{"prompt": ', "Line 2 is not JSON"),
        ("a.jsonl", b'{"prompt": "sad piano", "tempo": 80}', "Row 1: there is no field 'tempo'"),
        ("a.jsonl", b'{"prompt": ["sad"]}', "Row 1, prompt: write text or a number."),
        ("a.jsonl", b'{"prompt": "sad piano", "duration": true}', "Row 1, duration: write text or a number."),
        ("a.jsonl", b"7", "Row 1: write an object"),
        ("a.jsonl", b"[" * 100_000, "is not JSON"),
        ("a.jsonl", b"1" * 5000, "is not JSON"),
        ("a.csv", b'prompt\n"' + b"a" * 200_000 + b'"', "It is not a table"),
        ("a.csv", b"a" * (FILE_MAX_BYTES + 1), "a sheet has at most 0.5 MB"),
        ("a.txt", b"sad piano\n" * (ROWS_MAX + 1), "There are 501 rows"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(name: str, data: bytes, words: str) -> None:
    with pytest.raises(SheetUnreadable, match=words.replace("(", r"\(").replace(".", r"\.")):
        read(name, data)


def test_no_bytes_break_the_reader() -> None:
    draw = random.Random(3)
    for number in range(400):
        data = bytes(draw.choice(b'prompt,;\t\n\r"{}[]|\\\x00\xff8') for _ in range(draw.randint(0, 80)))
        name = draw.choice(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a"])
        try:
            rows = read(name, data)
        except SheetUnreadable:
            continue
        assert len(plan(rows, {}).requests) <= JOBS_MAX, number


def test_the_samples_are_good_sheets_and_the_same() -> None:
    from_csv = plan(read("sample.csv", sheet.sample_csv().encode()), {})
    from_jsonl = plan(read("sample.jsonl", sheet.sample_jsonl().encode()), {})
    assert from_csv == from_jsonl
    assert from_csv.problems == []
    assert len(from_csv.requests) == 8


# The clipboard


def test_cells_from_a_spreadsheet_go_where_the_cursor_is() -> None:
    rows = [{"prompt": "one"}, {"prompt": "two", "seed": "2"}, {"prompt": "three"}]
    pasted = paste(rows, "4\t41\r\n5\t51", at=1, column="duration")
    assert pasted == [
        {"prompt": "one"}, {"prompt": "two", "duration": "4", "seed": "41"},
        {"prompt": "three", "duration": "5", "seed": "51"},
    ]  # fmt: skip


def test_pasted_cells_make_the_rows_that_are_missing() -> None:
    assert paste([], 'sad piano\t8\n"two\nlines"\t\n') == [
        {"prompt": "sad piano", "duration": "8"}, {"prompt": "two\nlines", "duration": ""},
    ]  # fmt: skip
    assert paste([{"prompt": "one"}], "two\nthree", at=2)[2:] == [{"prompt": "two"}, {"prompt": "three"}]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_pasted_line_of_names_says_what_the_columns_are(delimiter: str) -> None:
    text = f"seed{delimiter}prompt\n7{delimiter}sad piano\n"
    assert paste([{"prompt": "old", "model": "m"}], text) == [{"prompt": "sad piano", "seed": "7", "model": "m"}]


def test_pasted_lines_are_prompts_and_keep_their_commas() -> None:
    assert paste([], "calm piano, slow\n\njazz trio, bass\n") == [
        {"prompt": "calm piano, slow"}, {"prompt": "jazz trio, bass"},
    ]  # fmt: skip


def test_a_group_in_a_group_is_refused_in_words() -> None:
    assert "groups cannot be nested" in said({"prompt": "{a|{b|c}}"})[0]


def test_pasted_json_lines_are_rows_and_say_what_is_wrong_as_a_file_does() -> None:
    text = '{"prompt": "calm piano", "duration": 8}\n{ "prompt": "jazz\\ttrio", "takes": 3}\n'
    made = [{"prompt": "calm piano", "duration": "8"}, {"prompt": "jazz\ttrio", "variations": "3"}]
    assert paste([], text) == read("a.jsonl", text.encode()) == made
    assert paste([], "{calm|dark} piano\njazz trio") == [{"prompt": "{calm|dark} piano"}, {"prompt": "jazz trio"}]
    for wrong in ('{"prompt": "x", "tempo": 1}\n', '{"prompt": "x"}\n{"prompt"\n'):
        with pytest.raises(SheetUnreadable) as pasted:
            paste([], wrong)
        with pytest.raises(SheetUnreadable, match=re.escape(str(pasted.value))):
            read("a.jsonl", wrong.encode())


def test_a_paste_that_is_too_long_is_refused_and_changes_nothing() -> None:
    rows = [{"prompt": "mine"}]
    with pytest.raises(SheetUnreadable):
        paste(rows, "sad piano\n" * (ROWS_MAX + 1))
    assert rows == [{"prompt": "mine"}]
    assert prompts("mine") == ["mine"]
