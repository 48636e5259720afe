"""The loop that turns rows into audio: claim, admit, step, save. It alone owns the engine.

It knows the queue's API and the engine's slots, and nothing of the web. A second thread keeps the leases alive while a
model loads or downloads. What the worker may write is fenced by the lease: a job that somebody cancelled or that
another worker took over is dropped from its slot the moment a write says so. A database that is away for a moment costs
no job: progress goes unwritten, and how a job ended is written once it is back.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import psutil

from studio.audio import clips, loudness
from studio.audio.files import file_name, write_track
from studio.backoff import next_attempt_s
from studio.clip import Clip
from studio.engine.base import Chunk, Engine, EngineLoader, Event, Failed, Finished, Progress
from studio.errors import DatabaseUnavailable, DiskFull, LeaseLost, OutOfMemory, StudioError
from studio.schemas import PROGRESS_DECODED, PROGRESS_LOADED, Step
from studio.settings import Settings
from studio.store.queue import Claim, JobQueue, Recovered, Track
from studio.store.tables import Worker as WorkerRow
from studio.streams import Streams

logger = logging.getLogger(__name__)

IDLE_POLL_S = 0.5  # how soon a job that another process enqueued is seen
PROGRESS_INTERVAL_S = 0.4  # a write costs as much as two decode steps of a small model
ERROR_PAUSE_S = 1.0  # the loop failed itself (the database is gone, say): breathe, then go on
STOP_MARGIN_S = 5.0  # beyond the deadline for jobs in flight: to save one, to hand the others back
GOOD_JOBS = 10  # completed since memory last ran out; then one more request is admitted together
SAME_START_S = 2.0  # two readings of when a process started differ by less: the kernel tells the boot's time in seconds
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of this start of this machine

AWAY = (DatabaseUnavailable, DiskFull)  # a write may succeed later


def recover(queue: JobQueue, settings: Settings) -> Recovered:
    """Look after jobs whose worker died: as `INTERRUPTED_JOBS` says, they fail or are tried again."""
    retry = settings.interrupted_jobs == "retry"
    recovered = queue.recover(partial(next_attempt_s, settings) if retry else _never, _process_lives)
    for job_id in recovered.interrupted:
        logger.warning("Job interrupted, its worker died: %s", job_id, extra={"job_id": job_id})
    return recovered


class Observer(Protocol):
    """Hears of what the worker has done, for statistics."""

    def step_ended(self, step: Step, seconds: float) -> None: ...
    def track_made(self, audio_s: float, took_s: float) -> None: ...


@dataclass
class _InFlight:
    """A job in a slot."""

    claim: Claim
    admitted_at: float  # monotonic seconds
    encoded_at: float = field(default_factory=time.monotonic)
    written_at: float = 0.0  # when its progress was last written
    done: float = 0.0  # share of its decode steps
    given: float = 0.0  # of which so much was not decoded here: what a continuation keeps
    steps: int = 0
    neighbours: int = 0  # requests decoded with it, itself included, summed over its steps


class Worker:
    """Works the queue in a thread of its own until `stop`."""

    def __init__(
        self, queue: JobQueue, settings: Settings, load: EngineLoader, observer: Observer, streams: Streams
    ) -> None:
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.engine: Engine | None = None
        self._queue = queue
        self._settings = settings
        self._load = load
        self._observer = observer
        self._streams = streams
        self._together = settings.slots  # requests admitted at once: fewer when memory has run out
        self._good_jobs = 0  # since memory last ran out, or one more was admitted
        self._in_flight: dict[str, _InFlight] = {}
        self._waiting: list[Claim] = []  # claimed for another model, which is loaded once the slots are empty
        self._dropped: set[str] = set()  # jobs to evict before the next step
        self._lock = threading.Lock()  # guards what both threads and `drop` touch: the three above
        self._wake = threading.Event()
        self._look_at = 0.0  # monotonic seconds: when the queue is looked at next, unless somebody wakes the worker
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="worker", daemon=True),
            threading.Thread(target=self._keep_leases, name="heartbeat", daemon=True),
        ]

    # From any thread

    def start(self) -> None:
        """Show the worker in the database and begin."""
        self._beat()
        for thread in self._threads:
            thread.start()
        threading.Thread(target=loudness.prepare, name="loudness", daemon=True).start()  # while a model loads

    def wake(self) -> None:
        """There is something new in the queue."""
        self._wake.set()

    def drop(self, job_id: str) -> None:
        """The job was cancelled: free its slot before the next decode step, unless it has been claimed anew."""
        if not self.alive:
            return
        with self._lock:
            self._dropped.add(job_id)
        self._wake.set()

    def stop(self) -> None:
        """Claim no more, finish what is in flight within the deadline, hand the rest back, and end."""
        self._stopping.set()
        self._wake.set()
        deadline = time.monotonic() + self._settings.shutdown_seconds + STOP_MARGIN_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = self._claims()  # by a loop that has not come to its end: it loads a model
        for claim in left:
            self._hand_back(claim)
        with suppress(*AWAY):  # then its silence tells
            self._queue.forget_worker(self.worker_id)

    @property
    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._threads[0].is_alive()

    # The loop

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                busy = self._turn()
            except Exception:
                logger.exception("The worker's loop failed; it goes on")
                busy = False
                self._stopping.wait(ERROR_PAUSE_S)
            if not busy:
                self._wake.wait(IDLE_POLL_S)
        try:
            self._drain()
        except Exception:
            logger.exception("The worker did not stop in good order")

    def _turn(self) -> bool:
        """Claim what fits, decode one step; whether there was anything to do."""
        self._drop_cancelled()
        if not self._waiting and self._may_look():
            self._claim()
        self._admit_waiting()
        return self._step()

    def _may_look(self) -> bool:
        """Whether to ask for jobs: a look costs as much as a decode step of a small model, so not before each."""
        now = time.monotonic()
        if self._in_flight and not self._wake.is_set() and now < self._look_at:
            return False
        self._wake.clear()
        self._look_at = now + IDLE_POLL_S
        return True

    def _claim(self) -> None:
        free = self._room(self.engine) if self.engine else 1
        if free <= 0:
            return
        model = self.engine.model if self.engine else None
        try:
            claims = self._queue.claim(self.worker_id, free, self._settings.lease_seconds, model)
        except AWAY:
            if not self._in_flight:
                raise
            return  # there is something to do meanwhile
        if claims:
            self._look_at = 0.0  # there may be more, for slots that a model has once it is loaded
        with self._lock:
            self._waiting.extend(claims)
        for claim in claims:
            if old := self._in_flight.get(claim.job_id):  # cancelled and retried since this turn began
                self._free(old.claim)
            if claim.waited_s is not None:
                self._observer.step_ended(Step.QUEUED, claim.waited_s)
            _log(logging.INFO, "Job started", claim, attempt=claim.retry_count + 1, model=claim.request.model)

    def _admit_waiting(self) -> None:
        while self._waiting:
            claim = self._waiting[0]
            if self.engine is None or self.engine.model != claim.request.model:
                if self._in_flight:
                    return  # the slots drain first
                if not self._switch_model(claim):
                    continue
            assert self.engine is not None
            if self._room(self.engine) <= 0:
                return
            self._admit(self.engine, claim)

    def _room(self, engine: Engine) -> int:
        return min(engine.free_slots, self._together - len(self._in_flight))

    def _switch_model(self, claim: Claim) -> bool:
        model = claim.request.model
        assert model is not None
        started = time.monotonic()
        try:
            self._close_engine()
            self._advance(claim, Step.LOADING_MODEL, 0.0)
            self.engine = self._load(model, self._loading_progress(claim))
            self._loaded(claim, time.monotonic() - started)
        except Exception as error:
            self._end_badly(claim, error)
            return False
        return True

    def _close_engine(self) -> None:
        engine, self.engine = self.engine, None  # first of all: one that cannot even be closed is not used again
        if engine is not None:
            engine.close()

    def _loaded(self, claim: Claim, took_s: float) -> None:
        self._observer.step_ended(Step.LOADING_MODEL, took_s)
        fields = {"job_id": claim.job_id, "model": claim.request.model, "seconds": round(took_s, 2)}
        logger.info("Model loaded", extra=fields)
        self._show()
        self._advance(claim, Step.LOADING_MODEL, PROGRESS_LOADED, loaded_s=took_s)

    def _loading_progress(self, claim: Claim) -> Callable[[float, str], None]:
        written_at = 0.0

        def write(fraction: float, _what: str) -> None:
            nonlocal written_at
            if self._stopping.is_set():
                raise LeaseLost("The worker is stopping.")
            if time.monotonic() - written_at >= PROGRESS_INTERVAL_S:
                written_at = time.monotonic()
                self._advance(claim, Step.LOADING_MODEL, fraction * PROGRESS_LOADED)

        return write

    def _admit(self, engine: Engine, claim: Claim) -> None:
        try:
            self._advance(claim, Step.ENCODING_PROMPT, PROGRESS_LOADED)
            admitted_at = time.monotonic()
            engine.admit(claim.job_id, claim.request, clips.opening(self._settings, claim.request))
            job = _InFlight(claim, admitted_at)
            with self._lock:
                self._waiting.remove(claim)
                self._in_flight[claim.job_id] = job
            self._observer.step_ended(Step.ENCODING_PROMPT, job.encoded_at - admitted_at)
            self._advance(claim, Step.GENERATING, PROGRESS_LOADED)
        except Exception as error:
            if isinstance(error, OutOfMemory):
                self._admit_fewer(len(self._in_flight) + 1)
            self._end_badly(claim, error)

    def _step(self) -> bool:
        if self.engine is None or not self._in_flight:
            return False
        for job in self._in_flight.values():
            job.steps += 1
            job.neighbours += len(self._in_flight)
        try:
            events = self.engine.step()
        except Exception as error:
            # The engine itself broke: its slots are lost, and the next job loads a fresh one.
            if isinstance(error, OutOfMemory):
                self._admit_fewer(len(self._in_flight))
            self._fail_all(error)
            return True
        if any(isinstance(event, Failed) and isinstance(event.error, OutOfMemory) for event in events):
            self._admit_fewer(len(self._in_flight))
        for event in events:
            self._carry(event)
        return True

    def _carry(self, event: Event) -> None:
        job = self._in_flight.get(event.key)
        if job is None:
            return
        try:
            match event:
                case Progress(_, done, total):
                    job.done = done / total
                    if job.claim.request.continue_from and job.steps == 1:
                        job.given = job.done
                    self._write_progress(job)
                case Chunk(_, clip):
                    self._let_hear(job, clip)
                case Finished():
                    self._save(job, event)
                case Failed(_, error):
                    raise error
        except Exception as error:
            self._end_badly(job.claim, error)

    def _let_hear(self, job: _InFlight, clip: Clip) -> None:
        duration, took_s = job.claim.request.duration, time.monotonic() - job.encoded_at
        speed = (job.done - job.given) * duration / max(took_s, 1e-3)
        self._streams.push(job.claim.job_id, clip, duration, speed)

    def _write_progress(self, job: _InFlight) -> None:
        if time.monotonic() - job.written_at >= PROGRESS_INTERVAL_S:
            job.written_at = time.monotonic()
            progress = PROGRESS_LOADED + job.done * (PROGRESS_DECODED - PROGRESS_LOADED)
            self._advance(job.claim, Step.GENERATING, progress)

    def _advance(self, claim: Claim, step: Step, progress: float, loaded_s: float | None = None) -> None:
        """Say how far the job is, if the database can be told. Raises LeaseLost."""
        with suppress(*AWAY):
            self._queue.advance(claim, step, progress, loaded_s)

    def _save(self, job: _InFlight, made: Finished) -> None:
        assert self.engine is not None
        claim = job.claim
        decoded_at = time.monotonic()
        self._observer.step_ended(Step.GENERATING, decoded_at - job.encoded_at)
        self._advance(claim, Step.SAVING, PROGRESS_DECODED)
        path = self._settings.audio_dir / file_name(claim.job_id)
        facts = {"precision": self.engine.precision, **made.recipe}
        info = write_track(path, made.clip, claim.request, facts, made.codes)
        track = Track(
            **info.model_dump(),
            filename=path.name,
            generation_time_seconds=time.monotonic() - job.admitted_at,
            device=self.engine.device,
            precision=self.engine.precision,
            together=job.neighbours / job.steps,
        )
        try:
            self._insist(lambda: self._queue.complete(claim, track))
        except LeaseLost:
            if not self._queue.is_track(path.name):  # else it was retried, and another worker was faster
                path.unlink(missing_ok=True)
            raise
        self._free(claim)
        self._observer.step_ended(Step.SAVING, time.monotonic() - decoded_at)
        self._observer.track_made(track.duration, track.generation_time_seconds)
        _log(logging.INFO, "Job completed", claim, seconds=round(track.generation_time_seconds, 2))
        self._admit_more()

    # Memory

    def _admit_fewer(self, tried: int) -> None:
        """Memory ran out with `tried` requests together: half of them, from now on."""
        self._good_jobs = 0
        fewer = max(1, tried // 2)
        if fewer < self._together:
            self._together = fewer
            logger.warning("Out of memory: fewer requests together", extra={"tried": tried, "at_most": fewer})
            self._show()

    def _admit_more(self) -> None:
        """Memory has sufficed for a while: try one more."""
        self._good_jobs += 1
        if self._together < self._settings.slots and self._good_jobs >= GOOD_JOBS:
            self._good_jobs = 0
            self._together += 1
            logger.info("One more request together", extra={"at_most": self._together})
            self._show()

    def _show(self) -> None:
        """What the worker says of itself has changed; a database that is away hears it with the next beat."""
        with suppress(*AWAY):
            self._beat()

    # Endings

    def _end_badly(self, claim: Claim, error: Exception) -> None:
        """Write down how an attempt ended (dropped, to be tried again, or failed for good), and free its slot."""
        try:
            if isinstance(error, LeaseLost):
                self._let_go(claim)
            else:
                self._fail(claim, error)
        except LeaseLost:
            self._let_go(claim)
        except Exception:
            logger.exception("How a job ended could not be written: %s", claim.job_id, extra={"job_id": claim.job_id})
        finally:
            self._free(claim)

    def _fail(self, claim: Claim, error: Exception) -> None:
        permanent = isinstance(error, StudioError) and error.permanent
        wait_s = None if permanent else next_attempt_s(self._settings, claim.retry_count)
        stack = "".join(traceback.format_exception(error))
        self._insist(lambda: self._queue.fail(claim, _sentence(error), wait_s, stack))
        if wait_s is None:
            _log(logging.ERROR, f"Job failed after {claim.retry_count} retries", claim, error)
            return
        attempt = claim.retry_count + 1
        _log(logging.WARNING, "Job failed, will retry", claim, error, f" (attempt {attempt})", delay_seconds=wait_s)

    def _insist(self, write: Callable[[], object]) -> None:
        """Write how a job ended, however long the database is away; its lease is kept until then. Raises LeaseLost."""
        while True:
            try:
                write()
                return
            except AWAY as error:
                if self._stopping.is_set():
                    raise
                logger.warning("How a job ended is not written yet: %s", error)
                self._stopping.wait(ERROR_PAUSE_S)

    def _let_go(self, claim: Claim) -> None:
        """Somebody ended the job, or the worker stops while it loads a model: then the job goes back."""
        if not self._stopping.is_set() or not self._hand_back(claim):
            _log(logging.INFO, "Job dropped", claim)

    def _hand_back(self, claim: Claim) -> bool:
        try:
            self._queue.release(claim)
        except (LeaseLost, *AWAY):
            return False
        _log(logging.INFO, "Job handed back", claim)
        return True

    def _free(self, claim: Claim) -> None:
        """The job is this worker's no more: its lease, its stream and its slot."""
        with self._lock:
            self._waiting = [other for other in self._waiting if other != claim]
            self._in_flight = {job_id: job for job_id, job in self._in_flight.items() if job.claim != claim}
        self._streams.end(claim.job_id)
        self._look_at = 0.0
        if self.engine is not None:
            self.engine.evict(claim.job_id)

    def _fail_all(self, error: Exception) -> None:
        try:
            self._close_engine()
        except Exception:
            logger.exception("The engine could not be closed")
        for job in list(self._in_flight.values()):
            self._end_badly(job.claim, error)

    def _drop_cancelled(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, set()
            doubtful = [claim for claim in self._claims() if claim.job_id in dropped]
        if not doubtful:
            return
        tokens = [claim.token for claim in doubtful]
        held = self._queue.heartbeat(self.worker_id, tokens, self._settings.lease_seconds)  # a retried one may be ours
        for claim in doubtful:
            if claim.token not in held:
                self._free(claim)
                self._let_go(claim)

    def _claims(self) -> list[Claim]:
        return [*self._waiting, *(job.claim for job in self._in_flight.values())]

    def _drain(self) -> None:
        """After a stop: decode on until the deadline, then hand back what is left."""
        self._return(self._waiting)
        deadline = time.monotonic() + self._settings.shutdown_seconds
        try:
            while self._in_flight and time.monotonic() < deadline:
                self._drop_cancelled()
                self._step()
        finally:
            self._return(job.claim for job in self._in_flight.values())
            self._close_engine()

    def _return(self, claims: Iterable[Claim]) -> None:
        for claim in list(claims):
            self._hand_back(claim)
            self._free(claim)

    # The heartbeat's thread

    def _keep_leases(self) -> None:
        interval_s = self._settings.lease_seconds / 3
        while self.alive:
            try:
                self._beat()
                self._renew()
                recover(self._queue, self._settings)
            except Exception:
                logger.exception("The heartbeat failed; it goes on")
            self._threads[0].join(interval_s)

    def _beat(self) -> None:
        engine = self.engine
        self._queue.beat(
            WorkerRow(
                worker_id=self.worker_id,
                host=_host(),
                pid=os.getpid(),
                process_started_at=_started_at(os.getpid()),
                device=engine.device if engine else None,
                model=engine.model if engine else None,
                slots=min(engine.slots, self._together) if engine else self._together,
            )
        )

    def _renew(self) -> None:
        with self._lock:
            claims = self._claims()
        held = self._queue.heartbeat(self.worker_id, [claim.token for claim in claims], self._settings.lease_seconds)
        for claim in claims:
            if claim.token not in held:
                self.drop(claim.job_id)


def _process_lives(worker: WorkerRow) -> bool:
    """Whether a worker's process may still run: on this host that is known, of another only its lease tells. So it does
    after a restart of the machine."""
    if worker.host != _host():
        return True
    try:
        return abs(_started_at(worker.pid) - worker.process_started_at) < SAME_START_S
    except psutil.NoSuchProcess:
        return False


@cache
def _host() -> str:
    """Within which process ids mean something: this machine since its start, or a container on it. Others may well
    share its name."""
    try:
        start, namespace = BOOT_ID.read_text().strip(), Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # no Linux, no containers
        return socket.gethostname()
    return f"{socket.gethostname()}/{start}/{namespace}"


def _started_at(pid: int) -> float:
    """Seconds from the machine's start to the process's: unlike its date, these do not change when the clock is set.

    Raises:
        psutil.NoSuchProcess: it does not run.
    """
    return float(psutil.Process(pid).create_time() - psutil.boot_time())


def _never(_retries: int) -> None:
    """An interrupted job is not tried again."""


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, StudioError) else f"{type(error).__name__}: {error}"


def _log(
    level: int, message: str, claim: Claim, error: Exception | None = None, end: str = "", **fields: object
) -> None:
    text = f"{message}: {claim.job_id}{end}"
    logger.log(level, "%s", text, exc_info=error, extra={"job_id": claim.job_id, **fields})
