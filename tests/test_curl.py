"""The commands of the studio's first description, word for word, against a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from studio import GenerationRequest, Settings, Studio
from studio.store.db import Database
from tests.conftest import missing
from tests.fakes import load_sine
from tests.serving import Served, load_slow, served

JOB = "gen_abc123"  # as the commands name it

CANCEL = "curl -X DELETE http://localhost:8000/api/v1/jobs/gen_abc123"
STATUS = "curl http://localhost:8000/api/v1/jobs/gen_abc123"
BATCH = """
curl -X POST http://localhost:8000/api/v1/generate/batch \\
  -H "Content-Type: application/json" \\
  -d '{
    "requests": [
      {"prompt": "trap beat with 808s", "duration": 16.0},
      {"prompt": "lo-fi hip hop", "duration": 20.0}
    ]
  }'
"""
PAGES = ["http://localhost:8000/api/v1/docs", "http://localhost:8000/api/v1/redoc"]
OPENAPI = "http://localhost:8000/api/v1/openapi.json"

Shell = Callable[[str], str]


@pytest.fixture(scope="module", autouse=True)
def _curl() -> None:
    if shutil.which("curl") is None:
        missing("curl is not installed")


@contextmanager
def shell(server: Served, home: Path) -> Iterator[Shell]:
    """A shell whose curl finds the studio's port where the commands say 8000."""
    port = urlsplit(server.url).port
    (home / ".curlrc").write_text(f'connect-to = "localhost:8000:127.0.0.1:{port}"\nsilent\n')

    def run(command: str) -> str:
        environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(home)}
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run


def body_and_status(run: Shell, command: str) -> tuple[dict[str, Any], int]:
    """The answer's JSON, and its status: the command with one option more at its end."""
    body, _, status = run(command.strip() + " -w '\\n%{http_code}'").rpartition("\n")
    answer: dict[str, Any] = json.loads(body)
    return answer, int(status)


def with_the_job(data_dir: Path, paused: bool = False, **fields: Any) -> None:
    """Leave a waiting job of that name for the next studio."""
    studio = Studio(Settings.model_validate({"data_dir": data_dir}), load_sine)
    studio.start(work=False)
    job_id = studio.submit(GenerationRequest(prompt="trap beat", **fields)).job_id
    if paused:
        studio.pause()
    studio.stop()
    database = Database(studio.settings.resolved_database_url)
    with database.write() as session:
        rename = text("UPDATE generations SET job_id = :new WHERE job_id = :old")
        session.connection().execute(rename, {"old": job_id, "new": JOB})
    database.close()


def test_a_waiting_job_is_cancelled_and_only_once(tmp_path: Path) -> None:
    with_the_job(tmp_path, paused=True)
    with served(tmp_path) as server, shell(server, tmp_path) as run:
        answer, status = body_and_status(run, CANCEL)
        assert status == 200
        assert (answer["message"], answer["job_id"]) == ("Job cancelled successfully", JOB)
        assert answer["cancelled_at"].endswith("Z")
        assert body_and_status(run, STATUS)[0]["status"] == "cancelled"
        assert body_and_status(run, CANCEL)[1] == 409


def test_a_running_job_shows_its_step_and_is_not_cancelled(tmp_path: Path) -> None:
    with_the_job(tmp_path, duration=30.0)
    with served(tmp_path, load_slow) as server, shell(server, tmp_path) as run:
        server.until(lambda: json.loads(run(STATUS))["current_step"] == "generating")
        answer, status = body_and_status(run, STATUS)
        assert status == 200
        assert (answer["job_id"], answer["status"], answer["current_step"]) == (JOB, "processing", "generating")
        assert (answer["prompt"], answer["retry_count"]) == ("trap beat", 0)
        assert body_and_status(run, CANCEL)[1] == 409


def test_a_job_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with served(tmp_path) as server, shell(server, tmp_path) as run:
        assert body_and_status(run, CANCEL)[1] == 404
        assert body_and_status(run, STATUS)[1] == 404


def test_a_batch_is_accepted_and_each_of_its_jobs_is_followed(tmp_path: Path) -> None:
    with served(tmp_path) as server, shell(server, tmp_path) as run:
        answer, status = body_and_status(run, BATCH)
        assert status == 202
        assert answer["total_jobs"] == len(answer["job_ids"]) == 2
        assert answer["estimated_total_time_seconds"] > 0
        jobs = [server.finish(job_id) for job_id in answer["job_ids"]]
        assert [(job["status"], job["prompt"], job["duration"]) for job in jobs] == [
            ("completed", "trap beat with 808s", 16.0), ("completed", "lo-fi hip hop", 20.0),
        ]  # fmt: skip


def test_after_ten_requests_in_a_minute_the_answer_is_429(tmp_path: Path) -> None:
    with served(tmp_path, rate_limit_whitelist=[]) as server, shell(server, tmp_path) as run:
        for _ in range(5):  # two requests each
            assert body_and_status(run, BATCH)[1] == 202
        head, _, body = run(BATCH.strip() + " -i").partition("\n\n")
        answer = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
        assert head.startswith("HTTP/1.1 429 Too Many Requests")
        assert 1 <= int(answer["retry-after"]) <= 60
        assert answer["content-type"] == "application/json"
        assert json.loads(body) == {"error": "Rate limit exceeded"}


def test_health_statistics_and_documentation_are_where_it_says(tmp_path: Path) -> None:
    with served(tmp_path) as server, shell(server, tmp_path) as run:
        health, status = body_and_status(run, "curl http://localhost:8000/api/v1/health")
        assert status == 200
        assert set(health) == {"status", "checks", "version", "uptime_seconds", "timestamp"}
        assert set(health["checks"]) == {"database", "gpu", "queue", "disk_space"}
        for probe in ("ready", "live"):
            assert body_and_status(run, f"curl http://localhost:8000/api/v1/health/{probe}")[1] == 200
        stats, _ = body_and_status(run, "curl http://localhost:8000/api/v1/queue/stats")
        assert set(stats) == {
            "pending_jobs", "processing_jobs", "completed_jobs", "failed_jobs",
            "oldest_pending_job_age_seconds", "average_processing_time_seconds",
        }  # fmt: skip
        for page in PAGES:
            assert "<html" in run(f"curl {page}")
        assert "/api/v1/generate/batch" in json.loads(run(f"curl {OPENAPI}"))["paths"]
