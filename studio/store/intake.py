"""What goes in: requests become jobs that may start, or that wait for other jobs first. Within the caller's
transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from studio.errors import InvalidRequest, JobConflict
from studio.schemas import GenerationRequest, JobStatus
from studio.store.ends import dependency_failed, ended
from studio.store.outbox import announce
from studio.store.tables import Job, Wait, new_job_id, place_at


def insert_jobs(
    session: Session, version: int, requests: Sequence[GenerationRequest], batch_id: str | None, now: datetime
) -> list[Job]:
    """Store all requests or none. Their model and seed are set.

    Raises:
        InvalidRequest: `after` names a job that there is not.
    """
    assert all(request.model is not None and request.seed is not None for request in requests)
    ids = [new_job_id() for _ in requests]
    stands = _statuses(session, {name for request in requests for name in request.after})
    common = {"batch_id": batch_id, "created_at": now, "queued_at": now, "version": version}
    jobs: list[Job] = []
    for number, request in enumerate(requests):
        field = f"requests.{number}.after" if batch_id else "after"
        after = _meant(request.after, ids[:number], stands, field)
        values = {"job_id": ids[number], "place": place_at(now, request.priority), "after": after}
        values |= _first_state(after, stands, now)
        jobs.append(Job.model_validate({**request.model_dump(), **common, **values}))
        stands[ids[number]] = jobs[-1].status
    session.add_all(jobs)
    session.flush()
    session.add_all(wait for job in jobs if job.status == "pending" for wait in _open(job, stands))
    for job in jobs:
        announce(session, job)
    return jobs


def waits_of(session: Session, job: Job) -> list[Wait]:
    """What a job that is retried waits for. Raises JobConflict: it would wait in vain."""
    stands = dict.fromkeys(job.after, JobStatus.COMPLETED) | _statuses(session, job.after)  # one that is gone was heard
    for name in job.after:
        if stands[name] in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise JobConflict(f"{dependency_failed(name, stands[name])} Retry that one first.")
    return _open(job, stands)


def _statuses(session: Session, job_ids: Collection[str]) -> dict[str, JobStatus]:
    if not job_ids:
        return {}
    rows = session.exec(select(col(Job.job_id), col(Job.status)).where(col(Job.job_id).in_(job_ids)))
    return {job_id: JobStatus(status) for job_id, status in rows}


def _meant(names: Sequence[str], siblings: Sequence[str], known: Collection[str], field: str) -> list[str]:
    """The jobs that `after` names: by id, or `#1` the first of the batch. Raises InvalidRequest."""
    ids = []
    for place, name in enumerate(names):
        number = int(name[1:]) if name[1:].isdecimal() and name.startswith("#") else 0
        if 1 <= number <= len(siblings):
            ids.append(siblings[number - 1])
        elif name in known:
            ids.append(name)
        else:
            there_is = "no earlier request" if number else "no job"
            raise InvalidRequest(f"{field}.{place}", f"There is {there_is} {name!r}.")
    return list(dict.fromkeys(ids))


def _first_state(after: Sequence[str], stands: dict[str, JobStatus], now: datetime) -> dict[str, Any]:
    for name in after:
        if stands[name] in (JobStatus.FAILED, JobStatus.CANCELLED):
            return {**ended(JobStatus.FAILED, now), "error_message": dependency_failed(name, stands[name])}
    return {"waits_for": sum(stands[name] is not JobStatus.COMPLETED for name in after)}


def _open(job: Job, stands: dict[str, JobStatus]) -> list[Wait]:
    """A wait for each job that this one comes after and that is not completed yet."""
    names = [name for name in job.after if stands[name] is not JobStatus.COMPLETED]
    return [Wait.model_validate({"after_id": name, "job_id": job.job_id}) for name in names]
