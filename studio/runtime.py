"""The studio's only door: every surface submits, follows and cancels jobs through `Studio`.

It decides what a request means (which model, which seed, whether the client may), puts it into the queue and wakes
the worker. It holds no state of its own: what it answers is read from the rows.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from studio import health
from studio.audio.bundle import bundle
from studio.audio.files import collect_orphans
from studio.engine import catalog
from studio.engine.base import EngineLoader
from studio.engine.catalog import ModelInfo
from studio.engine.loader import engine_loader
from studio.errors import ConfigurationError, JobConflict, JobNotFound
from studio.limits import RateLimiter
from studio.metrics import Census, Metrics
from studio.schemas import (
    AttemptView,
    BatchAccepted,
    BatchCancelResult,
    BatchRequest,
    BatchView,
    CancelResult,
    GenerationRequest,
    HealthReport,
    HealthStatus,
    JobAccepted,
    JobAttempts,
    JobPage,
    JobStatus,
    JobView,
    QueueStats,
    TrackInfo,
    utcnow,
)
from studio.settings import Settings
from studio.store.db import Database
from studio.store.queue import JobQueue, Place
from studio.store.tables import Attempt, Job
from studio.worker import Worker, recover

logger = logging.getLogger(__name__)

FILES_URL = "/api/v1/files/"
WATCH_INTERVAL_S = 0.1
SEED_DRAWN_MAX = 2**31  # short enough to read out loud


@dataclass(frozen=True)
class Started:
    """What a start found."""

    pending: int  # jobs that wait
    interrupted: list[str]  # jobs whose worker had died


@dataclass(frozen=True)
class Change:
    """A job, and the number of its last change."""

    version: int
    job: JobView


class Studio:
    """Submit requests, follow jobs, hear of the studio's health. Thread-safe.

    Args:
        settings: read from the environment when absent.
        load: makes engines from model names; the catalogue's models when absent.
    """

    def __init__(self, settings: Settings | None = None, load: EngineLoader | None = None) -> None:
        self.settings = settings or Settings()
        self._db = Database(self.settings.resolved_database_url)
        self._queue = JobQueue(self._db)
        self._metrics = Metrics(version("studio"), self._census)
        self._limiter = RateLimiter(self.settings, refused=self._metrics.refused)
        self._worker = Worker(self._queue, self.settings, load or engine_loader(self.settings), self._metrics)
        self._started_at = time.monotonic()

    # Life

    def start(self, *, work: bool = True) -> Started:
        """Bring the database up to date, look after what an earlier run left, start the worker (if `work`)."""
        _make_writable(self.settings.data_dir)
        self._limiter.check()
        self._db.migrate()
        recovered = recover(self._queue, self.settings)
        collect_orphans(self.settings.audio_dir, self._queue.filenames())
        if work:
            self._worker.start()
        return Started(recovered.pending, recovered.interrupted)

    def stop(self) -> None:
        """Let jobs in flight finish within the deadline, hand the rest back, close the database."""
        self._worker.stop()
        self._db.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Jobs

    def submit(self, request: GenerationRequest, client: str | None = None) -> JobAccepted:
        """Put a request into the queue; on return it is on disk. `client` is who asks, for the rate limit.

        Raises:
            ModelNotFound, RateLimited.
        """
        request = self._resolve(request)
        self._charge(client, 1)
        (job,) = self._queue.enqueue([request])
        self._enqueued([job])
        view = self._view(job)
        return JobAccepted(
            job_id=view.job_id,
            status=view.status,
            current_step=view.current_step,
            estimated_time_seconds=view.estimated_time_seconds or 0.0,
            created_at=view.created_at,
        )

    def submit_batch(self, batch: BatchRequest, client: str | None = None) -> BatchAccepted:
        """Put all requests of a batch into the queue, or none.

        Raises:
            ModelNotFound, RateLimited, InvalidRequest (the batch is larger than the limit).
        """
        requests = [self._resolve(request) for request in batch.requests]
        self._charge(client, len(requests))
        batch_id = f"batch_{secrets.token_hex(8)}"
        jobs = self._queue.enqueue(requests, batch_id)
        self._enqueued(jobs)
        return BatchAccepted(
            batch_id=batch_id,
            job_ids=[job.job_id for job in jobs],
            total_jobs=len(jobs),
            estimated_total_time_seconds=max(self._view(job).estimated_time_seconds or 0.0 for job in jobs),
        )

    def job(self, job_id: str) -> JobView:
        """The job as it is now. Raises JobNotFound."""
        return self._view(self._queue.get(job_id))

    def attempts(self, job_id: str) -> JobAttempts:
        """Every attempt at a job that has ended, the first one first. Raises JobNotFound."""
        return JobAttempts(job_id=job_id, attempts=[_attempt_view(row) for row in self._queue.attempts(job_id)])

    def jobs(self, status: JobStatus | None = None, page: int = 1, page_size: int = 20) -> JobPage:
        """Jobs, newest first; pages count from 1."""
        rows, total = self._queue.list(status, page, page_size)
        return JobPage(jobs=self._views(rows), total=total, page=page, page_size=page_size)

    def cancel(self, job_id: str, force: bool = False) -> CancelResult:
        """Cancel a job that waits; with `force` also one that is being processed, at its next decode step.

        Raises:
            JobNotFound; JobConflict when it is processing (without `force`) or has ended.
        """
        job = self._queue.cancel(job_id, force)
        self._worker.drop(job_id)
        logger.info("Job cancelled: %s", job_id, extra={"job_id": job_id})
        return CancelResult(job_id=job_id, cancelled_at=job.completed_at or utcnow())

    def retry(self, job_id: str, client: str | None = None) -> JobView:
        """Let a failed or cancelled job wait again, with all its attempts before it. It counts as a request.

        Raises:
            JobNotFound, RateLimited; JobConflict when it waits, is being processed, or is completed.
        """
        if self._queue.get(job_id).status in (JobStatus.FAILED, JobStatus.CANCELLED):  # a refusal costs nothing
            self._charge(client, 1)
        job = self._queue.retry(job_id)
        logger.info("Job retried: %s", job_id, extra={"job_id": job_id})
        self._worker.wake()
        return self._view(job)

    def watch(self, job_id: str, timeout_s: float | None = None) -> Iterator[JobView]:
        """The job, again whenever it has changed, until it has ended or the time is up."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        seen = None
        while True:
            row = self._queue.get(job_id)
            if row.version != seen:
                seen = row.version
                yield (view := self._view(row))
                if view.status.ended:
                    return
            if deadline is not None and time.monotonic() >= deadline:
                return
            time.sleep(WATCH_INTERVAL_S)

    # Batches

    def batch(self, batch_id: str) -> BatchView:
        """A batch as it is now. Raises BatchNotFound."""
        views = self._views(self._queue.batch(batch_id))
        left = [view.estimated_time_seconds for view in views if view.estimated_time_seconds is not None]
        return BatchView(
            batch_id=batch_id,
            total_jobs=len(views),
            jobs_by_status={status: sum(view.status is status for view in views) for status in JobStatus},
            progress=sum(1.0 if view.status.ended else view.progress for view in views) / len(views),
            estimated_time_seconds=max(left, default=None),
            job_ids=[view.job_id for view in views],
            created_at=views[0].created_at,
        )

    def cancel_batch(self, batch_id: str, force: bool = False) -> BatchCancelResult:
        """Cancel all jobs of a batch that wait; with `force` also those that are being processed.

        Raises:
            BatchNotFound; JobConflict when there is nothing to cancel.
        """
        jobs = self._queue.cancel_batch(batch_id, force)
        for job in jobs:
            self._worker.drop(job.job_id)
            logger.info("Job cancelled: %s", job.job_id, extra={"job_id": job.job_id})
        cancelled_at = jobs[0].completed_at or utcnow()
        return BatchCancelResult(batch_id=batch_id, job_ids=[job.job_id for job in jobs], cancelled_at=cancelled_at)

    def batch_zip(self, batch_id: str) -> Iterator[bytes]:
        """The finished tracks of a batch as a zip, in pieces, with a manifest of all its jobs.

        Raises:
            BatchNotFound; JobConflict when no track is there.
        """
        entries, tracks = [], []
        for number, job in enumerate(map(self._view, self._queue.batch(batch_id)), start=1):
            path = self._track_of(job)
            name = f"{number:02}-{path.name}" if path else None
            entries.append({"file": name, **job.model_dump(mode="json")})
            if path and name:
                tracks.append((name, path, job.completed_at or job.created_at))
        if not tracks:
            raise JobConflict("No track of the batch is finished.")
        manifest = {"batch_id": batch_id, "jobs": entries}
        return bundle(json.dumps(manifest, indent=2, ensure_ascii=False).encode(), tracks)

    def _track_of(self, job: JobView) -> Path | None:
        try:
            return self.track_path(Path(job.file_url).name) if job.file_url else None
        except JobNotFound:  # somebody has removed the file
            return None

    def version(self) -> int:
        """A number that grows with every change of any job."""
        return self._queue.version()

    def changes(self, job_ids: Collection[str], since: int = -1) -> list[Change]:
        """Those of the given jobs that exist and have changed after version `since`, as they are now."""
        return [Change(row.version, self._view(row)) for row in self._queue.changed(job_ids, since)]

    def track_path(self, filename: str) -> Path:
        """Where a finished job's audio lies. Raises JobNotFound for any name that is not exactly such a file's."""
        if filename not in self._queue.filenames([filename]):
            raise JobNotFound(filename)
        path = self.settings.audio_dir / filename
        try:
            regular = stat.S_ISREG(path.lstat().st_mode)
        except OSError:
            regular = False
        if not regular:
            raise JobNotFound(filename)
        return path

    # The studio itself

    def models(self) -> list[ModelInfo]:
        """The catalogue."""
        return list(catalog.CATALOG.values())

    def queue_stats(self) -> QueueStats:
        """The queue in six figures."""
        return self._queue.stats()

    def health(self) -> HealthReport:
        """The four checks and their sum; answers in bounded time."""
        return health.check(
            self.settings,
            ping=self._db.ping,
            stats=self._queue.stats,
            workers=self._queue.workers,
            version=version("studio"),
            uptime_s=time.monotonic() - self._started_at,
        )

    def ready(self) -> bool:
        """Whether requests can be taken."""
        return self.health().status is not HealthStatus.UNHEALTHY

    def metrics(self) -> bytes:
        """The figures for Prometheus, in its text format; answers in bounded time."""
        return self._metrics.render()

    # Parts

    def _census(self) -> Census:
        self._db.ping(health.PING_TIMEOUT_S)
        stats = self._queue.stats()
        _, cancelled = self._queue.list(JobStatus.CANCELLED, page=1, page_size=1)
        return Census(
            jobs={
                JobStatus.PENDING: stats.pending_jobs,
                JobStatus.PROCESSING: stats.processing_jobs,
                JobStatus.COMPLETED: stats.completed_jobs,
                JobStatus.FAILED: stats.failed_jobs,
                JobStatus.CANCELLED: cancelled,
            },
            oldest_pending_age_s=stats.oldest_pending_job_age_seconds,
            workers_alive=len(health.living(self.settings, self._queue.workers())),
        )

    def _resolve(self, request: GenerationRequest) -> GenerationRequest:
        info = catalog.resolve(request.model or self.settings.model_name, self.settings)
        seed = secrets.randbelow(SEED_DRAWN_MAX) if request.seed is None else request.seed
        return request.model_copy(update={"model": info.name, "seed": seed})

    def _charge(self, client: str | None, cost: int) -> None:
        if client is not None:
            self._limiter.charge(client, cost)

    def _enqueued(self, jobs: list[Job]) -> None:
        for job in jobs:
            logger.info("Job enqueued: %s", job.job_id, extra={"job_id": job.job_id, "prompt": job.prompt})
        self._worker.wake()

    def _view(self, job: Job) -> JobView:
        position = self._queue.position(job)
        return self._as_view(job, None if position is None else Place(position, self._queue.seconds_ahead(job)))

    def _views(self, jobs: list[Job]) -> list[JobView]:
        places = self._queue.places(jobs)
        return [self._as_view(job, places.get(job.job_id)) for job in jobs]

    def _as_view(self, job: Job, place: Place | None) -> JobView:
        return JobView(
            **job.model_dump(include=_SHARED_FIELDS),
            queue_position=place and place.position,
            estimated_time_seconds=self._estimate(job, place),
            file_url=FILES_URL + job.filename if job.filename else None,
            metadata=_track_info(job),
        )

    def _estimate(self, job: Job, place: Place | None) -> float | None:
        """Seconds until the job has finished, from how long finished jobs took; nothing for one that ended."""
        if JobStatus(job.status).ended:
            return None
        own = self._queue.predict(job.model, job.duration)
        if place is None:
            return round(own * (1.0 - job.progress), 1)
        return round(own + place.seconds_ahead, 1)


def _make_writable(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"DGX_MUSIC_DATA_DIR: cannot write to {data_dir.resolve()} ({error.strerror})."
        ) from error


def _attempt_view(row: Attempt) -> AttemptView:
    seconds = (row.ended_at - row.started_at).total_seconds()
    return AttemptView(**row.model_dump(exclude={"id", "job_id"}), seconds=round(seconds, 3))


def _track_info(job: Job) -> TrackInfo | None:
    if job.filename is None:
        return None
    return TrackInfo(
        duration=job.track_duration,
        sample_rate=job.sample_rate,
        channels=job.channels,
        file_size_bytes=job.file_size_bytes,
        format=job.format,
    )


_SHARED_FIELDS = set(JobView.model_fields) & set(Job.model_fields)
