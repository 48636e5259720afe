"""One line an event, for people or for programs. Whatever text comes in, an event stays on its line.

A record's `extra` fields (`job_id`, `prompt`, …) are printed after the message as `name=value`, or as JSON fields.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from studio.schemas import iso_utc

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send the studio's and the server's log to standard error; libraries speak only when something is wrong."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[stream], force=True)
    logging.getLogger("studio").setLevel(level)


class TextLines(logging.Formatter):
    """`12:30:00 INFO Job enqueued: gen_… prompt='sad piano'`; a stack trace follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        message = record.getMessage()
        fields = _extra(record)
        if "job_id" in fields and str(fields["job_id"]) in message:
            del fields["job_id"]
        line = f"{moment} {record.levelname:<7} {_one_line(message)}"
        line += "".join(f" {name}={value!r}" for name, value in fields.items())
        if record.exc_info:
            rows = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {_one_line(row)}" for row in rows)
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the extra fields, `stack`."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": iso_utc(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            event["stack"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
