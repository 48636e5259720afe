"""Webhooks: an ended job is told, signed, to whoever asked for it, until they have taken it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from studio import BatchRequest, GenerationRequest, Settings, Studio
from studio.audio.files import read_recipe
from studio.errors import InvalidRequest
from studio.metrics import Census, Metrics
from studio.outbound import Resolve, Unreachable
from studio.schemas import DeliveryStatus, JobDeliveries
from studio.store.db import Database
from studio.store.outbox import Outbox
from studio.store.queue import JobQueue
from studio.store.tables import Delivery
from studio.webhooks import Dispatcher
from tests.conftest import Clock
from tests.fakes import load_sine
from tests.receivers import Received, Receiver, receiving
from tests.serving import API, load_slow, served

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, no").decode()


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": tmp_path, "max_retries": 0, "shutdown_seconds": 1, "webhook_secret": SECRET,
            "webhook_allow_private": True, "webhook_retry_delay_seconds": 0.02, **fields,
        }
    )  # fmt: skip


def asking(receiver: Receiver, prompt: str = "sad piano", **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, duration=1.0, webhook_url=receiver.url, **fields)


def genuine(request: Received, secret: str = SECRET) -> bool:
    """Verified as https://www.standardwebhooks.com says, without the studio's help."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    fresh = abs(time.time() - int(request.headers["webhook-timestamp"])) < 300
    return fresh and hmac.compare_digest(expected, request.headers["webhook-signature"])


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def settled(studio: Studio, job_id: str) -> JobDeliveries:
    """The job's deliveries once none of them waits."""
    until(lambda: all(item.status is not DeliveryStatus.PENDING for item in studio.deliveries(job_id).deliveries))
    return studio.deliveries(job_id)


# What is told


def test_a_completed_job_is_told_and_signed(tmp_path: Path) -> None:
    with receiving() as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        (request,) = receiver.wait_for(1)
        (delivery,) = settled(studio, job_id).deliveries
        job = studio.job(job_id)
    event = json.loads(request.body)
    assert genuine(request)
    assert not genuine(Received(request.path, request.headers, request.body.replace(b"sad", b"bad")))
    assert request.headers["content-type"] == "application/json"
    assert event["event"] == "job.completed"
    assert event["delivery_id"] == request.headers["webhook-id"] == delivery.delivery_id
    assert event["job"] == job.model_dump(mode="json")
    assert event["sent_at"].endswith("Z")
    assert (delivery.status, delivery.attempts, delivery.response_status) == (DeliveryStatus.DELIVERED, 1, 204)
    assert delivery.next_attempt_at is None
    assert delivery.ended_at is not None


def test_who_watches_a_job_sees_its_webhook_arrive(tmp_path: Path) -> None:
    with receiving() as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        *_, ended = studio.watch(job_id, timeout_s=60)
        (change,) = studio.changes([job_id])
        settled(studio, job_id)
        assert ended.status.ended
        assert studio.version() > change.version


def test_failed_and_cancelled_jobs_are_told(tmp_path: Path) -> None:
    with receiving() as receiver, Studio(settings(tmp_path), load_slow) as studio:
        long = studio.submit(asking(receiver, "explode slowly"))
        waiting = studio.submit(asking(receiver)).job_id
        studio.cancel(waiting)
        batch = studio.submit_batch(BatchRequest(requests=[asking(receiver), asking(receiver)]))
        studio.cancel_batch(batch.batch_id)
        requests = receiver.wait_for(4)
    told = {event["job"]["job_id"]: event["event"] for event in (json.loads(request.body) for request in requests)}
    assert told == {long.job_id: "job.failed", **dict.fromkeys([waiting, *batch.job_ids], "job.cancelled")}
    assert all(genuine(request) for request in requests)


def test_a_job_that_is_tried_again_is_told_once_at_its_end(tmp_path: Path) -> None:
    made = settings(tmp_path, max_retries=2, retry_delay_seconds=0.01)
    with receiving() as receiver, Studio(made, load_sine) as studio:
        job_id = studio.submit(asking(receiver, "explode")).job_id
        receiver.wait_for(1)
        assert [item.event for item in settled(studio, job_id).deliveries] == ["job.failed"]
        assert studio.job(job_id).retry_count == 2


def test_a_job_that_is_retried_by_hand_is_told_as_it_was_then(tmp_path: Path) -> None:
    """Its first end is delivered late, when it has long been started again."""
    with receiving() as receiver:
        studio = Studio(settings(tmp_path), load_sine)
        studio.start(work=False)
        try:
            job_id = studio.submit(asking(receiver)).job_id
            receiver.statuses[:] = [503, 204]
            studio.cancel(job_id)
            studio.retry(job_id)
            late = json.loads(receiver.wait_for(2)[1].body)
            assert (late["event"], late["job"]["status"], late["job"]["completed_at"] is None) == (
                "job.cancelled", "cancelled", False,
            )  # fmt: skip
            studio.cancel(job_id)
            assert len(studio.deliveries(job_id).deliveries) == 2
        finally:
            studio.stop()


def test_whoever_asks_for_no_webhook_gets_none(tmp_path: Path) -> None:
    with Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(GenerationRequest(prompt="sad piano", duration=1.0)).job_id
        *_, job = studio.watch(job_id, timeout_s=30)
        assert job.status == "completed"
        assert studio.deliveries(job_id).deliveries == []


def test_without_a_secret_nobody_even_looks(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, webhook_secret=None), load_sine):
        assert "dispatcher" not in {thread.name for thread in threading.enumerate()}


def test_the_address_is_in_neither_the_audio_nor_the_job(tmp_path: Path) -> None:
    with receiving() as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        receiver.wait_for(1)
        assert receiver.url not in studio.job(job_id).model_dump_json()
        assert "webhook_url" not in read_recipe(studio.track_path(f"{job_id}.wav"))


# What is refused


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "example.org", "//example.org", "javascript:alert(1)", "http://", "",
        "http://me:secret@example.org/", "http://me@example.org/", "http://example.org/#part", "http://exa mple.org/",
        "http://example.org/\r\nX: y", "http://example.org:99999/", "http://example.org/" + "a" * 2000,
        "http://example.org/" + "ä" * 1000, 7,
    ],
)  # fmt: skip
def test_a_url_that_will_not_do_is_refused_by_name(url: object) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerationRequest.model_validate({"prompt": "sad piano", "webhook_url": url})
    assert caught.value.errors()[0]["loc"] == ("webhook_url",)


def test_a_url_that_will_do_is_kept_as_it_will_be_used() -> None:
    def kept(url: str) -> str | None:
        return GenerationRequest(prompt="sad piano", webhook_url=url).webhook_url

    assert kept("HTTPS://Example.org/a?b=c") == "https://example.org/a?b=c"
    assert kept("http://2130706433/") == "http://127.0.0.1/"


def test_a_webhook_that_can_never_be_delivered_is_refused_at_once(tmp_path: Path) -> None:
    with served(tmp_path / "silent") as server:
        body = {"prompt": "sad piano", "webhook_url": "https://example.org/"}
        answer = server.http.post(f"{API}/generate", json=body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["field"] == "webhook_url"
        assert "WEBHOOK_SECRET" in answer.text
    strict = Studio(settings(tmp_path, webhook_allow_private=False))
    strict.start(work=False)
    with pytest.raises(InvalidRequest, match="private address"):
        strict.submit(GenerationRequest(prompt="sad piano", webhook_url="http://0x7f.1/"))
    assert strict.jobs().total == 0
    strict.stop()


@pytest.mark.parametrize("secret", ["whsec_", "whsec_c2hvcnQ=", "not base64 at all!", SECRET.removeprefix("whsec_")])
def test_a_secret_that_is_none_is_refused_without_being_shown(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ValidationError, match="24 to 64 random bytes") as caught:
        settings(tmp_path, webhook_secret=secret)
    assert caught.value.errors()[0]["loc"] == ("webhook_secret",)
    assert SECRET not in repr(settings(tmp_path))


# Until it has arrived


def test_what_fails_comes_again_as_the_same_delivery(tmp_path: Path) -> None:
    with receiving(500, 302, 429, 200) as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        requests = receiver.wait_for(4)
        (delivery,) = settled(studio, job_id).deliveries
    assert (delivery.status, delivery.attempts, delivery.response_status) == (DeliveryStatus.DELIVERED, 4, 200)
    assert delivery.error_message is None
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert all(genuine(request) for request in requests)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with receiving() as elsewhere, receiving(307, headers={"Location": elsewhere.url}) as receiver:
        with Studio(settings(tmp_path, webhook_max_attempts=2), load_sine) as studio:
            job_id = studio.submit(asking(receiver)).job_id
            receiver.wait_for(2)
            (delivery,) = settled(studio, job_id).deliveries
        assert elsewhere.requests == []
    assert delivery.status is DeliveryStatus.ABANDONED
    assert delivery.error_message == "The receiver answered 307, and redirects are not followed."


def test_gone_ends_it(tmp_path: Path) -> None:
    with receiving(410) as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        receiver.wait_for(1)
        (delivery,) = settled(studio, job_id).deliveries
        time.sleep(0.2)
    assert (delivery.status, delivery.attempts, delivery.response_status) == (DeliveryStatus.ABANDONED, 1, 410)
    assert len(receiver.requests) == 1


def test_the_last_attempt_ends_it(tmp_path: Path) -> None:
    with receiving(500) as receiver, Studio(settings(tmp_path, webhook_max_attempts=3), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        receiver.wait_for(3)
        (delivery,) = settled(studio, job_id).deliveries
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.ABANDONED, 3)
    assert delivery.error_message == "The receiver answered 500."


def test_a_private_address_behind_a_name_is_refused_for_good(tmp_path: Path) -> None:
    with receiving() as receiver, ended_job(tmp_path, receiver.url.replace("127.0.0.1", "hooks.example")) as job:
        row = job.deliver(lambda name, port: ["127.0.0.1"], webhook_allow_private=False)
    assert receiver.requests == []
    assert (row.status, row.attempts) == (DeliveryStatus.ABANDONED, 1)
    assert row.error_message is not None
    assert "private" in row.error_message


def test_a_name_that_is_not_known_may_be_known_later(tmp_path: Path) -> None:
    answers = iter([[], ["127.0.0.1"]])

    def resolve(name: str, port: int) -> list[str]:
        found = next(answers)
        if not found:
            raise Unreachable("The name is not known.")
        return found

    with receiving() as receiver, ended_job(tmp_path, receiver.url.replace("127.0.0.1", "hooks.example")) as job:
        row = job.deliver(resolve)
    assert (row.status, row.attempts) == (DeliveryStatus.DELIVERED, 2)
    assert receiver.requests[0].headers["host"].startswith("hooks.example:")


def test_a_slow_receiver_holds_up_nobody_else(tmp_path: Path) -> None:
    made = settings(tmp_path, webhook_timeout_seconds=1.0, webhook_max_attempts=1)
    with receiving(drip_s=0.05) as slow, receiving() as fast, Studio(made, load_sine) as studio:
        late = studio.submit(asking(slow)).job_id
        slow.wait_for(1)
        began = time.monotonic()
        studio.submit(asking(fast))
        fast.wait_for(1)
        assert studio.deliveries(late).deliveries[0].status is DeliveryStatus.PENDING or time.monotonic() - began > 1
        (delivery,) = settled(studio, late).deliveries
    assert delivery.error_message == "There was no answer within 1 s."


def test_a_receiver_may_ask_for_more_time(tmp_path: Path) -> None:
    with receiving(503, headers={"Retry-After": "3600"}) as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        receiver.wait_for(1)
        until(lambda: studio.deliveries(job_id).deliveries[0].response_status == 503)
        (delivery,) = studio.deliveries(job_id).deliveries
    assert delivery.next_attempt_at is not None
    assert delivery.attempted_at is not None
    assert (delivery.next_attempt_at - delivery.attempted_at).total_seconds() >= 3600


def test_it_survives_kill_9_of_the_studio(tmp_path: Path) -> None:
    with receiving(503) as receiver:
        process = subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), receiver.url, SECRET])
        try:
            receiver.wait_for(4, timeout_s=90)
            time.sleep(0.3)  # the next attempt is more than a second away: the row has no lease that must run out
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        receiver.statuses[:] = [204]
        before = len(receiver.requests)
        with Studio(settings(tmp_path), load_sine) as studio:
            (job,) = studio.jobs().jobs
            until(lambda: studio.deliveries(job.job_id).deliveries[0].status is DeliveryStatus.DELIVERED, 60)
    assert len(receiver.requests) > before
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


PROCESS = """
import sys, time
from studio import GenerationRequest, Settings, Studio
from tests.fakes import load_sine

data_dir, url, secret = sys.argv[1:]
made = Settings(data_dir=data_dir, webhook_secret=secret, webhook_allow_private=True, webhook_retry_delay_seconds=0.02)
with Studio(made, load_sine) as studio:
    studio.submit(GenerationRequest(prompt="sad piano", duration=1.0, webhook_url=url))
    time.sleep(120)
"""


def test_two_studios_on_one_database_deliver_once(tmp_path: Path) -> None:
    with receiving() as receiver:
        with Studio(settings(tmp_path), load_sine) as one, Studio(settings(tmp_path), load_sine):
            jobs = [one.submit(asking(receiver)).job_id for _ in range(12)]
            receiver.wait_for(12)
            for job_id in jobs:
                settled(one, job_id)
        assert len(receiver.requests) == 12


# What is seen of it


def test_deliveries_are_shown_and_counted(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "webhook_secret": SECRET,
        "webhook_allow_private": True,
        "webhook_retry_delay_seconds": 0.02,
    }
    with receiving(500, 200) as receiver, served(tmp_path, **options) as server:
        job_id = server.ask(webhook_url=receiver.url)
        receiver.wait_for(2)
        server.until(lambda: shown(server.http.get(f"{API}/jobs/{job_id}/deliveries").json())["status"] == "delivered")
        body = server.http.get(f"{API}/jobs/{job_id}/deliveries").json()
        assert body["job_id"] == job_id
        assert (shown(body)["event"], shown(body)["attempts"]) == ("job.completed", 2)
        assert shown(body)["created_at"].endswith("Z")
        assert server.http.get(f"{API}/jobs/gen_0000000000000000/deliveries").status_code == 404
        figures = {
            sample.name + sample.labels.get("outcome", ""): sample.value
            for family in text_string_to_metric_families(server.http.get("/metrics").text)
            for sample in family.samples
        }
    assert figures["studio_webhook_attempts_totalpending"] == 1
    assert figures["studio_webhook_attempts_totaldelivered"] == 1
    assert figures["studio_webhooks_waiting"] == 0


def shown(body: dict[str, Any]) -> dict[str, Any]:
    (delivery,) = body["deliveries"]
    assert isinstance(delivery, dict)
    return delivery


def test_the_log_says_what_came_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="studio")
    with receiving(500, 200) as receiver, Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(asking(receiver)).job_id
        receiver.wait_for(2)
        settled(studio, job_id)
        until(lambda: "Webhook delivered" in caplog.text)
    told = [record for record in caplog.records if record.name == "studio.webhooks"]
    assert [record.getMessage() for record in told] == [
        f"Webhook failed, will retry: {job_id}", f"Webhook delivered: {job_id}",
    ]  # fmt: skip
    assert {record.__dict__["job_id"] for record in told} == {job_id}


# The outbox, on both databases


@pytest.fixture
def outbox(database: Database, clock: Clock) -> Outbox:
    return Outbox(database, clock)


def test_what_is_under_way_is_nobody_elses_until_its_lease_runs_out(
    queue: JobQueue, outbox: Outbox, clock: Clock
) -> None:
    ended(queue)
    (claim,) = outbox.claim(10, lease_s=30)
    clock.tick(29)
    assert outbox.claim(10, lease_s=30) == []
    clock.tick(2)
    (again,) = outbox.claim(10, lease_s=30)
    assert (again.delivery_id, again.attempt) == (claim.delivery_id, 2)
    assert not outbox.delivered(claim, 200)  # the first dispatcher was too late
    assert outbox.delivered(again, 200)
    assert not outbox.failed(again, "again", 500, None)
    assert outbox.depth() == 0


def test_what_failed_waits_in_its_row(queue: JobQueue, outbox: Outbox, clock: Clock) -> None:
    job_id = ended(queue)
    (claim,) = outbox.claim(1, lease_s=30)
    assert outbox.failed(claim, "bad \0 words \ud800", 500, retry_in_s=60)
    clock.tick(59)
    assert outbox.claim(1, lease_s=30) == []
    clock.tick(1)
    (row,) = outbox.of_job(job_id)
    assert (row.status, row.response_status, row.error_message) == (DeliveryStatus.PENDING, 500, "bad \ufffd words ?")
    assert len(outbox.claim(1, lease_s=30)) == 1


def test_an_interrupted_job_is_told(queue: JobQueue, outbox: Outbox, clock: Clock) -> None:
    request = GenerationRequest(prompt="sad piano", model="musicgen-mini", seed=7, webhook_url="https://example.org/")
    (job,) = queue.enqueue([request])
    queue.claim("w", 1, lease_s=10)
    clock.tick(11)
    queue.recover(lambda retries: None, lambda worker: True)
    (claim,) = outbox.claim(1, lease_s=30)
    assert (claim.job.job_id, claim.job.status) == (job.job_id, "failed")


def test_many_couriers_share_the_work(queue: JobQueue, outbox: Outbox) -> None:
    for _ in range(20):
        ended(queue)
    taken: list[str] = []

    def carry() -> None:
        while claims := outbox.claim(3, lease_s=30):
            taken.extend(claim.delivery_id for claim in claims)

    threads = [threading.Thread(target=carry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 20


# Parts


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and a dispatcher to be sent."""

    studio: Studio
    outbox: Outbox
    job_id: str

    def deliver(self, resolve: Resolve, **fields: object) -> Delivery:
        """Until nothing waits; the delivery then."""
        made = self.studio.settings.model_copy(update=fields)
        dispatcher = Dispatcher(
            self.outbox, made, lambda job: self.studio.job(job.job_id), Metrics("1", census), resolve
        )
        dispatcher.start()
        until(lambda: self.outbox.depth() == 0)
        dispatcher.stop()
        (row,) = self.outbox.of_job(self.job_id)
        return row


@contextmanager
def ended_job(tmp_path: Path, url: str) -> Iterator[Ended]:
    database = Database(f"sqlite:///{tmp_path / 'studio.db'}")
    database.migrate()
    job_id = ended(JobQueue(database), url)
    yield Ended(Studio(settings(tmp_path), load_sine), Outbox(database), job_id)
    database.close()


def census() -> Census:
    return Census(jobs={}, oldest_pending_age_s=None, paused=False, workers_alive=0, webhooks_waiting=0)


def ended(queue: JobQueue, url: str = "https://example.org/") -> str:
    request = GenerationRequest(prompt="sad piano", model="musicgen-mini", seed=7, webhook_url=url)
    (job,) = queue.enqueue([request])
    queue.cancel(job.job_id)
    return job.job_id
