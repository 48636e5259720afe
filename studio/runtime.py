"""The studio's only door: every surface submits, follows and cancels jobs through `Studio`.

It decides what a request means (which model, which seed, whether the client may), puts it into the queue and wakes
the worker. It holds no state of its own: what it answers is read from the rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from studio import health
from studio.audio import clips
from studio.audio.bundle import bundle
from studio.audio.files import collect_orphans, track_name
from studio.engine import catalog
from studio.engine.base import EngineLoader
from studio.engine.catalog import ModelInfo
from studio.engine.loader import engine_loader
from studio.errors import ConfigurationError, InvalidRequest, JobConflict, JobNotFound, ModelNotFound
from studio.gpus import nvidia_smi
from studio.limits import LimiterState, RateLimiter
from studio.metrics import Census, Metrics
from studio.schemas import (
    KEY_MAX,
    AttemptView,
    BatchAccepted,
    BatchCancelResult,
    BatchRequest,
    BatchView,
    CancelResult,
    ClipView,
    DeliveryView,
    GenerationRequest,
    HealthReport,
    HealthStatus,
    JobAccepted,
    JobAttempts,
    JobDeliveries,
    JobPage,
    JobStatus,
    JobView,
    Model,
    QueueState,
    QueueStats,
    TrackInfo,
    View,
    batch_view,
    utcnow,
)
from studio.settings import Settings
from studio.store.answers import IdempotencyKey
from studio.store.db import Database
from studio.store.outbox import Outbox, job_of
from studio.store.places import Place
from studio.store.queue import JobQueue, Recovered
from studio.store.tables import Attempt, Delivery, Job
from studio.store.tables import Worker as WorkerRow
from studio.streams import Stream, Streams, Wake
from studio.vitals import Sample, Vitals, WorkerSeen
from studio.webhooks import Dispatcher, check_url, event_of
from studio.worker import Worker, recover

logger = logging.getLogger(__name__)

FILES_URL = "/api/v1/files/"
WATCH_INTERVAL_S = 0.1
ADDED_MIN_S = 0.1  # what a continuation adds to what it keeps
SEED_DRAWN_MAX = 2**31  # short enough to read out loud

Accepted = TypeVar("Accepted", bound=View)


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
        self._queue = JobQueue(self._db, alive_s=self.settings.lease_seconds)
        self._outbox = Outbox(self._db)
        self._vitals = Vitals(nvidia_smi)
        self._metrics = Metrics(version("studio"), self._census, self._vitals.gpus)
        self._limiter = RateLimiter(self.settings, refused=self._metrics.refused)
        self._streams = Streams()
        self._worker = Worker(
            self._queue, self.settings, load or engine_loader(self.settings), self._metrics, self._streams
        )
        self._dispatcher = Dispatcher(self._outbox, self.settings, lambda job: self._as_view(job, None), self._metrics)
        self._checkup = health.Checkup(
            self.settings,
            ping=self._db.ping,
            stats=self._queue.stats,
            workers=self.workers,
            state=self._queue.state,
            version=version("studio"),
        )
        self._started_at = time.monotonic()

    # Life

    def start(self, *, work: bool = True) -> Recovered:
        """Bring the database up to date, look after what an earlier run left, start the worker (if `work`)."""
        _make_writable(self.settings.data_dir)
        self._limiter.check()
        self._db.migrate()
        recovered = recover(self._queue, self.settings)
        found = {"waiting": recovered.pending, "interrupted": len(recovered.interrupted)}
        logger.info("Queue recovered", extra=found)
        collect_orphans(self.settings.audio_dir, self._queue.tracks)
        clips.collect_parts(self.settings)
        if work:
            self._worker.start()
        self._dispatcher.start()
        self._vitals.start()
        return recovered

    def stop(self) -> None:
        """Let jobs in flight finish within the deadline, hand the rest back, close the database."""
        self._vitals.stop()
        self._worker.stop()
        self._dispatcher.stop()
        self._db.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Jobs

    def submit(self, request: GenerationRequest, client: str | None = None, key: str | None = None) -> JobAccepted:
        """Put a request into the queue; on return it is on disk. `client` is who asks, for the rate limit.

        With an idempotency `key`, a client that sends the same request again within a day gets the same answer: nothing
        more is stored, nothing more counts against the limit.

        Raises:
            RateLimited; InvalidRequest (no such model; `after` names no job; nothing to continue from; the key came
            with another request).
        """

        def answer(jobs: list[Job], places: dict[str, Place]) -> JobAccepted:
            (job,) = jobs
            return self._accepted(job, places.get(job.job_id))

        return self._put(JobAccepted, request, lambda: [self._resolve(request)], None, client, key, answer)

    def submit_batch(self, batch: BatchRequest, client: str | None = None, key: str | None = None) -> BatchAccepted:
        """Put all requests of a batch into the queue, or none. `key` as in `submit`.

        Raises:
            RateLimited; InvalidRequest (also when the batch is larger than the limit).
        """
        batch_id = f"batch_{secrets.token_hex(8)}"

        def requests() -> list[GenerationRequest]:
            return [self._resolve(request, f"requests.{number}.") for number, request in enumerate(batch.requests)]

        def answer(jobs: list[Job], places: dict[str, Place]) -> BatchAccepted:
            total = round(max((place.seconds_left for place in places.values()), default=0.0), 1)
            return BatchAccepted(
                batch_id=batch_id,
                job_ids=[job.job_id for job in jobs],
                total_jobs=len(jobs),
                estimated_total_time_seconds=None if any(place.paused for place in places.values()) else total,
            )

        return self._put(BatchAccepted, batch, requests, batch_id, client, key, answer)

    def job(self, job_id: str) -> JobView:
        """The job as it is now. Raises JobNotFound."""
        return self._view(self._queue.get(job_id))

    def attempts(self, job_id: str) -> JobAttempts:
        """Every attempt at a job that has ended, the first one first. Raises JobNotFound."""
        return JobAttempts(job_id=job_id, attempts=[_attempt_view(row) for row in self._queue.attempts(job_id)])

    def deliveries(self, job_id: str) -> JobDeliveries:
        """The webhooks of a job, the first one first. Raises JobNotFound."""
        return JobDeliveries(job_id=job_id, deliveries=[_delivery_view(row) for row in self._outbox.of_job(job_id)])

    def jobs(
        self, status: JobStatus | None = None, page: int = 1, page_size: int = 20, search: str | None = None
    ) -> JobPage:
        """Jobs, newest first; pages count from 1. `search`: only those with this in their prompt or id."""
        rows, total = self._queue.list(status, page, page_size, search)
        return JobPage(jobs=self._views(rows), total=total, page=page, page_size=page_size)

    def waiting(self, page: int = 1, page_size: int = 20, search: str | None = None) -> JobPage:
        """The jobs that wait, the next to start first; otherwise as `jobs`."""
        rows, total = self._queue.upcoming(page, page_size, search)
        return JobPage(jobs=self._views(rows), total=total, page=page, page_size=page_size)

    def forecast(self, requests: Sequence[GenerationRequest]) -> float:
        """Seconds until all of these would have finished, if they were put in now. Raises ModelNotFound."""
        names = {request.model: self.model(request.model).name for request in requests}
        return self._queue.forecast([(names[request.model], request.duration) for request in requests])

    def check(self, request: GenerationRequest) -> None:
        """Refuse what `submit` would refuse, as far as that is known before; `#1` and so on are taken on trust.

        Raises:
            InvalidRequest: no such model; `after` names no job; nothing to continue from; no webhook goes there.
        """
        self._check(request)
        self._kept(request)
        asked = [name for name in request.after if not name.startswith("#")]
        known = {job.job_id for job in self._queue.changed(asked, -1)} if asked else set()
        for name in asked:
            if name not in known:
                raise InvalidRequest("after", f"There is no job {name!r}.")

    def keep_clip(self, data: bytes, client: str | None = None) -> ClipView:
        """Keep an audio file that somebody brought, for `continue_from`. It counts as a request.

        Raises:
            RateLimited; InvalidRequest when it is no audio, or too much; DiskFull.
        """
        self._charge(client, 1)
        clip = clips.keep(self.settings, data)
        logger.info("Clip kept: %s", clip.clip_id)
        return clip

    def length_of(self, name: str) -> float:
        """Seconds of what a request may continue: a completed job's music, or a clip. Raises InvalidRequest."""
        seconds = clips.length(self.settings, name)
        if seconds is not None:
            return seconds
        try:
            job = self._queue.get(name)
        except JobNotFound as error:
            kind = "clip" if name.startswith("clip_") else "job"
            raise InvalidRequest("continue_from", f"There is no {kind} {name!r}.") from error
        if job.filename is None or job.track_duration is None:
            reason = f"The job {name} is {job.status}: only a completed one can be continued."
            raise InvalidRequest("continue_from", reason)
        try:
            self.track_path(job.filename)
        except JobNotFound as error:
            raise InvalidRequest("continue_from", f"The audio of {name} is gone.") from error
        return job.track_duration

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

        Jobs that failed because this one did stay failed: retry them too, after this one.

        Raises:
            JobNotFound, RateLimited; JobConflict when it waits, is being processed, or is completed, or when a job that
            must be completed before it has failed or was cancelled.
        """
        job = self._queue.retry(job_id, charge=lambda: self._charge(client, 1))
        logger.info("Job retried: %s", job_id, extra={"job_id": job_id})
        self._worker.wake()
        return self._view(job)

    def to_front(self, job_id: str) -> JobView:
        """Let a job that waits go before all others.

        Raises:
            JobNotFound; JobConflict when it does not wait.
        """
        job = self._queue.to_front(job_id)
        logger.info("Job moved to the front: %s", job_id, extra={"job_id": job_id})
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
        return batch_view(batch_id, self._views(self._queue.batch(batch_id)))

    def batch_jobs(self, batch_ids: Sequence[str], *, sketched: bool = False) -> dict[str, list[JobView]]:
        """The jobs of those of the batches that exist, in the given order of batches.

        `sketched`: of the jobs that wait only the last one of each batch has a place and an estimate, which is enough
        for the batch, and quick for many of them.
        """
        rows = self._queue.batches(batch_ids)
        last = {row.batch_id: row for row in rows if row.status is JobStatus.PENDING}
        running = [row for row in rows if row.status is JobStatus.PROCESSING]
        places = self._queue.places([*last.values(), *running] if sketched else rows)
        views = [self._as_view(row, places.get(row.job_id)) for row in rows]
        jobs = {batch_id: [view for view in views if view.batch_id == batch_id] for batch_id in batch_ids}
        return {batch_id: found for batch_id, found in jobs.items() if found}

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
            name = f"{number:02}-{track_name(job.prompt, job.seed)}" if path else None
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
        rows = self._queue.changed(job_ids, since)
        return [Change(row.version, view) for row, view in zip(rows, self._views(rows), strict=True)]

    def stream(self, job_id: str) -> Stream | None:
        """The audio of a job that runs in this process, as far as it is made; none before its first sound."""
        return self._streams.get(job_id)

    def listening(self, job_id: str, wake: Wake) -> AbstractContextManager[None]:
        """Within the block, `wake` is called by another thread whenever there is more of a job's stream, or its end."""
        return self._streams.listening(job_id, wake)

    def track_path(self, filename: str) -> Path:
        """Where a finished job's audio lies. Raises JobNotFound for any name that is not exactly such a file's."""
        if not self._queue.is_track(filename):
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

    def model(self, name: str | None) -> ModelInfo:
        """A model by its name, or the one of a request that names none. Raises ModelNotFound."""
        return catalog.resolve(name or self.settings.model_name, self.settings)

    def models(self) -> list[ModelInfo]:
        """The catalogue."""
        return list(catalog.CATALOG.values())

    def pause(self) -> QueueState:
        """Let no worker start a job until `resume`, also after a restart; those in process are finished."""
        state = self._queue.pause()
        logger.info("Queue paused")
        return state

    def resume(self) -> QueueState:
        """Let workers start jobs again."""
        state = self._queue.resume()
        logger.info("Queue resumed")
        self._worker.wake()
        return state

    def queue_state(self) -> QueueState:
        """Whether jobs are started."""
        return self._queue.state()

    def queue_stats(self) -> QueueStats:
        """The queue in six figures."""
        return self._queue.stats()

    def health(self) -> HealthReport:
        """The four checks and their sum; answers in bounded time."""
        return self._checkup.report(time.monotonic() - self._started_at)

    def ready(self) -> bool:
        """Whether requests can be taken."""
        return self.health().status is not HealthStatus.UNHEALTHY

    def vitals(self) -> list[Sample]:
        """What the machine did in the last minutes, the oldest sample first."""
        return self._vitals.samples()

    def workers(self) -> list[WorkerSeen]:
        """The workers as they last spoke, the last to speak first."""
        now = self._db.now()
        return [self._seen(row, max(0.0, (now - row.beat_at).total_seconds())) for row in self._queue.workers()]

    def _seen(self, row: WorkerRow, silent_s: float) -> WorkerSeen:
        said = row.model_dump(include={"worker_id", "pid", "device", "model", "slots"})
        host, _, _ = row.host.partition("/")  # what follows tells machines of one name apart
        return WorkerSeen(**said, host=host, silent_s=silent_s, alive=silent_s <= self.settings.lease_seconds)

    def limiter(self) -> LimiterState:
        """What the rate limit does at this moment."""
        return self._limiter.state()

    def database(self) -> str:
        """What keeps the jobs: `SQLite 3.51.3`."""
        return self._db.product()

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
            paused=self._queue.state().paused,
            workers_alive=sum(worker.alive for worker in self.workers()),
            webhooks_waiting=self._outbox.depth(),
        )

    def _resolve(self, request: GenerationRequest, where: str = "") -> GenerationRequest:
        """The request with its model, its seed, and how much it keeps of what it continues. `where`: its place in what
        was asked for, `requests.3.`, for errors."""
        try:
            info = self._check(request)
            kept = self._kept(request)
        except InvalidRequest as error:
            raise InvalidRequest(where + error.field, error.reason) from error
        seed = secrets.randbelow(SEED_DRAWN_MAX) if request.seed is None else request.seed
        return request.model_copy(update={"model": info.name, "seed": seed, "continue_seconds": kept})

    def _check(self, request: GenerationRequest) -> ModelInfo:
        try:
            info = self.model(request.model)
        except ModelNotFound as error:
            raise InvalidRequest("model", str(error)) from error
        check_url(self.settings, request.webhook_url)
        return info

    def _kept(self, request: GenerationRequest) -> float | None:
        """How many seconds a request keeps of what it continues. Raises InvalidRequest."""
        if request.continue_from is None:
            if request.continue_seconds is not None:
                raise InvalidRequest("continue_seconds", "says how much is kept of continue_from, which is not given")
            return None
        there = self.length_of(request.continue_from)
        kept = there if request.continue_seconds is None else request.continue_seconds
        if kept > there:
            raise InvalidRequest("continue_seconds", f"must be at most {there:g}: there is no more of that music")
        if request.duration < kept + ADDED_MIN_S:
            reason = f"must be more than the {kept:g} s that are kept: ask for more, or keep less"
            raise InvalidRequest("duration", reason)
        return kept

    def _put(
        self,
        kind: type[Accepted],
        asked: Model,
        requests: Callable[[], list[GenerationRequest]],
        batch_id: str | None,
        client: str | None,
        key: str | None,
        answer: Callable[[list[Job], dict[str, Place]], Accepted],
    ) -> Accepted:
        if key is None:
            resolved = requests()
            self._charge(client, len(resolved))
            jobs = self._queue.enqueue(resolved, batch_id)
            self._enqueued(jobs)
            return answer(jobs, self._queue.places(jobs))
        jobs, text = self._queue.enqueue_once(
            requests,
            batch_id,
            _idempotency_key(client, key, asked),
            charge=lambda count: self._charge(client, count),
            answer=lambda jobs, places: answer(jobs, places).model_dump_json(),
        )
        self._enqueued(jobs)
        return kind.model_validate_json(text)

    def _accepted(self, job: Job, place: Place | None) -> JobAccepted:
        view = self._as_view(job, place)
        return JobAccepted(
            job_id=view.job_id,
            status=view.status,
            current_step=view.current_step,
            estimated_time_seconds=view.estimated_time_seconds if place else 0.0,
            created_at=view.created_at,
        )

    def _charge(self, client: str | None, cost: int) -> None:
        if client is not None:
            self._limiter.charge(client, cost)

    def _enqueued(self, jobs: list[Job]) -> None:
        for job in jobs:
            logger.info("Job enqueued: %s", job.job_id, extra={"job_id": job.job_id, "prompt": job.prompt})
        self._worker.wake()

    def _view(self, job: Job) -> JobView:
        return self._views([job])[0]

    def _views(self, jobs: list[Job]) -> list[JobView]:
        places = self._queue.places(jobs)
        return [self._as_view(job, places.get(job.job_id)) for job in jobs]

    def _as_view(self, job: Job, place: Place | None) -> JobView:
        return JobView(
            **job.model_dump(include=_SHARED_FIELDS),
            queue_position=place and place.position,
            estimated_time_seconds=None if place is None or place.paused else round(place.seconds_left, 1),
            file_url=FILES_URL + job.filename if job.filename else None,
            metadata=_track_info(job),
        )


def _idempotency_key(client: str | None, key: str, asked: Model) -> IdempotencyKey:
    if not (1 <= len(key) <= KEY_MAX and key.isascii() and key.isprintable()):
        raise InvalidRequest("Idempotency-Key", f"must be 1 to {KEY_MAX} printable ASCII characters")
    fingerprint = hashlib.sha256(f"{type(asked).__name__} {asked.model_dump_json()}".encode()).hexdigest()
    return IdempotencyKey((client or "")[:100], key, fingerprint)


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


def _delivery_view(row: Delivery) -> DeliveryView:
    event = event_of(job_of(row))
    return DeliveryView(**row.model_dump(exclude={"id", "job_id", "job"}), event=event, next_attempt_at=row.due_at)


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
