"""One line an event, whatever a prompt holds."""

from __future__ import annotations

import json
import logging

import pytest

from studio.log import JsonLines, TextLines


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("studio").makeRecord(
        "studio", logging.INFO, "file", 1, message, arguments, None, extra=extra
    )


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
@pytest.mark.parametrize("evil", ["a\r\n12:00:00 ERROR forged", "a\x1b[31m", "a\u2028b", "a\ud800"])
def test_text_from_outside_stays_on_its_line(formatter: logging.Formatter, evil: str) -> None:
    line = formatter.format(record("Job enqueued: %s", evil, prompt=evil))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    line.encode()


def test_json_lines_carry_the_job() -> None:
    event = json.loads(JsonLines().format(record("Job enqueued: %s", "gen_1", job_id="gen_1", prompt="sad piano")))
    assert (event["job_id"], event["prompt"], event["message"]) == ("gen_1", "sad piano", "Job enqueued: gen_1")
    assert event["time"].endswith("Z")


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_a_stack_trace_is_kept(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        event = record("Job failed")
        event.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: broken" in formatter.format(event)
