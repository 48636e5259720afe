"""Who goes first, through every door: priorities, jobs after jobs, to the front, a pause; and requests sent twice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from gradio_client import Client
from gradio_client.exceptions import AppError

from studio import BatchRequest, GenerationRequest, Settings, Studio
from studio.errors import InvalidRequest, RateLimited
from tests.fakes import load_sine
from tests.serving import API, Served, load_slow, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One job at a time, a second for each second of audio."""
    with served(tmp_path_factory.mktemp("order"), load_slow) as server:
        yield server


@pytest.fixture
def paused(server: Served) -> Iterator[Served]:
    """Nothing starts until the test resumes."""
    assert server.http.post(f"{API}/queue/pause").json()["paused"] is True
    yield server
    for status in ("pending", "processing"):
        for job in server.http.get(f"{API}/jobs?status={status}&page_size=100").json()["jobs"]:
            server.http.delete(f"{API}/jobs/{job['job_id']}?force=true")
    server.http.post(f"{API}/queue/resume")


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return Client(server.url, verbose=False)


def started(server: Served, job_ids: list[str]) -> list[str]:
    """The jobs in the order in which they were started, once all have ended."""
    jobs = [server.finish(job_id) for job_id in job_ids]
    return [job["job_id"] for job in sorted(jobs, key=lambda job: job["started_at"] or "")]


def test_a_paused_queue_starts_nothing_and_says_so_on_every_surface(paused: Served, client: Client) -> None:
    answer = paused.http.post(f"{API}/generate", json={"prompt": "sad piano", "duration": 1.0}).json()
    assert answer["estimated_time_seconds"] is None
    batch = paused.http.post(f"{API}/generate/batch", json={"requests": [{"prompt": "sad piano"}]}).json()
    assert batch["estimated_total_time_seconds"] is None
    assert paused.http.delete(f"{API}/batches/{batch['batch_id']}").status_code == 200
    job_id = answer["job_id"]
    state = paused.http.get(f"{API}/queue").json()
    assert set(state) == {"paused", "paused_at"}
    assert state["paused_at"].endswith("Z")
    assert client.predict(api_name="/queue_state") == client.predict(api_name="/pause") == state
    queue = paused.http.get(f"{API}/health").json()["checks"]["queue"]
    assert (queue["status"], queue["message"]) == ("healthy", "1 pending job, and the queue is paused")
    assert paused.http.get(f"{API}/health/ready").status_code == 200
    assert (paused.job(job_id)["status"], paused.job(job_id)["estimated_time_seconds"]) == ("pending", None)
    assert client.predict(api_name="/resume") == {"paused": False, "paused_at": None}
    assert paused.finish(job_id)["status"] == "completed"


def test_a_higher_priority_starts_first_and_to_the_front_before_all(paused: Served, client: Client) -> None:
    low, normal, high = (paused.ask(priority=priority) for priority in (-10, 0, 10))
    assert [paused.job(job_id)["queue_position"] for job_id in (low, normal, high)] == [3, 2, 1]
    assert paused.job(low)["priority"] == -10
    moved = paused.http.post(f"{API}/jobs/{normal}/front")
    assert (moved.status_code, moved.json()["queue_position"]) == (200, 1)
    assert client.predict(low, api_name="/to_front")["queue_position"] == 1
    paused.http.post(f"{API}/queue/resume")
    assert started(paused, [low, normal, high]) == [low, normal, high]
    refused = paused.http.post(f"{API}/jobs/{low}/front")
    assert (refused.status_code, set(refused.json())) == (409, {"error"})
    with pytest.raises(AppError, match="completed"):
        client.predict(low, api_name="/to_front")


@pytest.mark.parametrize("job_id", ["gen_0000000000000000", "%00", "%ff", "x" * 3000])
def test_an_unknown_job_cannot_go_to_the_front(server: Served, job_id: str) -> None:
    assert server.http.post(f"{API}/jobs/{job_id}/front").status_code == 404


def test_a_job_after_another_starts_when_that_is_completed(paused: Served, client: Client) -> None:
    first = paused.ask()
    second = client.predict("sad piano", duration=1, after=[first], priority=10, api_name="/generate")["job_id"]
    assert paused.job(second)["after"] == [first]
    assert paused.job(second)["queue_position"] == 2
    paused.http.post(f"{API}/queue/resume")
    jobs = [paused.finish(job_id) for job_id in (first, second)]
    assert [job["status"] for job in jobs] == ["completed", "completed"]
    assert jobs[1]["started_at"] >= jobs[0]["completed_at"]


def test_a_job_after_one_that_is_cancelled_fails_and_names_it(paused: Served) -> None:
    first = paused.ask()
    second = paused.ask(after=[first])
    third = paused.ask(after=[second])
    paused.http.delete(f"{API}/jobs/{first}")
    for job_id, cause in ((second, first), (third, second)):
        job = paused.job(job_id)
        assert (job["status"], job["current_step"], job["started_at"]) == ("failed", "failed", None)
        assert cause in job["error_message"]
    assert paused.http.post(f"{API}/jobs/{second}/retry").status_code == 409
    assert paused.http.post(f"{API}/jobs/{first}/retry").status_code == 200
    assert paused.job(second)["status"] == "failed"
    assert paused.http.post(f"{API}/jobs/{second}/retry").status_code == 200


def test_a_batch_names_its_own_earlier_requests(paused: Served) -> None:
    requests: list[dict[str, Any]] = [{"prompt": "sad piano", "duration": 1, "after": after} for after in ([], ["#1"])]
    ids = paused.http.post(f"{API}/generate/batch", json={"requests": requests}).json()["job_ids"]
    assert paused.job(ids[1])["after"] == [ids[0]]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"after": ["gen_0000000000000000"]}, "after.0"),
        ({"after": ["nul \0"]}, "after.0"),
        ({"after": ["#1"]}, "after.0"),
        ({"after": [""]}, "after.0"),
        ({"after": [7]}, "after.0"),
        ({"after": "gen_0000000000000000"}, "after"),
        ({"after": ["gen_0000000000000000"] * 11}, "after"),
        ({"after": None}, "after"),
        ({"priority": 11}, "priority"),
        ({"priority": -11}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": "high"}, "priority"),
    ],
)
def test_an_order_that_cannot_be_names_its_field(server: Served, fields: dict[str, object], field: str) -> None:
    before = server.studio.jobs().total
    answer = server.http.post(f"{API}/generate", json={"prompt": "sad piano", **fields})
    assert (answer.status_code, [item["field"] for item in answer.json()["detail"]]) == (422, [field])
    assert server.studio.jobs().total == before


def test_jobs_are_searched(server: Served, client: Client) -> None:
    job_id = server.ask("A 100% Brass Fanfare")
    for search in ("100% brass", job_id[-8:]):
        page = server.http.get(f"{API}/jobs", params={"search": search}).json()
        assert [job["job_id"] for job in page["jobs"]] == [job_id]
        assert client.predict(search=search, api_name="/jobs")["total"] == 1
    assert server.http.get(f"{API}/jobs", params={"search": "100% glass"}).json()["total"] == 0
    assert server.http.get(f"{API}/jobs", params={"search": " "}).json()["total"] == server.studio.jobs().total
    for wrong in ("nul\0", "x" * 501):
        answer = server.http.get(f"{API}/jobs", params={"search": wrong})
        assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "search")


# Sent twice


def test_a_request_sent_twice_with_a_key_is_one_job(server: Served, client: Client) -> None:
    body = {"prompt": "sad piano", "duration": 1.0}
    answers = [server.http.post(f"{API}/generate", json=body, headers={"Idempotency-Key": "one"}) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == len({answer.headers["location"] for answer in answers}) == 1
    assert client.predict("sad piano", duration=1, idempotency_key="one", api_name="/generate") == answers[0].json()
    assert server.http.post(f"{API}/generate", json=body).text != answers[0].text


def test_a_request_sent_twice_is_answered_alike_whatever_has_become_of_its_clip(server: Served) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000, format="WAV")
    clip = server.http.post(f"{API}/clips", content=file.getvalue()).json()["clip_id"]
    body, key = {"prompt": "sad piano", "duration": 3.0, "continue_from": clip}, {"Idempotency-Key": "clip"}
    first = server.http.post(f"{API}/generate", json=body, headers=key)
    (server.studio.settings.clips_dir / clip).unlink()
    assert server.http.post(f"{API}/generate", json=body, headers=key).text == first.text
    assert server.http.post(f"{API}/generate", json=body).status_code == 422


def test_a_batch_sent_twice_with_a_key_is_one_batch(server: Served, client: Client) -> None:
    requests = [{"prompt": "sad piano", "duration": 1.0}] * 2
    first, second = (
        server.http.post(f"{API}/generate/batch", json={"requests": requests}, headers={"Idempotency-Key": "two"})
        for _ in range(2)
    )
    assert (first.status_code, first.text) == (202, second.text)
    assert client.predict(requests, idempotency_key="two", api_name="/generate_batch") == first.json()


@pytest.mark.parametrize("path", ["generate", "generate/batch"])
def test_a_key_with_another_body_is_422(server: Served, path: str) -> None:
    key = {"Idempotency-Key": f"three {path}"}
    assert server.http.post(f"{API}/generate", json={"prompt": "sad piano"}, headers=key).status_code == 202
    request = {"prompt": "happy piano"}
    body = request if path == "generate" else {"requests": [request]}
    answer = server.http.post(f"{API}/{path}", json=body, headers=key)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize("key", ["", "k" * 256, "caf\xe9"])
def test_a_key_that_is_none_is_422(server: Served, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = server.http.post(f"{API}/generate", json={"prompt": "sad piano"}, headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "Idempotency-Key")


def test_a_request_sent_twice_is_charged_once(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "rate_limit_per_minute": 3})
    ask, who = GenerationRequest(prompt="sad piano", duration=1.0), "203.0.113.9"
    with Studio(settings, load_sine) as studio:
        studio.submit(ask, who, key="a")
        batch = studio.submit_batch(BatchRequest(requests=[ask, ask]), who, key="b")
        for _ in range(5):
            studio.submit(ask, who, key="a")
            assert studio.submit_batch(BatchRequest(requests=[ask, ask]), who, key="b") == batch
        with pytest.raises(InvalidRequest, match="Idempotency-Key"):
            studio.submit(GenerationRequest(prompt="happy piano"), who, key="a")
        with pytest.raises(RateLimited):
            studio.submit(ask, who, key="c")
        assert studio.jobs().total == 3
