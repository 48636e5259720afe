"""One line an event, whatever a prompt holds."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from studio import GenerationRequest, Settings, Studio
from studio.log import JsonLines, TextLines
from tests.fakes import load_sine
from tests.serving import API, served


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


def test_text_lines_name_the_job_once() -> None:
    assert TextLines().format(record("Job enqueued: %s", "gen_1", job_id="gen_1")).count("gen_1") == 1
    assert TextLines().format(record("Nothing to cancel", job_id="gen_1")).endswith("Nothing to cancel job_id='gen_1'")


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


def test_a_stack_trace_moves_no_cursor() -> None:
    try:
        raise ValueError("broken\x1b[2A\r12:00:00 ERROR forged")
    except ValueError as error:
        event = record("Job failed")
        event.exc_info = (type(error), error, error.__traceback__)
    _, *trace = TextLines().format(event).split("\n")
    assert "\x1b" not in "".join(trace)
    assert all(line.startswith("    ") and line.isprintable() for line in trace)


# What a job's life looks like


def life(data_dir: Path, prompt: str, **fields: object) -> str:
    """Run a job to its end; its id."""
    settings = Settings.model_validate({"data_dir": data_dir, "retry_delay_seconds": 0.01, **fields})
    with Studio(settings, load_sine) as studio:
        job_id = studio.submit(GenerationRequest(prompt=prompt, duration=1.0)).job_id
        *_, last = studio.watch(job_id, timeout_s=60)
    assert last.status.ended
    return job_id


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_job_that_keeps_failing_is_told_in_the_words_that_were_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "studio")
    job_id = life(tmp_path, "explode now", max_retries=2)
    assert f"Job enqueued: {job_id}" in messages(caplog, logging.INFO)
    assert messages(caplog, logging.WARNING) == [
        f"Job failed, will retry: {job_id} (attempt 1)",
        f"Job failed, will retry: {job_id} (attempt 2)",
    ]
    assert messages(caplog, logging.ERROR) == [f"Job failed after 2 retries: {job_id}"]
    failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
    for record in failures:
        assert record.__dict__["job_id"] == job_id
        assert "RuntimeError: the engine exploded" in TextLines().format(record)
        assert "Traceback" in json.loads(JsonLines().format(record))["stack"]


def test_a_job_that_succeeds_is_told_in_three_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "studio")
    job_id = life(tmp_path, "sad piano")
    about = [message for message in messages(caplog, logging.INFO) if job_id in message]
    assert about == [f"Job enqueued: {job_id}", f"Job started: {job_id}", f"Job completed: {job_id}"]


def test_the_server_writes_no_line_for_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with served(tmp_path) as server:
        caplog.clear()
        server.http.get(f"{API}/health/live")
        server.http.get(f"{API}/jobs/gen_0000000000000000")
        assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
