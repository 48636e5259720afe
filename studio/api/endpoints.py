"""Gradio's named endpoints: the REST routes' twins for `gradio_client`. They translate and decide nothing.

A generation never runs inside Gradio's queue: an endpoint puts a job into the studio's and at most watches it.
(Annotations are evaluated here: Gradio reads return types as they stand.)
"""

import asyncio
import functools
import inspect
import logging
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import gradio as gr
from anyio import to_thread
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder
from pydantic import ConfigDict, ValidationError, validate_call

from studio.api.rest import INTERNAL_ERROR
from studio.errors import DatabaseUnavailable, StudioError
from studio.limits import client_of_request
from studio.runtime import Studio
from studio.schemas import BatchRequest, GenerationRequest, JobsRequest, JobStatus, JobView, View, describe

logger = logging.getLogger(__name__)

POLL_S = 0.2
SIGN_OF_LIFE_S = 1.0  # a client that has gone is noticed at the next item, so there is one even when nothing happens
DEFAULT: dict[str, Any] = {name: field.default for name, field in GenerationRequest.model_fields.items()}
LIST: dict[str, Any] = {name: field.default for name, field in JobsRequest.model_fields.items()}

AS_DOCUMENTED = ConfigDict(strict=True, arbitrary_types_allowed=True)  # not coerced

P = ParamSpec("P")
R = TypeVar("R")
Json = dict[str, Any]
if TYPE_CHECKING:
    Items = AsyncIterator[tuple[Json, gr.FileData | None]]
else:
    Items = tuple[Json, gr.FileData | None]  # Gradio documents a generator by the type of an item


def register(studio: Studio, closing: threading.Event) -> None:
    """Add the endpoints to the Blocks that is being built. `closing` is set when the server goes down."""
    endpoints = Endpoints(studio, closing)
    for name in vars(Endpoints):
        if not name.startswith("_"):
            gr.api(getattr(endpoints, name), api_name=name, concurrency_limit=None)


def translated(function: Callable[P, R]) -> Callable[P, R]:
    """Arguments are of the types that are documented, which Gradio does not see to; errors reach the client as the
    sentences that REST says, and what nobody expects stays in the log."""
    signature = inspect.signature(function)
    checked: Callable[..., R] = validate_call(config=AS_DOCUMENTED)(function)

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return checked(**signature.bind(*args, **kwargs).arguments)  # by name, so that errors name them
        except Exception as error:
            raise sentence(error) from error

    return wrapped


def sentence(error: Exception) -> gr.Error:
    """The error as Gradio shows it."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, ValidationError):
        text = "; ".join(f"{field}: {message}" for field, message in describe(error))
    elif isinstance(error, StudioError):
        text = str(error)
    else:
        logger.error("An endpoint failed", exc_info=error)
        text = INTERNAL_ERROR
    return gr.Error(text, print_exception=False)


class Endpoints:
    """One method an endpoint; its signature and its docstring are the endpoint's documentation."""

    def __init__(self, studio: Studio, closing: threading.Event) -> None:
        self._studio = studio
        self._closing = closing

    @translated
    def generate(
        self,
        request: gr.Request,
        prompt: str,
        duration: float = DEFAULT["duration"],
        temperature: float = DEFAULT["temperature"],
        top_k: int = DEFAULT["top_k"],
        top_p: float = DEFAULT["top_p"],
        cfg_coef: float = DEFAULT["cfg_coef"],
        seed: int | None = DEFAULT["seed"],
        model: str | None = DEFAULT["model"],
        priority: int = DEFAULT["priority"],
        after: list[str] = DEFAULT["after"],
        webhook_url: str | None = DEFAULT["webhook_url"],
        idempotency_key: str | None = None,
        continue_from: str | None = DEFAULT["continue_from"],
        continue_seconds: float | None = DEFAULT["continue_seconds"],
    ) -> Json:
        """Put a request into the queue: returns `job_id`, `status`, `current_step`, `estimated_time_seconds`,
        `created_at`. Sent again with the same `idempotency_key` within a day, it is answered so again."""
        asked = GenerationRequest(
            prompt=prompt, duration=duration, temperature=temperature, top_k=top_k,
            top_p=top_p, cfg_coef=cfg_coef, seed=seed, model=model, priority=priority, after=after,
            webhook_url=webhook_url, continue_from=continue_from, continue_seconds=continue_seconds,
        )  # fmt: skip
        return _json(self._studio.submit(asked, self._client(request), idempotency_key))

    async def generate_and_wait(
        self,
        request: gr.Request,
        prompt: str,
        duration: float = DEFAULT["duration"],
        temperature: float = DEFAULT["temperature"],
        top_k: int = DEFAULT["top_k"],
        top_p: float = DEFAULT["top_p"],
        cfg_coef: float = DEFAULT["cfg_coef"],
        seed: int | None = DEFAULT["seed"],
        model: str | None = DEFAULT["model"],
        priority: int = DEFAULT["priority"],
        after: list[str] = DEFAULT["after"],
        webhook_url: str | None = DEFAULT["webhook_url"],
        continue_from: str | None = DEFAULT["continue_from"],
        continue_seconds: float | None = DEFAULT["continue_seconds"],
    ) -> Items:
        """Put a request into the queue and yield the job as it advances; the last item has the audio file too.
        Whoever leaves early cancels the job."""
        visit = _Visit(self._studio, self._closing)
        try:
            ask = functools.partial(
                self.generate, request, prompt, duration, temperature, top_k, top_p, cfg_coef, seed, model,
                priority, after, webhook_url, None, continue_from, continue_seconds,
            )  # fmt: skip
            await to_thread.run_sync(visit.begin, ask)
            async for job in visit.items():
                yield _json(job), await to_thread.run_sync(self._audio, job)
        except Exception as error:
            raise sentence(error) from error
        finally:
            visit.leave()
        if job.status is not JobStatus.COMPLETED:
            raise gr.Error(job.error_message or "The job was cancelled.", print_exception=False)

    @translated
    def generate_batch(
        self, request: gr.Request, requests: list[dict[str, Any]], idempotency_key: str | None = None
    ) -> Json:
        """Put up to ten requests into the queue, or none of them: returns `batch_id`, `job_ids`, `total_jobs`,
        `estimated_total_time_seconds`. Sent again with the same `idempotency_key`, it is answered so again."""
        batch = BatchRequest.model_validate({"requests": requests})
        return _json(self._studio.submit_batch(batch, self._client(request), idempotency_key))

    @translated
    def job(self, job_id: str) -> Json:
        """One job as it is now: its step, its progress, its place in the queue, and its audio when it is done."""
        return _json(self._studio.job(job_id))

    @translated
    def cancel(self, job_id: str, force: bool = False) -> Json:
        """Cancel a job that waits; with `force` also one that is being processed, at its next decode step."""
        return _json(self._studio.cancel(job_id, force))

    @translated
    def retry(self, request: gr.Request, job_id: str) -> Json:
        """Start a failed or cancelled job again, with all its attempts before it: returns the job."""
        return _json(self._studio.retry(job_id, self._client(request)))

    @translated
    def to_front(self, job_id: str) -> Json:
        """Let a job that waits go before all others: returns the job."""
        return _json(self._studio.to_front(job_id))

    @translated
    def attempts(self, job_id: str) -> Json:
        """Every attempt at a job that has ended: when, how long, and what went wrong, with the stack trace."""
        return _json(self._studio.attempts(job_id))

    @translated
    def deliveries(self, job_id: str) -> Json:
        """The webhooks of a job: whether they were delivered, what went wrong, and when the next attempt is."""
        return _json(self._studio.deliveries(job_id))

    @translated
    def jobs(
        self,
        status: str | None = LIST["status"],
        page: int = LIST["page"],
        page_size: int = LIST["page_size"],
        search: str | None = LIST["search"],
    ) -> Json:
        """Jobs, newest first; `status` is one of pending, processing, completed, failed, cancelled; `search` looks in
        prompts and ids."""
        asked = JobsRequest.model_validate({"status": status, "page": page, "page_size": page_size, "search": search})
        return _json(self._studio.jobs(asked.status, asked.page, asked.page_size, asked.search))

    @translated
    def batch(self, batch_id: str) -> Json:
        """A batch as it is now: how many of its jobs stand where, its progress, and the seconds that it will take."""
        return _json(self._studio.batch(batch_id))

    @translated
    def cancel_batch(self, batch_id: str, force: bool = False) -> Json:
        """Cancel the jobs of a batch that wait; with `force` also those that are being processed."""
        return _json(self._studio.cancel_batch(batch_id, force))

    @translated
    def batch_zip(self, batch_id: str) -> gr.FileData:
        """The finished tracks of a batch as a zip, with a manifest of all its jobs."""
        pieces = self._studio.batch_zip(batch_id)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{batch_id}.zip"
            with path.open("wb") as archive:
                archive.writelines(pieces)
            return _cached(path)

    @translated
    def pause(self) -> Json:
        """Let no job be started until `/resume`; those in process are finished: returns `paused`, `paused_at`."""
        return _json(self._studio.pause())

    @translated
    def resume(self) -> Json:
        """Let jobs be started again: returns `paused`, `paused_at`."""
        return _json(self._studio.resume())

    @translated
    def queue_state(self) -> Json:
        """Whether jobs are started: `paused`, and since when, `paused_at`."""
        return _json(self._studio.queue_state())

    @translated
    def queue_stats(self) -> Json:
        """The queue in six figures."""
        return _json(self._studio.queue_stats())

    @translated
    def health(self) -> Json:
        """Database, GPU, queue and disk space, and their sum."""
        return _json(self._studio.health())

    def _client(self, request: gr.Request) -> str:
        return client_of_request(request, self._studio.settings)

    def _audio(self, job: JobView) -> Json | None:
        if job.file_url is None:
            return None
        return _cached(self._studio.track_path(Path(job.file_url).name))


class _Visit:
    """Somebody waits for a job. When they leave before its end, it is cancelled, also if it is only just enqueued."""

    def __init__(self, studio: Studio, closing: threading.Event) -> None:
        self._studio = studio
        self._closing = closing
        self._left = threading.Event()
        self._job_id: str | None = None

    def begin(self, ask: Callable[[], Json]) -> None:
        self._job_id = ask()["job_id"]
        if self._left.is_set():
            self._cancel()

    async def items(self) -> AsyncIterator[JobView]:
        """The job whenever it has changed, and now and then when it has not, until it has ended.

        While the database is away the job goes on, and so does whoever waits for it.
        """
        assert self._job_id
        last: JobView | None = None
        told_at = 0.0
        while not (last and last.status.ended):
            try:
                job = await to_thread.run_sync(self._studio.job, self._job_id)
            except DatabaseUnavailable:
                await asyncio.sleep(POLL_S)
                continue
            if job != last or time.monotonic() - told_at >= SIGN_OF_LIFE_S:
                last, told_at = job, time.monotonic()
                yield job
            if not job.status.ended:
                await asyncio.sleep(POLL_S)

    def leave(self) -> None:
        """Never waits: it is called while Gradio cancels the task or closes the generator."""
        self._left.set()
        if self._job_id and not self._closing.is_set():  # a server that goes down keeps its jobs
            threading.Thread(target=self._cancel, name="cancel", daemon=True).start()

    def _cancel(self) -> None:
        assert self._job_id
        try:
            if not self._studio.job(self._job_id).status.ended:
                self._studio.cancel(self._job_id, force=True)
        except StudioError as error:
            logger.info("Nothing to cancel: %s", error, extra={"job_id": self._job_id})


def _cached(path: Path) -> Json:
    """A copy of the file where Gradio serves files from: of the studio's own it serves none."""
    copy = save_file_to_cache(path, cache_dir=get_upload_folder())
    return {"path": copy, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def _json(model: View) -> Json:
    return model.model_dump(mode="json")
