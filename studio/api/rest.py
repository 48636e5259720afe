"""The REST routes under /api/v1: HTTP in, the facade's models out. They translate and decide nothing.

Every error has one shape: `{"error": sentence}`, and where a request is not valid also the fields that are wrong:
`{"error": …, "detail": [{"field": "requests.3.duration", "message": …}]}`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Request, Response, Security
from fastapi import Path as Path_
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from studio.api import examples
from studio.api.audience import Audience
from studio.api.events import Feed, as_event
from studio.api.examples import Probe, answers
from studio.api.security import ErrorResponse
from studio.audio import wav
from studio.errors import (
    BatchNotFound,
    DatabaseUnavailable,
    DiskFull,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    RateLimited,
    StudioError,
)
from studio.limits import client_of_request
from studio.metrics import CONTENT_TYPE as METRICS
from studio.runtime import Change, Studio
from studio.schemas import (
    BatchAccepted,
    BatchCancelResult,
    BatchRequest,
    BatchView,
    CancelResult,
    ClipView,
    GenerationRequest,
    HealthReport,
    HealthStatus,
    JobAccepted,
    JobAttempts,
    JobDeliveries,
    JobPage,
    JobsRequest,
    JobStatus,
    JobView,
    QueueState,
    QueueStats,
    WebhookEvent,
)
from studio.streams import Stream

logger = logging.getLogger(__name__)

PREFIX = "/api/v1"
INTERNAL_ERROR = "Something went wrong inside the studio; its log says what."
UNAVAILABLE_RETRY_S = 5
PROBES = 8  # at once, in threads of their own: a database that hangs takes all others
FIELDS_NAMED_MAX = 20  # a body of 1 MB can be wrong in a hundred thousand of them
TRACK_HEADERS = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
EVENTS = "text/event-stream"
EXAMPLE = Change(version=1841, job=examples.JOB)
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx keeps events back otherwise
BINARY = {"schema": {"type": "string", "format": "binary"}, "example": "fLaC…"}
ANY_AUDIO = {"required": True, "content": {"audio/*": BINARY}}
MEDIA_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}
REDOC_LOGO = "https://cdn.redoc.ly/redoc/logo-mini.svg"
ONE_RANGE = r"\s*([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})\s*"
RANGES = re.compile(rf"bytes={ONE_RANGE}(?:,{ONE_RANGE})*")
STATUS_OF: list[tuple[type[StudioError], int]] = [
    (InvalidRequest, 422),
    (JobNotFound, 404),
    (BatchNotFound, 404),
    (JobConflict, 409),
    (RateLimited, 429),
    (DatabaseUnavailable, 503),
    (DiskFull, 503),
]


class _Request(Request):
    """Every body that is not JSON is refused as such: bad UTF-8, a number of 5000 digits, 100 000 brackets too."""

    async def json(self) -> Any:
        try:
            return json.loads(await self.body())
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class _Route(APIRoute):
    """What a route does not expect is logged with its stack and answered without."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_all(request: Request) -> Response:
            try:
                return await handle(_Request(request.scope, request.receive))
            except (StudioError, HTTPException, RequestValidationError):
                raise
            except Exception:
                logger.exception("%s %s failed", request.method, request.url.path)
                return ErrorResponse(500, INTERNAL_ERROR)

        return handle_all


router = APIRouter(route_class=_Route)


def build(studio: Studio, closing: threading.Event) -> FastAPI:
    """The routes as an application of their own, for everything below `PREFIX`: its errors stay inside it.

    `closing` is set when the server goes down.
    """
    app = FastAPI(
        title="Studio",
        description="Text to music: put requests into the queue, follow the jobs, fetch the audio.",
        version=version("studio"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Security(HTTPBearer(auto_error=False))] if studio.settings.api_keys else [],  # the gate asks
        exception_handlers={
            StudioError: _studio_error, HTTPException: _http_error, RequestValidationError: _invalid,
        },
    )  # fmt: skip
    app.webhooks.include_router(webhooks)
    app.state.studio = studio
    app.state.probes = CapacityLimiter(PROBES)
    app.state.feed = Feed(studio, closing)
    app.state.audience = Audience(studio, app.state.feed, closing)
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_page_assets()))
    return app


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


TheStudio = Annotated[Studio, Depends(_studio)]
JobId = Annotated[str, Path_(description="As `generate` returned it.", examples=[examples.JOB_ID])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Names this request: sent again within a day with the same key and body, it is answered as the "
        "first time, and nothing more is stored. Up to 255 printable ASCII characters.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]
BatchId = Annotated[str, Path_(description="As `generate/batch` returned it.", examples=[examples.BATCH_ID])]


# Jobs


@router.post(
    "/generate",
    status_code=202,
    tags=["jobs"],
    responses=answers(
        202, "The job is on disk; `Location` is where to follow it.", examples.ACCEPTED, 413, 422, 429, 503
    ),
)
def generate(
    studio: TheStudio,
    request: Request,
    response: Response,
    body: Annotated[GenerationRequest, Body(examples=[examples.REQUEST])],
    idempotency_key: IdempotencyKey = None,
) -> JobAccepted:
    """Put a request into the queue."""
    accepted = studio.submit(body, client_of_request(request, studio.settings), idempotency_key)
    response.headers["Location"] = f"{PREFIX}/jobs/{accepted.job_id}"
    return accepted


@router.post(
    "/generate/batch",
    status_code=202,
    tags=["jobs"],
    responses=answers(202, "All jobs are on disk.", examples.BATCH_ACCEPTED, 413, 422, 429, 503),
)
def generate_batch(
    studio: TheStudio,
    request: Request,
    body: Annotated[BatchRequest, Body(examples=[examples.BATCH])],
    idempotency_key: IdempotencyKey = None,
) -> BatchAccepted:
    """Put up to ten requests into the queue, or none of them. Each counts as one against the rate limit."""
    return studio.submit_batch(body, client_of_request(request, studio.settings), idempotency_key)


@router.get("/jobs/{job_id}", tags=["jobs"], responses=answers(200, "The job.", examples.JOB, 404, 503))
def job(studio: TheStudio, job_id: JobId) -> JobView:
    """One job as it is now: its step, its progress, its place in the queue, and its audio when it is done."""
    return studio.job(job_id)


@router.get(
    "/jobs/{job_id}/events",
    tags=["jobs"],
    response_class=StreamingResponse,
    responses={
        200: {"description": "The job, again and again.", "content": {EVENTS: {"example": as_event(EXAMPLE).decode()}}},
        204: {"description": "The job has ended, and `Last-Event-ID` is the event that said so."},
        **answers(404, examples.MEANINGS[404], examples.ERRORS[404], 503),
    },
)
async def job_events(
    request: Request,
    job_id: JobId,
    last_event_id: Annotated[str | None, Header(description="The last event that was received.")] = None,
) -> Response:
    """The job as server-sent events: as it is now, then at every change, until it has ended.

    An event is named after the job's `current_step`. Its id counts changes: sent back as `Last-Event-ID`, as browsers
    do by themselves, it keeps older events from coming again. Comments keep a silent stream open.
    """
    feed: Feed = request.app.state.feed
    change = await feed.look(job_id)
    told = int(last_event_id) if last_event_id and re.fullmatch(r"[0-9]{1,18}", last_event_id) else -1
    seen = told if told <= change.version else -1  # of another database, say
    if change.job.status.ended and change.version == seen:
        return Response(status_code=204)  # a browser stops asking then
    return StreamingResponse(feed.events(change, seen), headers=EVENT_HEADERS, media_type=EVENTS)


@router.delete(
    "/jobs/{job_id}", tags=["jobs"], responses=answers(200, "It is cancelled.", examples.CANCELLED, 404, 409, 422, 503)
)
def cancel(
    studio: TheStudio,
    job_id: JobId,
    force: Annotated[
        bool, Query(description="Also stop a job that is being processed, at its next decode step.")
    ] = False,
) -> CancelResult:
    """Cancel a job that waits, also one that waits for its next attempt."""
    return studio.cancel(job_id, force)


@router.get(
    "/jobs/{job_id}/attempts", tags=["jobs"], responses=answers(200, "Its attempts.", examples.ATTEMPTS, 404, 503)
)
def attempts(studio: TheStudio, job_id: JobId) -> JobAttempts:
    """Every attempt at a job that has ended: when, how long, and what went wrong, with the stack trace."""
    return studio.attempts(job_id)


@router.get(
    "/jobs/{job_id}/deliveries", tags=["jobs"], responses=answers(200, "Its webhooks.", examples.DELIVERIES, 404, 503)
)
def deliveries(studio: TheStudio, job_id: JobId) -> JobDeliveries:
    """The webhooks of a job: whether they were delivered, what went wrong, and when the next attempt is."""
    return studio.deliveries(job_id)


@router.post(
    "/jobs/{job_id}/retry",
    tags=["jobs"],
    responses=answers(200, "It waits again.", examples.WAITING, 404, 409, 429, 503),
)
def retry(studio: TheStudio, request: Request, job_id: JobId) -> JobView:
    """Start a failed or cancelled job again, with all its attempts before it. It counts against the rate limit."""
    return studio.retry(job_id, client_of_request(request, studio.settings))


@router.post(
    "/jobs/{job_id}/front", tags=["jobs"], responses=answers(200, "It is the next.", examples.FRONT, 404, 409, 503)
)
def to_front(studio: TheStudio, job_id: JobId) -> JobView:
    """Let a job that waits go before all others, also before those that come later."""
    return studio.to_front(job_id)


@router.get("/jobs", tags=["jobs"], responses=answers(200, "A page of jobs.", examples.JOBS, 422, 503))
def jobs(studio: TheStudio, asked: Annotated[JobsRequest, Query()]) -> JobPage:
    """Jobs, newest first."""
    return studio.jobs(asked.status, asked.page, asked.page_size, asked.search)


# Batches


@router.get(
    "/batches/{batch_id}", tags=["batches"], responses=answers(200, "The batch.", examples.BATCH_VIEW, 404, 503)
)
def batch(studio: TheStudio, batch_id: BatchId) -> BatchView:
    """A batch as it is now: how many of its jobs stand where, its progress, and the seconds that it will take."""
    return studio.batch(batch_id)


@router.delete(
    "/batches/{batch_id}",
    tags=["batches"],
    responses=answers(200, "They are cancelled.", examples.BATCH_CANCELLED, 404, 409, 422, 503),
)
def cancel_batch(
    studio: TheStudio,
    batch_id: BatchId,
    force: Annotated[bool, Query(description="Also stop those that are being processed.")] = False,
) -> BatchCancelResult:
    """Cancel what is left of a batch: its jobs that wait."""
    return studio.cancel_batch(batch_id, force)


@router.get(
    "/batches/{batch_id}/zip",
    tags=["batches"],
    response_class=StreamingResponse,
    responses={
        200: {"description": "The zip.", "content": {"application/zip": {"example": "PK…"}}},
        **answers(404, examples.MEANINGS[404], examples.ERRORS[404], 409, 503),
    },
)
def batch_zip(studio: TheStudio, batch_id: BatchId) -> StreamingResponse:
    """The finished tracks of a batch, with `manifest.json`: all its jobs, and which file is whose."""
    headers = {"Content-Disposition": f'attachment; filename="{batch_id}.zip"'}
    return StreamingResponse(studio.batch_zip(batch_id), headers=headers, media_type="application/zip")


# What the studio sends


webhooks = APIRouter()


@webhooks.post(
    "job-ended",
    responses={"2XX": {"description": "It is delivered."}, 410: {"description": "Nobody wants it: it is given up."}},
)
def job_ended(body: Annotated[WebhookEvent, Body(examples=[examples.WEBHOOK.model_dump(mode="json")])]) -> None:
    """To a request's `webhook_url`, when its job has ended. `webhook-signature` is an HMAC over `webhook-id`,
    `webhook-timestamp` and the body, as standardwebhooks.com has it. Any other answer, or none, and it comes again."""


# Audio


@router.post(
    "/clips",
    status_code=201,
    tags=["audio"],
    openapi_extra={"requestBody": ANY_AUDIO},
    responses=answers(201, "It is kept, as it came.", examples.CLIP, 413, 422, 429, 503),
)
async def bring_clip(studio: TheStudio, request: Request) -> ClipView:
    """Bring music of your own: `continue_from` of a request takes its `clip_id`. The body is the file itself (WAV,
    FLAC, MP3, Ogg or AIFF): curl --data-binary @mine.flac …/clips. It counts against the rate limit."""
    data, client = await request.body(), client_of_request(request, studio.settings)
    return await to_thread.run_sync(studio.keep_clip, data, client)


@router.head("/files/{filename}", include_in_schema=False)
@router.get(
    "/files/{filename}",
    tags=["audio"],
    response_class=FileResponse,
    responses={
        200: {"description": "The audio.", "content": {"audio/wav": {"example": "RIFF…"}}},
        206: {"description": "The bytes that `Range` asks for.", "content": {"audio/wav": {"example": "RIFF…"}}},
        **answers(404, examples.MEANINGS[404], examples.ERRORS[404], 416),
    },
)
def file(
    studio: TheStudio,
    request: Request,
    filename: Annotated[str, Path_(description="The end of a job's `file_url`.", examples=[examples.FILENAME])],
) -> FileResponse:
    """A finished job's audio, whole or in part (HTTP Range)."""
    path, stat = _track(studio, filename)
    _keep_satisfiable_ranges(request, stat.st_size)
    media_type = MEDIA_TYPES.get(path.suffix)
    return FileResponse(path, headers=TRACK_HEADERS, media_type=media_type, stat_result=stat)


def _track(studio: Studio, filename: str) -> tuple[Path, os.stat_result]:
    """A finished job's file. Raises HTTPException 404."""
    try:
        path = studio.track_path(filename)
        return path, path.stat()
    except (JobNotFound, OSError) as error:
        raise HTTPException(404, f"There is no file {filename[:100]!r}.") from error


@router.get(
    "/jobs/{job_id}/stream",
    tags=["audio"],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "WAV, 16 bits. `X-Speed`: how many times faster than real time it is being made; 0: nobody "
            "knows yet.",
            "content": {wav.MEDIA_TYPE: {"example": "RIFF…"}},
        },
        **answers(404, "There is no such job, or it has failed or was cancelled.", examples.ERRORS[404]),
        **answers(409, "There is nothing to hear yet: ask again.", examples.SILENT, 503),
    },
)
async def job_stream(studio: TheStudio, request: Request, job_id: JobId) -> StreamingResponse:
    """A job's audio from its beginning, while it is made: curl -N …/stream | ffplay -

    A job that waits is waited for, up to 25 s. One that is completed, or made by a worker in another process, is heard
    when its file is there. The WAV header says the whole length: whoever gets less knows that the attempt has failed or
    was cancelled. The file's loudness is that of the whole, a stream's that of its beginning.
    """
    audience: Audience = request.app.state.audience
    heard = await audience.begin(job_id)
    if isinstance(heard, Stream):
        headers = STREAM_HEADERS | {"X-Speed": f"{heard.speed:.3g}"}
        return StreamingResponse(audience.audio(job_id, heard), headers=headers, media_type=wav.MEDIA_TYPE)
    return await to_thread.run_sync(_whole, studio, heard)


def _whole(studio: Studio, job: JobView) -> StreamingResponse:
    """The audio of a job that has ended, as a stream."""
    if job.file_url is None:
        raise HTTPException(404, f"There is no audio: the job {_ENDED[job.status]}.")
    path, _ = _track(studio, Path(job.file_url).name)
    headers = STREAM_HEADERS | {"Content-Length": str(wav.size_of(path))}
    return StreamingResponse(wav.pieces_of(path), headers=headers, media_type=wav.MEDIA_TYPE)


_ENDED = {JobStatus.FAILED: "has failed", JobStatus.CANCELLED: "was cancelled"}


def _keep_satisfiable_ranges(request: Request, size: int) -> None:
    """Leave in the Range header what FileResponse understands: it refuses what RFC 9110 (14.2) tells to ignore.

    Raises:
        HTTPException: 416, no range is within the file.
    """
    asked = request.headers.get("range")
    if asked is None:
        return
    ranges = _ranges(asked, size)
    if ranges == [] and "if-range" not in request.headers:
        sentence = f"The file has {size} bytes; none of them is in that range."
        raise HTTPException(416, sentence, {"Content-Range": f"bytes */{size}"})
    kept = [item for item in request.scope["headers"] if item[0] != b"range"]
    if ranges:
        kept.append((b"range", b"bytes=" + ",".join(f"{first}-{last}" for first, last in ranges).encode()))
    request.scope["headers"] = kept


def _ranges(asked: str, size: int) -> list[tuple[int, int]] | None:
    """The satisfiable ones as (first, last) byte, within the file; nothing when the header is not valid."""
    if not RANGES.fullmatch(asked):
        return None
    ranges = []
    for part in asked.removeprefix("bytes=").split(","):
        first, _, last = part.strip().partition("-")
        if first and last and int(first) > int(last):
            return None
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if start <= end:
            ranges.append((start, end))
    return ranges


# The studio itself


@router.get("/queue", tags=["studio"], responses=answers(200, "Whether jobs are started.", examples.RUNNING, 503))
def queue_state(studio: TheStudio) -> QueueState:
    """Whether the queue is paused, and since when."""
    return studio.queue_state()


@router.post("/queue/pause", tags=["studio"], responses=answers(200, "It is paused.", examples.PAUSED, 503))
def pause(studio: TheStudio) -> QueueState:
    """Let no worker start a job until `resume`, also after a restart. Jobs in process are finished."""
    return studio.pause()


@router.post("/queue/resume", tags=["studio"], responses=answers(200, "Jobs are started.", examples.RUNNING, 503))
def resume(studio: TheStudio) -> QueueState:
    """Let workers start jobs again."""
    return studio.resume()


@router.get("/queue/stats", tags=["studio"], responses=answers(200, "The figures.", examples.STATS, 503))
def queue_stats(studio: TheStudio) -> QueueStats:
    """The queue in six figures."""
    return studio.queue_stats()


@router.get(
    "/health",
    tags=["studio"],
    responses={
        **answers(200, "Healthy, or degraded: everything works.", examples.HEALTH),
        **answers(503, "Unhealthy: a critical check fails.", examples.UNHEALTHY),
    },
)
async def health(studio: TheStudio, request: Request, response: Response) -> HealthReport:
    """Database, GPU, queue and disk space."""
    report = await to_thread.run_sync(studio.health, limiter=request.app.state.probes)
    if report.status is HealthStatus.UNHEALTHY:
        response.status_code = 503
    return report


@router.get(
    "/health/ready",
    tags=["studio"],
    responses={
        **answers(200, "Requests can be taken.", examples.READY),
        **answers(503, "They cannot, for now.", examples.NOT_READY),
    },
)
async def ready(studio: TheStudio, request: Request, response: Response) -> Probe:
    """Whether requests can be taken: for a load balancer."""
    if await to_thread.run_sync(studio.ready, limiter=request.app.state.probes):
        return examples.READY
    response.status_code = 503
    return examples.NOT_READY


@router.get("/health/live", tags=["studio"], responses=answers(200, "It runs.", examples.LIVE))
async def live() -> Probe:
    """Whether the server runs at all: for whoever would restart it."""
    return examples.LIVE


def scrape(studio: Studio) -> Callable[[], Coroutine[Any, Any, Response]]:
    """The route for Prometheus, which asks at the server's root. One look at the database at a time."""
    thread = CapacityLimiter(1)

    async def metrics() -> Response:
        return Response(await to_thread.run_sync(studio.metrics, limiter=thread), media_type=METRICS)

    return metrics


# Documentation, from this machine: no content delivery network


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """The routes with the paths that clients use, without the errors that FastAPI supposes."""
    schema: dict[str, Any] = request.app.openapi()
    text = json.dumps({**schema, "paths": {PREFIX + path: item for path, item in schema["paths"].items()}})
    documented = json.loads(text, object_hook=_without_supposed_errors)
    return JSONResponse(documented)


def _without_supposed_errors(part: dict[str, Any]) -> dict[str, Any]:
    supposed = ("HTTPValidationError", "ValidationError")
    return {
        name: item
        for name, item in part.items()
        if name not in supposed and not (name == "422" and "/HTTPValidationError" in str(item))
    }


@router.get("/docs", include_in_schema=False)
def docs() -> HTMLResponse:
    """Swagger UI."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Studio – REST",
        swagger_js_url="static/swagger-ui-bundle.js",
        swagger_css_url="static/swagger-ui.css",
        swagger_favicon_url="static/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )


@router.get("/redoc", include_in_schema=False)
def redoc() -> HTMLResponse:
    """ReDoc."""
    return get_redoc_html(
        openapi_url="openapi.json",
        title="Studio – REST",
        redoc_js_url="static/redoc.standalone.js",
        redoc_favicon_url="static/favicon.png",
        with_google_fonts=False,
    )


@router.get("/static/redoc.standalone.js", include_in_schema=False)
def redoc_script() -> Response:
    """ReDoc's script without the logo that it fetches from its maker's network."""
    script = (_page_assets() / "redoc.standalone.js").read_text(encoding="utf-8")
    return Response(script.replace(REDOC_LOGO, "data:,"), media_type="text/javascript")


def _page_assets() -> Path:
    """Swagger UI and ReDoc as fastapi-offline carries them."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found and found.origin
    return Path(found.origin).parent / "static"


# Errors


async def _studio_error(_request: Request, error: Exception) -> ErrorResponse:
    assert isinstance(error, StudioError)
    status = next((status for kind, status in STATUS_OF if isinstance(error, kind)), 500)
    match error:
        case InvalidRequest(field=field, reason=reason):
            return _fields_wrong([(field, reason)])
        case RateLimited(retry_after_s=seconds):
            return ErrorResponse(status, str(error), {"Retry-After": str(seconds)})
    headers = {"Retry-After": str(UNAVAILABLE_RETRY_S)} if status == 503 else None
    return ErrorResponse(status, str(error), headers)


async def _http_error(request: Request, error: Exception) -> ErrorResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    sentence = f"{phrase}: {request.method} {request.url.path}" if error.detail == phrase else str(error.detail)
    return ErrorResponse(error.status_code, sentence, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> ErrorResponse:
    assert isinstance(error, RequestValidationError)
    return _fields_wrong([_field_wrong(request, item) for item in error.errors()[:FIELDS_NAMED_MAX]])


def _field_wrong(request: Request, item: dict[str, Any]) -> tuple[str, str]:
    """The field's path as the sender wrote it, and what is wrong, without the value that was sent."""
    where = [str(part)[:100] for part in item["loc"]]
    if item["type"] == "json_invalid":
        return "body", f"This is not JSON: {item['ctx']['error']}"
    if where == ["body"] and "json" not in request.headers.get("content-type", ""):
        return "body", "Send a JSON object, with Content-Type: application/json"
    return ".".join(where[1:]) or where[0], item["msg"].removeprefix("Value error, ")


def _fields_wrong(fields: list[tuple[str, str]]) -> ErrorResponse:
    sentence = "; ".join(f"{field}: {message}" for field, message in fields)
    return ErrorResponse(422, sentence, detail=[{"field": field, "message": message} for field, message in fields])
