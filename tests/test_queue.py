"""The queue: every transition, every refusal, and what threads, processes and kill -9 cannot break."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DataError
from sqlmodel import text

from studio.errors import (
    BatchNotFound,
    DatabaseUnavailable,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    LeaseLost,
    RateLimited,
)
from studio.schemas import GenerationRequest, JobStatus, QueueState, Step
from studio.store.answers import IdempotencyKey
from studio.store.db import Database
from studio.store.pace import GUESSED_PACE, share_left
from studio.store.places import pace_of
from studio.store.queue import OVERTAKE_S, STACK_MAX, Claim, JobQueue, Track
from studio.store.tables import PRIORITY_STEP_S, Job, Worker, lane_of
from tests.conftest import Clock

LEASE_S = 30.0


def request(prompt: str = "slow rain on a tin roof", **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, **{"model": "mini", "seed": 7, **fields})


def track(job_id: str = "x", **fields: Any) -> Track:
    values = {"filename": f"{job_id}.wav", "duration": 8.0, "sample_rate": 32000, "channels": 1, "format": "wav"}
    values |= {"file_size_bytes": 512_044, "generation_time_seconds": 2.0, "device": "cpu", "precision": "fp32"}
    return Track(**{**values, **fields})  # type: ignore[arg-type]


def add(queue: JobQueue, count: int = 1, **fields: Any) -> list[str]:
    return [job.job_id for job in queue.enqueue([request(**fields) for _ in range(count)])]


def take(queue: JobQueue, model: str | None = None) -> Claim:
    (claim,) = queue.claim("w", 1, LEASE_S, model)
    return claim


def finish(queue: JobQueue, **fields: Any) -> Job:
    claim = take(queue)
    return queue.complete(claim, track(claim.job_id, **fields))


def worker(worker_id: str = "w", **fields: Any) -> Worker:
    values = {"worker_id": worker_id, "host": "here", "pid": 1, "process_started_at": 0.0}
    return Worker.model_validate({**values, **fields})


def lives(_: Worker) -> bool:
    return True


def is_dead(_: Worker) -> bool:
    return False


def never(_: int) -> None:
    return None


def at_once(_: int) -> float:
    return 0.0


def twice(retries: int) -> float | None:
    return 2.0**retries if retries < 2 else None


# In


def test_an_enqueued_job_waits_with_all_that_was_asked(queue: JobQueue, clock: Clock) -> None:
    asked = request("näive\njazz 🎷", duration=3.5, temperature=0.7, top_k=0, top_p=0.9, cfg_coef=1.5, seed=2**53 - 1)
    (job,) = queue.enqueue([asked])
    stored = queue.get(job.job_id)
    assert stored == job
    assert stored.request == asked
    assert (stored.status, stored.current_step, stored.progress) == (JobStatus.PENDING, Step.QUEUED, 0.0)
    assert (stored.retry_count, stored.batch_id, stored.created_at) == (0, None, clock.time)


def test_job_ids_are_long_and_lower_case_hex(queue: JobQueue) -> None:
    for job_id in add(queue, 5):
        kind, digits = job_id.split("_")
        assert kind == "gen"
        assert len(digits) >= 16
        assert set(digits) <= set("0123456789abcdef")


def test_a_batch_keeps_its_order_and_its_name(queue: JobQueue) -> None:
    jobs = queue.enqueue([request(f"song number {n}") for n in range(10)], batch_id="batch_1")
    assert [job.prompt for job in jobs] == [f"song number {n}" for n in range(10)]
    assert {job.batch_id for job in jobs} == {"batch_1"}
    assert [claim.job_id for claim in queue.claim("w", 10, LEASE_S)] == [job.job_id for job in jobs]


def test_a_batch_is_stored_whole_or_not_at_all(queue: JobQueue) -> None:
    fits_no_column = request().model_copy(update={"seed": 2**70})
    with pytest.raises((OverflowError, DataError)):
        queue.enqueue([request(), fits_no_column])
    assert queue.stats().pending_jobs == 0
    assert queue.version() == 0


def test_a_request_without_model_or_seed_is_a_mistake(queue: JobQueue) -> None:
    with pytest.raises(AssertionError):
        queue.enqueue([request(seed=None)])
    with pytest.raises(AssertionError):
        queue.enqueue([request(model=None)])


# Through


def test_a_job_goes_from_pending_to_completed(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    claim = take(queue)
    assert (claim.job_id, claim.request, claim.retry_count) == (job_id, request(), 0)
    assert queue.get(job_id).status is JobStatus.PROCESSING
    assert queue.get(job_id).started_at == clock.time

    clock.tick(5)
    queue.advance(claim, Step.GENERATING, 0.5)
    assert (queue.get(job_id).current_step, queue.get(job_id).progress) == (Step.GENERATING, 0.5)

    queue.complete(claim, track(job_id))
    job = queue.get(job_id)
    assert (job.status, job.current_step, job.progress) == (JobStatus.COMPLETED, Step.COMPLETED, 1.0)
    assert (job.filename, job.track_duration, job.sample_rate, job.channels) == (f"{job_id}.wav", 8.0, 32000, 1)
    assert (job.file_size_bytes, job.format, job.generation_time_seconds) == (512_044, "wav", 2.0)
    assert (job.device, job.precision, job.completed_at) == ("cpu", "fp32", clock.time)
    assert job.lease_token is None


def test_jobs_go_in_the_order_they_came(queue: JobQueue, clock: Clock) -> None:
    ids = []
    for _ in range(4):
        ids += add(queue)
        clock.tick(1)
    assert [take(queue).job_id for _ in ids] == ids
    assert queue.claim("w", 1, LEASE_S) == []


def test_a_higher_priority_goes_first(queue: JobQueue, clock: Clock) -> None:
    order = [add(queue, priority=priority)[0] for priority in (0, -10, 10, 3)]
    assert [take(queue).job_id for _ in order] == [order[2], order[3], order[0], order[1]]


def test_a_job_that_has_waited_is_overtaken_by_no_priority(queue: JobQueue, clock: Clock) -> None:
    """Each step up is worth `PRIORITY_STEP_S` of waiting: what comes later than that goes behind."""
    (old,) = add(queue, priority=-10)
    clock.tick(20 * PRIORITY_STEP_S - 1)
    (soon,) = add(queue, priority=10)
    clock.tick(2)
    (late,) = add(queue, priority=10)
    assert [take(queue).job_id for _ in range(3)] == [soon, old, late]


def test_a_retry_by_hand_keeps_its_priority(queue: JobQueue, clock: Clock) -> None:
    (first,) = add(queue, priority=2)
    queue.cancel(first)
    add(queue, 2)
    assert queue.retry(first).priority == 2
    assert take(queue).job_id == first


def test_a_job_goes_to_the_front_for_good(queue: JobQueue, clock: Clock) -> None:
    first, second, third = add(queue, 3)
    for job_id in (second, third):
        assert position(queue, queue.to_front(job_id).job_id) == 1
    (urgent,) = add(queue, priority=10)
    assert [take(queue).job_id for _ in range(4)] == [third, second, urgent, first]


def test_a_job_that_waits_for_a_retry_goes_to_the_front_and_starts(queue: JobQueue) -> None:
    first, second = add(queue, 2)
    queue.fail(take(queue), "later", 60.0)
    queue.to_front(first)
    assert [take(queue).job_id for _ in range(2)] == [first, second]


def test_only_a_job_that_waits_goes_to_the_front(queue: JobQueue) -> None:
    (running,) = add(queue)
    take(queue)
    for job_id, status in ((running, "processing"), (ended(queue, "failed"), "failed")):
        with pytest.raises(JobConflict, match=status):
            queue.to_front(job_id)


def position(queue: JobQueue, job_id: str) -> int | None:
    place = queue.places([queue.get(job_id)]).get(job_id)
    return place.position if place else None


def test_a_failed_attempt_waits_and_then_goes_first_again(queue: JobQueue, clock: Clock) -> None:
    first, second, third = add(queue, 3)
    waiting = queue.fail(take(queue), "out of luck", 2.0)
    assert (waiting.status, waiting.current_step, waiting.retry_count) == (JobStatus.PENDING, Step.QUEUED, 1)
    assert (waiting.error_message, waiting.progress, waiting.started_at) == ("out of luck", 0.0, None)
    assert take(queue).job_id == second, "a job that waits for its retry does not hold up the others"
    clock.tick(1.9)
    assert position(queue, first) == 2
    clock.tick(0.1)
    again = take(queue)
    assert (again.job_id, again.retry_count) == (first, 1)
    assert take(queue).job_id == third


def test_a_job_that_waits_for_its_retry_is_not_claimed_early(queue: JobQueue, clock: Clock) -> None:
    add(queue)
    queue.fail(take(queue), "later", 1.0)
    assert queue.claim("w", 5, LEASE_S) == []
    clock.tick(1)
    assert len(queue.claim("w", 5, LEASE_S)) == 1


def test_the_last_failure_ends_the_job(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    queue.fail(take(queue), "first", 0.0)
    queue.fail(take(queue), "second", None)
    job = queue.get(job_id)
    assert (job.status, job.current_step) == (JobStatus.FAILED, Step.FAILED)
    assert (job.error_message, job.retry_count, job.completed_at) == ("second", 1, clock.time)


def test_an_error_may_be_worded_in_any_way(queue: JobQueue) -> None:
    add(queue)
    job = queue.fail(take(queue), "NUL \0, half an emoji \ud83d, " + "long " * 1000, None)
    message = queue.get(job.job_id).error_message
    assert message is not None
    assert message.startswith("NUL \ufffd, half an emoji ?, long")


def test_a_completed_job_forgets_the_errors_before_it(queue: JobQueue, clock: Clock) -> None:
    add(queue)
    queue.fail(take(queue), "once", 0.0)
    job = finish(queue)
    assert (job.error_message, job.retry_count) == (None, 1)


def test_a_released_job_keeps_its_place_and_its_attempts(queue: JobQueue, clock: Clock) -> None:
    first, second = add(queue, 2)
    clock.tick(10)
    claim = take(queue)
    queue.advance(claim, Step.GENERATING, 0.4)
    job = queue.release(claim)
    assert (job.status, job.current_step, job.progress, job.retry_count) == (JobStatus.PENDING, Step.QUEUED, 0.0, 0)
    assert [take(queue).job_id for _ in range(2)] == [first, second]


# Attempts


def test_every_attempt_is_kept_however_it_ended(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    began = clock.time
    claim = take(queue)
    clock.tick(3)
    queue.fail(claim, "out of luck", 1.0, "Traceback: out of luck")
    clock.tick(1)
    take(queue)
    queue.cancel(job_id, force=True)
    queue.retry(job_id)
    finish(queue)
    rows = queue.attempts(job_id)
    assert [(row.series, row.number, row.outcome) for row in rows] == [
        (1, 1, "failed"),
        (1, 2, "cancelled"),
        (2, 1, "completed"),
    ]
    first, *others = rows
    assert (first.started_at, first.ended_at, first.worker_id) == (began, began + timedelta(seconds=3), "w")
    assert (first.error_message, first.stack_trace) == ("out of luck", "Traceback: out of luck")
    assert all((row.error_message, row.stack_trace) == (None, None) for row in others)


def test_an_interrupted_attempt_is_kept_and_one_handed_back_is_none(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    queue.release(take(queue))
    assert queue.attempts(job_id) == []
    take(queue)
    clock.tick(LEASE_S + 1)
    queue.recover(never, lives)
    (attempt,) = queue.attempts(job_id)
    assert (attempt.number, attempt.outcome) == (1, "interrupted")
    assert "worker stopped" in (attempt.error_message or "")


def test_a_worker_that_lost_its_lease_leaves_no_attempt(queue: JobQueue) -> None:
    (job_id,) = add(queue)
    claim = take(queue)
    queue.cancel(job_id, force=True)
    for write in every_write(queue, claim):
        with pytest.raises(LeaseLost):
            write()
    assert [row.outcome for row in queue.attempts(job_id)] == ["cancelled"]


def test_a_stack_trace_is_cut_at_its_beginning(queue: JobQueue) -> None:
    (job_id,) = add(queue)
    queue.fail(take(queue), "deep", None, "frame\0\n" * 100_000 + "RecursionError")
    (attempt,) = queue.attempts(job_id)
    assert attempt.stack_trace is not None
    assert attempt.stack_trace.endswith("RecursionError")
    assert len(attempt.stack_trace) == STACK_MAX


# Fences


def test_an_expired_lease_is_reclaimed_and_the_old_worker_cannot_write(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    old = take(queue)
    clock.tick(LEASE_S + 1)
    assert queue.recover(at_once, lives).interrupted == [job_id]
    new = take(queue)
    assert new.retry_count == 1
    for write in every_write(queue, old):
        with pytest.raises(LeaseLost):
            write()
    assert queue.heartbeat("w", [old.token], LEASE_S) == set()
    assert queue.complete(new, track()).status is JobStatus.COMPLETED


def test_a_job_that_ended_takes_no_more_reports(queue: JobQueue) -> None:
    add(queue)
    claim = take(queue)
    queue.complete(claim, track())
    before = queue.get(claim.job_id)
    for write in every_write(queue, claim):
        with pytest.raises(LeaseLost):
            write()
    assert queue.get(claim.job_id) == before


def every_write(queue: JobQueue, claim: Claim) -> list[Any]:
    return [
        lambda: queue.advance(claim, Step.SAVING, 0.9),
        lambda: queue.complete(claim, track()),
        lambda: queue.fail(claim, "late", None),
        lambda: queue.release(claim),
    ]


def test_a_heartbeat_keeps_the_lease(queue: JobQueue, clock: Clock) -> None:
    add(queue, 2)
    one, two = queue.claim("w", 2, LEASE_S)
    clock.tick(LEASE_S - 1)
    assert queue.heartbeat("w", [one.token], LEASE_S) == {one.token}
    clock.tick(LEASE_S - 1)
    assert queue.recover(never, lives).interrupted == [two.job_id]
    assert queue.heartbeat("w", [one.token, two.token], LEASE_S) == {one.token}
    assert queue.heartbeat("another", [one.token], LEASE_S) == set()
    assert queue.heartbeat("w", [], LEASE_S) == set()


# Out


def test_a_job_that_waits_is_cancelled(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    job = queue.cancel(job_id)
    assert (job.status, job.current_step, job.completed_at) == (JobStatus.CANCELLED, Step.CANCELLED, clock.time)
    assert queue.claim("w", 1, LEASE_S) == []


def test_the_rest_of_a_batch_is_cancelled_in_one_change(queue: JobQueue) -> None:
    jobs = queue.enqueue([request() for _ in range(4)], batch_id="batch_1")
    (other,) = add(queue)
    finish(queue)
    running = take(queue)
    before = queue.version()
    assert [job.job_id for job in queue.cancel_batch("batch_1")] == [jobs[2].job_id, jobs[3].job_id]
    assert queue.version() == before + 1
    with pytest.raises(JobConflict, match="force"):
        queue.cancel_batch("batch_1")
    assert [job.job_id for job in queue.cancel_batch("batch_1", force=True)] == [running.job_id]
    assert [row.outcome for row in queue.attempts(running.job_id)] == ["cancelled"]
    with pytest.raises(JobConflict, match="ended"):
        queue.cancel_batch("batch_1", force=True)
    assert [job.status for job in queue.batch("batch_1")] == ["completed", "cancelled", "cancelled", "cancelled"]
    assert queue.get(other).status is JobStatus.PENDING


def test_an_unknown_batch_is_named(queue: JobQueue) -> None:
    add(queue)
    for call in (queue.batch, queue.cancel_batch):
        with pytest.raises(BatchNotFound, match="batch_none"):
            call("batch_none")


def test_a_job_that_waits_for_a_retry_is_cancelled(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    queue.fail(take(queue), "again", 1.0)
    queue.cancel(job_id)
    clock.tick(2)
    assert queue.claim("w", 1, LEASE_S) == []
    assert queue.get(job_id).status is JobStatus.CANCELLED


def test_a_job_being_made_is_cancelled_only_by_force(queue: JobQueue) -> None:
    (job_id,) = add(queue)
    claim = take(queue)
    with pytest.raises(JobConflict, match="being made"):
        queue.cancel(job_id)
    queue.advance(claim, Step.GENERATING, 0.5)
    assert queue.cancel(job_id, force=True).status is JobStatus.CANCELLED
    for write in every_write(queue, claim):
        with pytest.raises(LeaseLost):
            write()
    assert queue.heartbeat("w", [claim.token], LEASE_S) == set()
    assert queue.get(job_id).filename is None


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_job_that_ended_is_not_cancelled(queue: JobQueue, end: str, force: bool) -> None:
    job_id = ended(queue, end)
    with pytest.raises(JobConflict, match=end):
        queue.cancel(job_id, force)
    assert queue.get(job_id).status == end


def ended(queue: JobQueue, end: str) -> str:
    (job_id,) = add(queue)
    if end == "cancelled":
        queue.cancel(job_id)
    elif end == "failed":
        queue.fail(take(queue), "broken", None)
    else:
        finish(queue)
    return job_id


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_person_retries_a_job_from_the_start(queue: JobQueue, clock: Clock, end: str) -> None:
    job_id = ended(queue, end)
    clock.tick(5)
    (other,) = add(queue)
    clock.tick(5)
    job = queue.retry(job_id)
    assert (job.job_id, job.status, job.current_step) == (job_id, JobStatus.PENDING, Step.QUEUED)
    assert (job.retry_count, job.error_message, job.completed_at) == (0, None, None)
    assert [take(queue).job_id for _ in range(2)] == [other, job_id]


def test_only_a_job_that_failed_or_was_cancelled_is_retried(queue: JobQueue) -> None:
    completed = ended(queue, "completed")
    (processing,) = add(queue)
    take(queue)
    (pending,) = add(queue)
    for job_id in (completed, processing, pending):
        with pytest.raises(JobConflict):
            queue.retry(job_id)


def test_an_unknown_job_is_named(queue: JobQueue) -> None:
    for call in (queue.get, queue.cancel, queue.retry, queue.attempts, queue.to_front):
        with pytest.raises(JobNotFound, match="gen_none"):
            call("gen_none")


@pytest.mark.parametrize("name", ["nul\0", "\0", "half an emoji \ud83d", "x" * 5000, "gen_\u202e", "", "'; --"])
def test_whatever_is_asked_for_is_found_nowhere(queue: JobQueue, name: str) -> None:
    add(queue)
    for call in (queue.get, queue.cancel, queue.retry, queue.attempts, queue.to_front):
        with pytest.raises(JobNotFound):
            call(name)
    for batch_call in (queue.batch, queue.cancel_batch):
        with pytest.raises(BatchNotFound):
            batch_call(name)
    assert not queue.is_track(name)
    assert queue.tracks([name]) == {}
    assert queue.changed([name], -1) == []
    with pytest.raises(InvalidRequest, match=r"after\.0"):
        queue.enqueue([request().model_copy(update={"after": [name]})])


def test_cancel_and_complete_at_once_have_one_winner(database: Database, queue: JobQueue) -> None:
    for _ in range(15):
        add(queue)
        claim = take(queue)
        barrier = threading.Barrier(2)

        def complete(claim: Claim = claim, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return succeeds(lambda: queue.complete(claim, track(claim.job_id)))

        def cancel(claim: Claim = claim, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return succeeds(lambda: queue.cancel(claim.job_id, force=True))

        with ThreadPoolExecutor(2) as pool:
            done, stopped = (future.result() for future in (pool.submit(complete), pool.submit(cancel)))
        job = queue.get(claim.job_id)
        assert done != stopped
        assert job.status is (JobStatus.COMPLETED if done else JobStatus.CANCELLED)
        assert (job.filename is not None) == done


def succeeds(call: Any) -> bool:
    try:
        call()
    except (LeaseLost, JobConflict):
        return False
    return True


# One after another


def test_a_job_starts_when_those_before_it_are_completed(queue: JobQueue) -> None:
    first, second = add(queue, 2)
    (last,) = add(queue, after=[first, second], priority=10)
    assert queue.get(last).after == [first, second]
    claims = queue.claim("w", 5, LEASE_S)
    assert [claim.job_id for claim in claims] == [first, second]
    for claim in claims:
        assert queue.claim("w", 5, LEASE_S) == []
        queue.complete(claim, track(claim.job_id))
    assert take(queue).job_id == last


def test_a_job_after_one_that_runs_is_claimed_only_when_that_is_done(queue: JobQueue) -> None:
    (first,) = add(queue)
    claim = take(queue)
    (second,) = add(queue, after=[first, first])
    assert queue.claim("w", 5, LEASE_S) == []
    queue.fail(claim, "again", 0.0)
    assert [again.job_id for again in queue.claim("w", 5, LEASE_S)] == [first]
    assert queue.get(second).status is JobStatus.PENDING


def test_a_chain_goes_link_by_link(queue: JobQueue) -> None:
    jobs = queue.enqueue([request(), request(after=["#1"]), request(after=["#2"])], batch_id="batch_1")
    assert [job.after for job in jobs] == [[], [jobs[0].job_id], [jobs[1].job_id]]
    for job in jobs:
        (claim,) = queue.claim("w", 5, LEASE_S)
        assert claim.job_id == job.job_id
        queue.complete(claim, track(claim.job_id))


@pytest.mark.parametrize("end", ["failed", "cancelled", "stopped", "interrupted"])
def test_jobs_after_one_that_fails_fail_with_a_reason_down_the_chain(queue: JobQueue, clock: Clock, end: str) -> None:
    (first,) = add(queue)
    (second,) = add(queue, after=[first])
    (third,) = add(queue, after=[second])
    (free,) = add(queue)
    before = queue.version()
    end_badly(queue, clock, first, end)
    words = "was cancelled" if end in ("cancelled", "stopped") else "has failed"
    for job_id, reason in ((second, f"{first}, which had to be completed before this one, {words}"), (third, second)):
        job = queue.get(job_id)
        assert (job.status, job.current_step, job.completed_at) == (JobStatus.FAILED, Step.FAILED, clock.time)
        assert reason in (job.error_message or "")
        assert (job.retry_count, job.waits_for, queue.attempts(job_id)) == (0, 0, [])
    assert {job.job_id for job in queue.changed([second, third], before)} == {second, third}
    assert queue.get(free).status is JobStatus.PENDING


def end_badly(queue: JobQueue, clock: Clock, job_id: str, end: str) -> None:
    if end == "cancelled":
        queue.cancel(job_id)
        return
    claim = take(queue)
    assert claim.job_id == job_id
    if end == "failed":
        queue.fail(claim, "broken", None)
    elif end == "stopped":
        queue.cancel(job_id, force=True)
    else:
        clock.tick(LEASE_S + 1)
        queue.recover(never, lives)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_job_after_one_that_has_failed_already_has_failed(queue: JobQueue, end: str) -> None:
    bad = ended(queue, end)
    good = ended(queue, "completed")
    one, other, next_ = queue.enqueue(
        [request(after=[good]), request(after=[good, bad]), request(after=["#2"])], batch_id="batch_1"
    )
    assert (one.status, one.waits_for) == (JobStatus.PENDING, 0)
    assert (other.status, next_.status) == (JobStatus.FAILED, JobStatus.FAILED)
    assert bad in (other.error_message or "")
    assert other.job_id in (next_.error_message or "")
    assert [claim.job_id for claim in queue.claim("w", 5, LEASE_S)] == [one.job_id]


@pytest.mark.parametrize(
    ("name", "what"), [("gen_none", "no job"), ("#2", "no earlier"), ("#0", "no job"), ("#9", "no")]
)
def test_what_a_job_comes_after_must_be_there(queue: JobQueue, name: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^requests\.1\.after\.1: There is {what}"):
        queue.enqueue([request(), request(after=["#1", name])], batch_id="batch_1")
    assert queue.stats().pending_jobs == 0


def test_a_cancelled_batch_of_a_chain_is_cancelled_throughout(queue: JobQueue) -> None:
    jobs = queue.enqueue([request(), request(after=["#1"]), request(after=["#2"])], batch_id="batch_1")
    (outside,) = add(queue, after=[jobs[2].job_id])
    queue.cancel_batch("batch_1")
    assert {job.status for job in queue.batch("batch_1")} == {JobStatus.CANCELLED}
    assert queue.get(outside).status is JobStatus.FAILED


def test_a_chain_is_retried_by_hand_from_its_beginning(queue: JobQueue) -> None:
    (first,) = add(queue)
    (second,) = add(queue, after=[first])
    queue.fail(take(queue), "broken", None)
    with pytest.raises(JobConflict, match=rf"{first}.*Retry that one first"):
        queue.retry(second)
    queue.retry(first)
    assert queue.get(second).status is JobStatus.FAILED, "a person retries it"
    assert queue.retry(second).error_message is None
    assert [claim.job_id for claim in queue.claim("w", 5, LEASE_S)] == [first]
    queue.complete(Claim(first, queue.get(first).lease_token or "", request(), 0), track(first))
    assert take(queue).job_id == second


def test_a_job_to_the_front_still_waits_for_those_before_it(queue: JobQueue) -> None:
    (first,) = add(queue)
    (second,) = add(queue, after=[first])
    add(queue)
    queue.to_front(second)
    claim = take(queue)
    assert claim.job_id == first
    queue.complete(claim, track(first))
    assert take(queue).job_id == second


def test_a_job_that_loses_a_wait_by_cancel_is_not_started_by_it(queue: JobQueue) -> None:
    (first,) = add(queue)
    (second,) = add(queue, after=[first])
    queue.cancel(second)
    finish(queue)
    assert queue.get(second).status is JobStatus.CANCELLED
    assert queue.claim("w", 5, LEASE_S) == []


def test_completing_and_enqueueing_after_it_at_once_strands_nobody(database: Database, queue: JobQueue) -> None:
    for _ in range(10):
        (first,) = add(queue)
        claim = take(queue)
        with ThreadPoolExecutor(2) as pool:
            done = pool.submit(queue.complete, claim, track(first))
            later = pool.submit(add, queue, 1, after=[first])
            done.result()
            (second,) = later.result()
        assert take(queue).job_id == second


# Pause


def test_nothing_is_claimed_while_the_queue_is_paused(queue: JobQueue, clock: Clock) -> None:
    add(queue, 2)
    running = take(queue)
    assert queue.state() == QueueState(paused=False)
    since = clock.time
    assert queue.pause() == queue.state() == QueueState(paused=True, paused_at=since)
    clock.tick(5)
    assert queue.pause().paused_at == since, "it has been paused since then"
    assert queue.claim("w", 5, LEASE_S) == []
    queue.complete(running, track(running.job_id))
    assert queue.resume() == queue.state() == QueueState(paused=False)
    assert len(queue.claim("w", 5, LEASE_S)) == 1


def test_a_pause_outlives_the_process_and_is_seen_by_watchers(database_url: str, queue: JobQueue) -> None:
    add(queue)
    before = queue.version()
    queue.pause()
    assert queue.version() > before
    later = Database(database_url)
    assert JobQueue(later).state().paused
    assert JobQueue(later).claim("w", 1, LEASE_S) == []
    later.close()


# Sent twice


def once(key: str = "k", fingerprint: str = "f", client: str = "c") -> IdempotencyKey:
    return IdempotencyKey(client, key, fingerprint)


class Till:
    """Counts what is charged, and answers with the jobs' ids."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.charged = 0

    def charge(self, _: int) -> None:
        self.charged += 1

    def put(self, key: IdempotencyKey, count: int = 1) -> tuple[list[Job], str]:
        requests = [request() for _ in range(count)]
        return self._queue.enqueue_once(
            lambda: requests, None, key, self.charge, lambda jobs, _: " ".join(job.job_id for job in jobs)
        )


def test_a_request_sent_twice_is_stored_once_and_answered_alike(queue: JobQueue, clock: Clock) -> None:
    till = Till(queue)
    jobs, answer = till.put(once(), 2)
    clock.tick(24 * 3600 - 1)
    assert till.put(once(), 2) == ([], answer)
    assert answer.split() == [job.job_id for job in jobs]
    assert (queue.stats().pending_jobs, till.charged) == (2, 1)
    assert till.put(once("another"))[0] and till.put(once(client="another"))[0]


def test_a_key_with_another_request_is_refused(queue: JobQueue) -> None:
    till = Till(queue)
    till.put(once())
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        till.put(once(fingerprint="other"))
    assert (queue.stats().pending_jobs, till.charged) == (1, 1)


def test_a_key_is_forgotten_after_a_day(queue: JobQueue, database: Database, clock: Clock) -> None:
    till = Till(queue)
    till.put(once())
    till.put(once("old"))
    clock.tick(24 * 3600)
    assert till.put(once(fingerprint="other"))[0]
    with database.read() as session:
        assert session.connection().execute(text("SELECT key FROM answers")).all() == [("k",)]


def test_a_refused_charge_leaves_no_job_and_no_key(queue: JobQueue) -> None:
    def refuse(_: int) -> None:
        raise RateLimited(5)

    before = queue.version()
    with pytest.raises(RateLimited):
        queue.enqueue_once(lambda: [request()], None, once(), refuse, lambda *_: "")
    assert (queue.stats().pending_jobs, queue.version()) == (0, before)
    assert Till(queue).put(once())[0]


def test_ten_at_once_with_one_key_store_one(database: Database) -> None:
    queue = JobQueue(database)
    till = Till(queue)
    for number in range(5):
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _, n=number: till.put(once(f"key {n}")), range(10)))
        assert len({answer for _, answer in answers}) == 1
        assert sum(len(jobs) for jobs, _ in answers) == 1
    assert (queue.stats().pending_jobs, till.charged) == (5, 5)


# After a crash


def test_a_dead_workers_jobs_fail_and_say_so(queue: JobQueue, clock: Clock) -> None:
    made, waits = add(queue, 2)
    queue.beat(worker())
    take(queue)
    found = queue.recover(never, is_dead)
    assert (found.interrupted, found.pending) == ([made], 1)
    job = queue.get(made)
    assert (job.status, job.retry_count, job.completed_at) == (JobStatus.FAILED, 0, clock.time)
    assert "worker stopped" in (job.error_message or "")
    assert queue.get(waits).status is JobStatus.PENDING
    assert queue.workers() == []
    assert queue.retry(made).status is JobStatus.PENDING


def test_a_dead_workers_jobs_are_retried_where_that_is_the_policy(queue: JobQueue, clock: Clock) -> None:
    (job_id,) = add(queue)
    queue.beat(worker())
    for attempt in range(2):
        take(queue)
        queue.beat(worker())
        assert queue.recover(twice, is_dead).interrupted == [job_id]
        job = queue.get(job_id)
        assert (job.status, job.retry_count) == (JobStatus.PENDING, attempt + 1)
        assert job.not_before == clock.time + timedelta(seconds=2**attempt)
        clock.tick(2**attempt)
    take(queue)
    queue.beat(worker())
    assert queue.recover(twice, is_dead).interrupted == [job_id]
    assert (queue.get(job_id).status, queue.get(job_id).retry_count) == (JobStatus.FAILED, 2)


def test_living_workers_jobs_are_left_alone(queue: JobQueue) -> None:
    (job_id,) = add(queue)
    queue.beat(worker())
    claim = take(queue)
    assert queue.recover(never, lives).interrupted == []
    queue.advance(claim, Step.GENERATING, 0.1)
    assert queue.get(job_id).status is JobStatus.PROCESSING


def test_workers_are_known_by_their_beats(queue: JobQueue, clock: Clock) -> None:
    queue.beat(worker("a", device="cpu"))
    clock.tick(5)
    queue.beat(worker("b"))
    clock.tick(5)
    queue.beat(worker("a", device="cpu", model="mini"))
    first, second = queue.workers()
    assert (first.worker_id, first.model, first.beat_at) == ("a", "mini", clock.time)
    assert second.worker_id == "b"
    queue.forget_worker("b")
    assert [row.worker_id for row in queue.workers()] == ["a"]
    clock.tick(2 * 24 * 3600)
    queue.recover(never, lives)
    assert queue.workers() == [], "silent for days"


# Models


def test_one_call_claims_jobs_of_one_model(queue: JobQueue) -> None:
    for model in ("a", "b", "a", "b"):
        add(queue, model=model)
    assert [claim.request.model for claim in queue.claim("w", 4, LEASE_S)] == ["a", "a"]
    assert [claim.request.model for claim in queue.claim("w", 4, LEASE_S, "a")] == ["b", "b"]


def test_the_loaded_model_goes_first_but_not_for_ever(queue: JobQueue, clock: Clock) -> None:
    (head,) = add(queue, model="b")
    soon = []
    for _ in range(3):
        clock.tick(OVERTAKE_S / 3)
        soon += add(queue, model="a")
    clock.tick(1)
    (late,) = add(queue, model="a")
    clock.tick(1000)  # a deep queue: every job has waited long
    order = [take(queue, "a").job_id for _ in range(5)]
    assert order == [*soon, head, late]


def test_the_loaded_model_does_not_go_before_a_better_priority(queue: JobQueue) -> None:
    add(queue, model="a")
    (urgent,) = add(queue, model="b", priority=1)
    assert take(queue, "a").job_id == urgent


# Counts


def test_positions_are_exact(queue: JobQueue, clock: Clock) -> None:
    ids = add(queue, 5)
    queue.fail(take(queue), "later", 9.0)
    queue.cancel(ids[2])
    claim = take(queue)
    places = {job_id: position(queue, job_id) for job_id in ids}
    assert places == {ids[0]: 3, ids[1]: None, ids[2]: None, ids[3]: 1, ids[4]: 2}
    assert claim.job_id == ids[1]


def test_every_place_is_that_of_the_job_in_the_sorted_queue(queue: JobQueue, database: Database, clock: Clock) -> None:
    """Against the plain way: sort all that wait. Ages from a fraction of a second to a year, all lanes, two models."""
    for model, seconds in (("a", 4.0), ("b", 20.0)):
        add(queue, model=model)
        finish(queue, generation_time_seconds=seconds)
    draw = random.Random(7)
    for _ in range(60):
        clock.tick(draw.choice([0.0, 0.4, 1.0, 50.0, 4000.0, 300_000.0, 1e6]))
        model, priority = draw.choice("ab"), draw.choice([0, 0, 0, -10, 10])
        add(queue, draw.choice([1, 1, 3]), model=model, priority=priority, duration=draw.choice([4.0, 8.5]))
    waiting, _ = queue.list(JobStatus.PENDING, 1, 1000)
    for job in draw.sample(waiting, 8):
        add(queue, after=[job.job_id])
    for seconds in (9.0, 5.0, 7.0):
        queue.fail(take(queue), "later", seconds)
    for job in draw.sample(waiting, 5):
        queue.to_front(job.job_id)
    running = take(queue)
    queue.advance(running, Step.GENERATING, 0.25)
    assert_places_are_exact(queue, database)
    for job in queue.list(JobStatus.PENDING, 1, 1000)[0][::2]:
        if queue.get(job.job_id).status is JobStatus.PENDING:
            queue.cancel(job.job_id)
    assert_places_are_exact(queue, database)


def assert_places_are_exact(queue: JobQueue, database: Database) -> None:
    jobs, _ = queue.list(JobStatus.PENDING, 1, 1000)
    running, _ = queue.list(JobStatus.PROCESSING, 1, 1000)
    places = queue.places(jobs + running)
    assert set(places) == {job.job_id for job in jobs + running}
    assert queue.stats().pending_jobs == len(jobs) > 20
    work_s = sum(alone_s(database, job) * share_left(job.progress) for job in running)
    for number, job in enumerate(sorted(jobs, key=lambda job: (lane_of(job), job.place, job.id)), start=1):
        place = places[job.job_id]
        assert (place.position, place.seconds_ahead) == (number, pytest.approx(work_s, rel=1e-3))
        own_s = alone_s(database, job)
        assert place.seconds_left == pytest.approx(work_s + own_s, rel=1e-3)
        work_s += own_s


def alone_s(database: Database, job: Job) -> float:
    with database.read() as session:
        return (pace_of(session, job.model) or GUESSED_PACE).seconds(job.duration)


def test_an_emptied_queue_leaves_no_counts(queue: JobQueue, database: Database) -> None:
    add(queue, 3)
    queue.release(take(queue))
    queue.fail(take(queue), "later", 5.0)
    finish(queue)
    for job in queue.list(JobStatus.PENDING, 1, 10)[0]:
        queue.cancel(job.job_id)
    with database.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM depths")).scalar_one() == 0


def test_living_workers_share_the_work_ahead(queue: JobQueue, clock: Clock) -> None:
    for together, seconds in ((1.0, 4.0), (2.0, 5.0), (3.0, 6.0), (2.0, 5.0)):  # each neighbour costs a quarter more
        add(queue)
        finish(queue, duration=8.0, generation_time_seconds=seconds, together=together)
    queue.beat(worker("alive", slots=3, model="mini"))
    queue.beat(worker("alive too", model="mini"))
    jobs = [queue.get(job_id) for job_id in add(queue, 6, duration=12.0)]
    places = queue.places(jobs)
    starts = [places[job.job_id].seconds_ahead for job in jobs]
    assert starts == pytest.approx([0, 0, 0, 0, 7.5, 7.5], abs=0.1)  # two at once for each worker: 6 s, and a quarter
    assert places[jobs[5].job_id].seconds_left == pytest.approx(7.5 + 6.0, abs=0.1)  # one for each
    clock.tick(31)
    queue.beat(worker("alive too", model="mini"))
    assert queue.places(jobs)[jobs[2].job_id].seconds_ahead == pytest.approx(12, abs=0.1), "one has gone silent"


def test_what_is_being_made_says_when_it_has_finished(queue: JobQueue, clock: Clock) -> None:
    add(queue)
    finish(queue, duration=8.0, generation_time_seconds=4.0)
    add(queue, duration=16.0)
    claim = take(queue)
    queue.advance(claim, Step.GENERATING, 0.5)
    place = queue.places([queue.get(claim.job_id)])[claim.job_id]
    assert (place.position, place.seconds_left) == (None, pytest.approx(4.0, rel=0.02))


def test_on_a_busy_machine_everything_takes_longer(queue: JobQueue, clock: Clock) -> None:
    add(queue)
    finish(queue, duration=8.0, generation_time_seconds=4.0)
    ids = add(queue, 2, duration=16.0)  # 8 s each, on an idle machine
    claim = take(queue)
    queue.advance(claim, Step.ENCODING_PROMPT, 0.05)
    clock.tick(12)
    queue.advance(claim, Step.GENERATING, 0.5)
    places = queue.places([queue.get(job_id) for job_id in ids])
    assert places[ids[0]].seconds_left == pytest.approx(12.0, rel=0.25)  # as long again as so far
    assert places[ids[1]].seconds_left > 20.0


def test_the_first_job_of_a_model_tells_by_itself(queue: JobQueue, clock: Clock) -> None:
    add(queue, duration=10.0)
    claim = take(queue)
    clock.tick(1000)  # to load the model
    queue.advance(claim, Step.ENCODING_PROMPT, 0.05)
    clock.tick(60)
    queue.advance(claim, Step.GENERATING, 0.05 + 0.9 / 4)
    assert queue.places([queue.get(claim.job_id)])[claim.job_id].seconds_left == pytest.approx(180, rel=0.2)


def test_the_first_steps_of_a_model_tell_little(queue: JobQueue, clock: Clock) -> None:
    add(queue, duration=8.0)
    claim = take(queue)
    queue.advance(claim, Step.ENCODING_PROMPT, 0.05)
    clock.tick(1.2)  # the first step makes room for all
    queue.advance(claim, Step.GENERATING, 0.05 + 0.9 / 400)
    assert queue.places([queue.get(claim.job_id)])[claim.job_id].seconds_left < 16.0


def test_a_model_that_is_not_loaded_takes_its_time_first(queue: JobQueue, clock: Clock) -> None:
    for loaded_s in (300.0, 8.0, 7.0):  # the first was a download
        add(queue)
        claim = take(queue)
        queue.advance(claim, Step.LOADING_MODEL, 0.05, loaded_s=loaded_s)
        queue.complete(claim, track(claim.job_id, duration=8.0, generation_time_seconds=4.0))
    (job_id,) = add(queue, duration=16.0)

    def left() -> float:
        return queue.places([queue.get(job_id)])[job_id].seconds_left

    assert left() == pytest.approx(8.0, rel=0.02), "nobody is there to load anything"
    queue.beat(worker(model="other"))
    assert left() == pytest.approx(7.0 + 8.0, rel=0.02)
    assert queue.forecast([("mini", 16.0)]) == pytest.approx(7.0 + 2 * 8.0, rel=0.02), "it is loaded once"
    claim = take(queue)
    clock.tick(3)
    assert left() == pytest.approx(4.0 + 8.0, rel=0.02)
    clock.tick(7)
    queue.advance(claim, Step.LOADING_MODEL, 0.04)
    assert left() == pytest.approx(2.5 + 8.0, rel=0.02), "it takes longer, and tells how far it is"
    queue.beat(worker(model="mini"))
    queue.advance(claim, Step.ENCODING_PROMPT, 0.05)
    assert left() == pytest.approx(8.0, rel=0.02)


def test_a_model_that_was_never_loaded_takes_some_time_too(queue: JobQueue) -> None:
    without = queue.forecast([("mini", 8.0)])
    queue.beat(worker())
    assert queue.forecast([("mini", 8.0)]) > without


def test_a_job_that_comes_after_others_is_made_after_them(queue: JobQueue, clock: Clock) -> None:
    add(queue)
    finish(queue, duration=8.0, generation_time_seconds=4.0)
    queue.beat(worker(slots=4, model="mini"))
    first, beside = add(queue, 2, duration=16.0)
    (second,) = add(queue, duration=8.0, after=[first])
    (third,) = add(queue, duration=8.0, after=[second, beside])
    places = queue.places([queue.get(job_id) for job_id in (first, beside, second, third)])
    ends = [places[job_id].seconds_left for job_id in (first, beside, second, third)]
    assert ends[0] == ends[1] > 8.0
    assert places[second].seconds_ahead == pytest.approx(ends[0])
    assert places[third].seconds_ahead == pytest.approx(ends[2])


def test_stats_are_exact(queue: JobQueue, clock: Clock) -> None:
    empty = queue.stats()
    assert empty.pending_jobs == empty.processing_jobs == empty.completed_jobs == empty.failed_jobs == 0
    assert (empty.oldest_pending_job_age_seconds, empty.average_processing_time_seconds) == (None, None)

    ended(queue, "failed")
    ended(queue, "cancelled")
    for seconds in (2.0, 4.0):
        add(queue)
        finish(queue, generation_time_seconds=seconds)
    add(queue)
    take(queue)
    add(queue)
    clock.tick(3)
    add(queue)
    clock.tick(4)
    stats = queue.stats()
    assert (stats.pending_jobs, stats.processing_jobs, stats.completed_jobs, stats.failed_jobs) == (2, 1, 2, 1)
    assert stats.oldest_pending_job_age_seconds == pytest.approx(7)
    assert stats.average_processing_time_seconds == pytest.approx(3)


def test_a_page_is_newest_first_with_the_total(queue: JobQueue) -> None:
    ids = add(queue, 5)
    queue.cancel(ids[1])
    page, total = queue.list(None, 1, 2)
    assert ([job.job_id for job in page], total) == ([ids[4], ids[3]], 5)
    assert [job.job_id for job in queue.list(None, 3, 2)[0]] == [ids[0]]
    assert queue.list(None, 4, 2) == ([], 5)
    page, total = queue.list(JobStatus.CANCELLED, 1, 10)
    assert ([job.job_id for job in page], total) == ([ids[1]], 1)


def test_jobs_are_searched_by_words_and_by_id(queue: JobQueue) -> None:
    (rain,) = add(queue, prompt="Slow RAIN on a tin roof, 100% analog")
    (under,) = add(queue, prompt="under_score and back\\slash")
    (both,) = add(queue, prompt="rain and thunder")

    def found(search: str, status: JobStatus | None = None) -> list[str]:
        jobs, total = queue.list(status, 1, 10, search)
        assert total == len(jobs)
        return [job.job_id for job in jobs]

    assert found("rain") == found("RAIN") == [both, rain]
    assert found("0% a") == [rain]
    assert found("%") == [rain]
    assert found("_score") == [under]
    assert found("r_score") == [under]
    assert found("\\") == [under]
    assert found("/") == []
    assert found(both[4:].upper()) == [both]
    assert found("rain", JobStatus.COMPLETED) == []
    assert queue.list(None, 2, 1, "rain")[0][0].job_id == rain


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_searching_knows_letters_beyond_ascii(queue: JobQueue) -> None:
    """PostgreSQL does as far as the database's locale does."""
    add(queue, prompt="Übermütige Ländler")
    assert queue.list(None, 1, 10, "ÜBERMÜTIGE LÄND")[1] == 1


def test_files_are_known_by_their_jobs(queue: JobQueue) -> None:
    done, running, waiting = add(queue, 3)
    assert finish(queue).filename == f"{done}.wav"
    take(queue)
    failed = ended(queue, "cancelled")
    assert queue.is_track(f"{done}.wav")
    assert not any(map(queue.is_track, (f"{running}.wav", "../etc/passwd", "")))
    asked = [*(f"gen_{number}" for number in range(1200)), done, running, waiting, failed]
    assert queue.tracks(asked) == {done: f"{done}.wav", failed: None}
    assert queue.tracks([]) == {}


# Time


def test_before_the_first_job_a_time_is_guessed(queue: JobQueue) -> None:
    assert queue.forecast([("mini", 8.0)]) > 0


def test_the_pace_is_learned_from_finished_jobs_and_shrugs_off_a_slow_one(queue: JobQueue) -> None:
    for duration in (2.0, 4.0, 8.0, 16.0, 30.0):
        add(queue)
        finish(queue, duration=duration, generation_time_seconds=1.5 + 0.25 * duration)
    add(queue)
    finish(queue, duration=8.0, generation_time_seconds=600.0)
    short, long = (queue.forecast([("mini", duration)]) for duration in (8.0, 20.0))
    assert long - short == pytest.approx(3.0, rel=0.2)
    assert long == pytest.approx(6.5, rel=0.1)
    assert queue.forecast([("large", 20.0)]) == 20.0, "another model says nothing"


def test_jobs_of_one_length_teach_a_pace_too(queue: JobQueue) -> None:
    for seconds in (3.0, 4.0, 5.0):
        add(queue)
        finish(queue, generation_time_seconds=seconds)
    assert queue.forecast([("mini", 16.0)]) == pytest.approx(8.0, rel=0.02)


def test_the_pace_is_that_of_the_devices_at_work(queue: JobQueue) -> None:
    for device, seconds in (("cpu", 40.0), ("cuda:0", 1.0), ("cpu", 40.0)):
        add(queue)
        finish(queue, duration=8.0, generation_time_seconds=seconds, device=device)
    for device, seconds in (("cuda:0", 1.0), ("cpu", 40.0)):
        queue.beat(worker(device=device, model="mini"))
        assert queue.forecast([("mini", 8.0)]) == pytest.approx(seconds, rel=0.2)
    queue.beat(worker(device="mps", model="mini"))
    assert queue.forecast([("mini", 8.0)]) != GUESSED_PACE.seconds(8.0), "other devices' jobs tell more than none"


# Changes


def changed_since(queue: JobQueue, version: int) -> list[Job]:
    """The jobs that changed after `version`, the first change first."""
    jobs, _ = queue.list(None, 1, 1000)
    return sorted((job for job in jobs if job.version > version), key=lambda job: (job.version, job.id))


def test_a_watcher_sees_every_change_and_nothing_twice(queue: JobQueue, clock: Clock) -> None:
    ids = add(queue, 3)
    version = queue.version()
    assert [job.job_id for job in changed_since(queue, 0)] == ids
    assert changed_since(queue, version) == queue.changed(ids, version) == []

    claim = take(queue)
    for change in (
        lambda: queue.advance(claim, Step.GENERATING, 0.1),
        lambda: queue.release(claim),
        lambda: queue.cancel(ids[0]),
        lambda: queue.retry(ids[0]),
    ):
        before = queue.version()
        change()
        assert queue.version() > before
        assert [job.job_id for job in changed_since(queue, before)] == [ids[0]]
        assert [job.job_id for job in queue.changed(ids, before)] == [ids[0]]


def test_a_heartbeat_is_no_change(queue: JobQueue) -> None:
    add(queue)
    claim = take(queue)
    before = queue.version()
    queue.heartbeat("w", [claim.token], LEASE_S)
    queue.beat(worker())
    assert queue.version() == before


def test_a_watcher_misses_nothing_while_others_write(database: Database) -> None:
    """Numbers become visible in their order: the trap is one that commits after a later one."""
    queue = JobQueue(database)
    seen: set[str] = set()
    written = threading.Event()

    def watch() -> None:
        version = 0
        while True:
            last = written.is_set()
            for job in changed_since(queue, version):
                seen.add(job.job_id)
                version = job.version
            if last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as pool:
        ids = [job_id for batch in pool.map(lambda _: add(queue, 2), range(60)) for job_id in batch]
    written.set()
    watcher.join()
    assert seen == set(ids)


# Threads and processes


def test_eight_threads_claim_each_job_exactly_once(database: Database) -> None:
    queue = JobQueue(database)
    ids = {job_id for _ in range(20) for job_id in add(queue, 10)}

    def work(name: int) -> list[str]:
        mine: list[str] = []
        while claims := queue.claim(f"w{name}", 3, LEASE_S):
            mine += [claim.job_id for claim in claims]
        return mine

    with ThreadPoolExecutor(8) as pool:
        claimed = [job_id for mine in pool.map(work, range(8)) for job_id in mine]
    assert Counter(claimed) == dict.fromkeys(ids, 1)


PREAMBLE = """
import sys, time
from studio.schemas import GenerationRequest
from studio.store.db import Database
from studio.store.queue import JobQueue
database = Database(sys.argv[1])
queue = JobQueue(database)
request = GenerationRequest(prompt="made elsewhere", model="mini", seed=1)
"""


def start(script: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PREAMBLE + script, url], stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def kill(process: subprocess.Popen[str]) -> list[str]:
    """Kill -9; returns what it had still said."""
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0].split()


def test_two_processes_share_one_queue(database: Database, database_url: str) -> None:
    queue = JobQueue(database)
    ids = {job_id for _ in range(2) for job_id in add(queue, 10)}
    script = """
print("ready", flush=True)
while claims := queue.claim(sys.argv[0], 2, 30.0):
    for claim in claims:
        print(claim.job_id, flush=True)
        queue.release(claim) if claim.retry_count else queue.fail(claim, "no", None)
"""
    children = [start(script, database_url) for _ in range(2)]
    claimed = [line for child in children for line in child.communicate(timeout=110)[0].split() if line != "ready"]
    assert Counter(claimed) == dict.fromkeys(ids, 1)
    assert queue.stats().failed_jobs == len(ids)


def test_a_process_killed_in_mid_claim_has_claimed_nothing(database: Database, database_url: str) -> None:
    queue = JobQueue(database)
    add(queue)
    script = """
from sqlmodel import text
with database.write() as session:
    session.connection().execute(text("UPDATE ledger SET version = version + 1"))
    session.connection().execute(text("UPDATE generations SET status = 'processing', lease_token = 'ghost'"))
    print("half way", flush=True)
    time.sleep(60)
"""
    child = start(script, database_url)
    assert lines(child, 1) == ["half way"]
    kill(child)
    assert take(queue).retry_count == 0


def test_a_process_killed_while_it_works_leaves_a_job_that_is_found(database: Database, database_url: str) -> None:
    queue = JobQueue(database)
    (job_id,) = add(queue)
    child = start("print(queue.claim('w', 1, 0.2)[0].job_id, flush=True); time.sleep(60)", database_url)
    assert lines(child, 1) == [job_id]
    kill(child)
    assert queue.get(job_id).status is JobStatus.PROCESSING
    time.sleep(0.25)
    assert queue.recover(never, lives).interrupted == [job_id]
    assert queue.get(job_id).status is JobStatus.FAILED


def test_an_acknowledged_job_survives_kill_9(database: Database, database_url: str) -> None:
    queue = JobQueue(database)
    child = start("while True: print(queue.enqueue([request])[0].job_id, flush=True)", database_url)
    acknowledged = lines(child, 20)
    acknowledged += [line for line in kill(child) if len(line) == len(acknowledged[0])]
    assert all(queue.get(job_id).status is JobStatus.PENDING for job_id in acknowledged)
    assert queue.stats().pending_jobs - len(acknowledged) in (0, 1)


def test_a_chain_survives_kill_9(database: Database, database_url: str) -> None:
    queue = JobQueue(database)
    script = """
def chain():
    jobs = queue.enqueue([request, request.model_copy(update={"after": ["#1"]})], "batch")
    print(*(job.job_id for job in jobs), flush=True)
chain()
claim, = queue.claim("w", 5, 30.0)
from studio.store.queue import Track
queue.complete(claim, Track("x.wav", 8.0, 32000, 1, 44, "wav", 1.0, "cpu", "fp32"))
chain()
time.sleep(60)
"""
    child = start(script, database_url)
    _, released, first, second = " ".join(lines(child, 2)).split()
    kill(child)
    claims = queue.claim("w", 5, LEASE_S)
    assert [claim.job_id for claim in claims] == [released, first]
    queue.complete(claims[1], track(first))
    assert take(queue).job_id == second


def test_a_row_that_makes_no_request_any_more_fails_alone(queue: JobQueue, database: Database) -> None:
    edited, other = add(queue, 2)
    with database.write() as session:
        session.connection().execute(text("UPDATE generations SET temperature = 99 WHERE job_id = :id"), {"id": edited})
    assert [claim.job_id for claim in queue.claim("w", 5, LEASE_S)] == [other]
    job = queue.get(edited)
    assert job.status is JobStatus.FAILED
    assert "temperature" in str(job.error_message)


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_lost_connection_is_an_error_once(database: Database) -> None:
    queue = JobQueue(database)
    add(queue)
    with pytest.raises(DatabaseUnavailable):
        hang_up(database)
    assert queue.stats().pending_jobs == 1


def hang_up(database: Database) -> None:
    with database.write() as session:
        session.connection().execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
