"""One vocabulary for all surfaces: what goes in, what comes out. Knows no web framework and no database.

REST and Gradio return these very models, so a field has one name everywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

CONTINUE_MIN_S = 0.5
PROMPT_MIN, PROMPT_MAX = 3, 500  # characters, after trimming
DURATION_MIN_S, DURATION_MAX_S, DURATION_DEFAULT_S = 1.0, 30.0, 8.0
BATCH_MAX = 10
PRIORITY_MAX = 10  # and the least is as far below 0
AFTER_MAX = 10
KEY_MAX = 255  # characters of an idempotency key
SEED_MAX = 2**53 - 1  # the largest integer that JSON's readers agree on
URL_MAX = 2000  # characters
PROGRESS_LOADED, PROGRESS_DECODED = 0.05, 0.95  # of a job's progress, 0..1: between them it generates


class JobStatus(StrEnum):
    """Where a job stands. Only `studio.store` changes it."""

    PENDING = "pending"  # waits, also for its next attempt
    PROCESSING = "processing"  # a worker holds its lease
    COMPLETED = "completed"  # its audio is on disk
    FAILED = "failed"  # for good: the last attempt failed
    CANCELLED = "cancelled"  # a person stopped it

    @property
    def ended(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class Step(StrEnum):
    """The pipeline's steps, in order; a job that ended shows how."""

    QUEUED = "queued"
    LOADING_MODEL = "loading_model"
    ENCODING_PROMPT = "encoding_prompt"
    GENERATING = "generating"
    SAVING = "saving"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryStatus(StrEnum):
    """Where the delivery of a webhook stands."""

    PENDING = "pending"  # waits for its first or next attempt
    DELIVERED = "delivered"  # the receiver said 2xx
    ABANDONED = "abandoned"  # the receiver does not want it, or the last attempt failed


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # its worker died
    CANCELLED = "cancelled"  # a person stopped it


def utcnow() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


def _plain_text(text: str) -> str:
    text = text.strip()
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\r\t":
            raise ValueError(f"must not contain the character U+{ord(char):04X}")
    if not PROMPT_MIN <= len(text) <= PROMPT_MAX:
        raise ValueError(f"must have {PROMPT_MIN} to {PROMPT_MAX} characters, not {len(text)}")
    return text


def _search_words(text: str) -> str | None:
    text = text.strip()
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs"):
            raise ValueError(f"must not contain the character U+{ord(char):04X}")
    return text or None


def _web_address(text: str) -> str:
    """The URL as browsers write it: `0x7f.1` is 127.0.0.1 and says so, a foreign name is in Punycode."""
    if not text.isprintable() or " " in text:
        raise ValueError("must not contain spaces or control characters")
    try:
        url = _HTTP_URL.validate_python(text)
    except ValidationError as error:
        raise ValueError("must be an http or https URL") from error
    if url.username is not None or url.password is not None or url.fragment is not None:
        raise ValueError("must not contain a user name, a password or a fragment")
    if len(text) > URL_MAX or len(str(url)) > URL_MAX:
        raise ValueError(f"must have at most {URL_MAX} characters")
    return str(url)


def iso_utc(moment: datetime) -> str:
    """`2026-11-07T10:30:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_HTTP_URL = TypeAdapter(HttpUrl)

Prompt = Annotated[str, AfterValidator(_plain_text)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Moment = Annotated[datetime, PlainSerializer(iso_utc, return_type=str, when_used="json")]


class Model(BaseModel):
    """Base of all models here: unknown fields are refused, types are not coerced, NaN is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), frozen=True)


class View(BaseModel):
    """Base of what goes out: built by the studio from rows, so not strict."""

    model_config = ConfigDict(protected_namespaces=(), from_attributes=True)


class GenerationRequest(Model):
    """What a person asks for. `model` and `seed` may be left out: the studio fills them in and reports them."""

    prompt: Prompt = Field(
        description="The music in words.",
        examples=["lo-fi hip hop beat to study to, 80 bpm"],
        json_schema_extra={"minLength": PROMPT_MIN, "maxLength": PROMPT_MAX},
    )
    duration: float = Field(DURATION_DEFAULT_S, ge=DURATION_MIN_S, le=DURATION_MAX_S, description="Length in seconds.")
    temperature: float = Field(
        1.0, ge=0.1, le=2.0, description="Below 1: safer, more repetitive. Above 1: bolder, less stable."
    )
    top_k: int = Field(250, ge=0, le=500, description="Draw each token from the k likeliest; 0 draws from all of them.")
    top_p: float = Field(
        0.0, ge=0.0, le=1.0,
        description="Draw from the likeliest tokens that together reach this probability; 0 is off. Replaces top_k.",
    )  # fmt: skip
    cfg_coef: float = Field(
        3.0,
        ge=1.0,
        le=10.0,
        description="How strictly the music follows the prompt (classifier-free guidance).",
    )
    seed: int | None = Field(
        None, ge=0, le=SEED_MAX, description="The same seed gives the same audio; absent, one is drawn."
    )
    model: str | None = Field(
        None, min_length=1, max_length=500, description="A name in the catalogue; absent, the default model."
    )
    priority: int = Field(
        0, ge=-PRIORITY_MAX, le=PRIORITY_MAX,
        description="Higher goes first. A job that waits gains a step every five minutes, so that none starves.",
    )  # fmt: skip
    after: list[Annotated[str, Field(min_length=1, max_length=40)]] = Field(
        [],
        max_length=AFTER_MAX,
        description="Jobs (by `job_id`) that must be completed before this one starts; when one fails or is cancelled, "
        "this one fails. In a batch, `#1` is its first request; only earlier ones can be named.",
    )
    continue_from: str | None = Field(
        None, min_length=1, max_length=40,
        description="Go on from this music: a completed job (by `job_id`), or a clip of your own (`clip_id`).",
    )  # fmt: skip
    continue_seconds: float | None = Field(
        None, ge=CONTINUE_MIN_S, le=DURATION_MAX_S,
        description="How much of it is kept, from its beginning; absent, all of it. `duration` is the whole's.",
    )  # fmt: skip
    webhook_url: WebAddress | None = Field(
        None,
        description="Where to POST the job once it has ended, signed; see the README. http or https.",
        json_schema_extra={"maxLength": URL_MAX, "format": "uri"},
    )


# What the audio depends on.
RECIPE_FIELDS = frozenset(GenerationRequest.model_fields) - {"priority", "after", "webhook_url"}


class BatchRequest(Model):
    """One to ten requests that are accepted together or not at all."""

    requests: list[GenerationRequest] = Field(min_length=1, max_length=BATCH_MAX)


class JobsRequest(Model):
    """Which jobs to list. Read from text, so `"2"` is a page number."""

    model_config = ConfigDict(strict=False)

    status: Annotated[JobStatus | None, BeforeValidator(lambda value: None if value == "" else value)] = Field(
        None, description="Only jobs of this status."
    )
    search: Annotated[str | None, AfterValidator(lambda value: value and _search_words(value))] = Field(
        None, max_length=PROMPT_MAX, description="Only jobs with this in their prompt or id, in capitals or not."
    )
    page: int = Field(1, ge=1, le=1_000_000, description="Counts from 1.")
    page_size: int = Field(20, ge=1, le=100, description="Jobs on a page.")


class JobAccepted(View):
    """The answer to a request: the job is on disk."""

    job_id: str
    status: JobStatus
    current_step: Step
    estimated_time_seconds: float | None = Field(description="null while the queue is paused")
    created_at: Moment


class BatchAccepted(View):
    """The answer to a batch: all its jobs are on disk."""

    batch_id: str
    job_ids: list[str]
    total_jobs: int
    estimated_total_time_seconds: float | None = Field(description="null while the queue is paused")


class TrackInfo(View):
    """The saved audio of a job."""

    duration: float = Field(description="seconds")
    sample_rate: int = Field(description="Hz")
    channels: int
    file_size_bytes: int
    format: str = Field(examples=["wav"])


class ClipView(TrackInfo):
    """A clip that somebody brought: `continue_from` takes its id."""

    clip_id: str
    format: str = Field(examples=["flac"])


class JobView(View):
    """A job as every surface shows it."""

    job_id: str
    batch_id: str | None = Field(None, description="The batch that it came in.")
    status: JobStatus
    current_step: Step
    progress: float = Field(ge=0.0, le=1.0)
    prompt: str
    model: str
    duration: float
    temperature: float
    top_k: int
    top_p: float
    cfg_coef: float
    seed: int
    priority: int = 0
    after: list[str] = Field([], description="The jobs that must be completed before this one starts.")
    continue_from: str | None = Field(None, description="The job or clip that it goes on from.")
    continue_seconds: float | None = Field(None, description="How much of that is kept, from its beginning.")
    retry_count: int
    queue_position: int | None = Field(
        None,
        description="1 is next; null when the job does not wait. Jobs that wait for a retry come after those that may "
        "start, and jobs that wait for other jobs after these.",
    )
    estimated_time_seconds: float | None = Field(
        None, description="Until it is finished, the queue included; null when it has ended, or the queue is paused."
    )
    generation_time_seconds: float | None = None
    file_url: str | None = None
    metadata: TrackInfo | None = None
    error_message: str | None = None
    created_at: Moment
    started_at: Moment | None = None
    completed_at: Moment | None = None


class AttemptView(View):
    """One attempt at a job, once it has ended."""

    series: int = Field(description="Counts from 1; a retry by hand begins the next.")
    number: int = Field(description="Within its series; the first attempt is 1, the first retry 2.")
    outcome: Outcome
    started_at: Moment
    ended_at: Moment
    seconds: float
    error_message: str | None = None
    stack_trace: str | None = None
    worker_id: str | None = None


class JobAttempts(View):
    """Every attempt at a job, the first one first."""

    job_id: str
    attempts: list[AttemptView]


class DeliveryView(View):
    """A webhook: one end of a job on its way to the job's `webhook_url`."""

    delivery_id: str = Field(description="The header `webhook-id`, the same at each attempt.")
    event: str = Field(examples=["job.completed"])
    status: DeliveryStatus
    attempts: int = Field(description="Begun so far.")
    response_status: int | None = Field(None, description="Of the last attempt; null when there was no answer.")
    error_message: str | None = Field(None, description="What was wrong with the last attempt.")
    created_at: Moment
    attempted_at: Moment | None = Field(None, description="When the last attempt began.")
    next_attempt_at: Moment | None = None
    ended_at: Moment | None = None


class JobDeliveries(View):
    """The webhooks of a job, the first one first: one for each time that it ended."""

    job_id: str
    deliveries: list[DeliveryView]


class WebhookEvent(View):
    """What a webhook says."""

    event: str = Field(description="`job.completed`, `job.failed` or `job.cancelled`.", examples=["job.completed"])
    delivery_id: str = Field(description="Also the header `webhook-id`, the same at each attempt.")
    sent_at: Moment
    job: JobView = Field(description="The job as it ended.")


class JobPage(View):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    total: int
    page: int
    page_size: int


class CancelResult(View):
    """A job was cancelled."""

    message: str = "Job cancelled successfully"
    job_id: str
    cancelled_at: Moment


class BatchView(View):
    """A batch: its jobs taken together."""

    batch_id: str
    total_jobs: int
    jobs_by_status: dict[JobStatus, int] = Field(description="How many of its jobs have each status; the five add up.")
    progress: float = Field(ge=0.0, le=1.0, description="The mean of its jobs'; one that ended counts as 1.")
    estimated_time_seconds: float | None = Field(
        None, description="Until the last one is finished; null when all have ended, or the queue is paused."
    )
    job_ids: list[str]
    created_at: Moment


def batch_view(batch_id: str, jobs: Sequence[JobView]) -> BatchView:
    """A batch from its jobs, of which there is at least one."""
    left = [job.estimated_time_seconds for job in jobs if job.estimated_time_seconds is not None]
    waiting = [job for job in jobs if job.status is JobStatus.PENDING]
    paused = waiting and all(job.estimated_time_seconds is None for job in waiting)
    return BatchView(
        batch_id=batch_id,
        total_jobs=len(jobs),
        jobs_by_status={status: sum(job.status is status for job in jobs) for status in JobStatus},
        progress=sum(1.0 if job.status.ended else job.progress for job in jobs) / len(jobs),
        estimated_time_seconds=None if paused else max(left, default=None),
        job_ids=[job.job_id for job in jobs],
        created_at=jobs[0].created_at,
    )


class BatchCancelResult(View):
    """The rest of a batch was cancelled."""

    message: str = "Batch cancelled successfully"
    batch_id: str
    job_ids: list[str] = Field(description="The jobs that were cancelled just now.")
    cancelled_at: Moment


class QueueStats(View):
    """The queue in six figures."""

    pending_jobs: int
    processing_jobs: int
    completed_jobs: int
    failed_jobs: int
    oldest_pending_job_age_seconds: float | None
    average_processing_time_seconds: float | None


class QueueState(View):
    """Whether jobs are started."""

    paused: bool
    paused_at: Moment | None = None


class HealthStatus(StrEnum):
    """`degraded`: a non-critical check fails. `unhealthy`: a critical one does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


CheckName = Literal["database", "gpu", "queue", "disk_space"]


class HealthCheck(View):
    """One check of the four."""

    name: CheckName
    status: HealthStatus
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class HealthReport(View):
    """All checks and their sum."""

    status: HealthStatus
    checks: dict[CheckName, HealthCheck]
    version: str
    uptime_seconds: float
    timestamp: Moment


def describe(error: ValidationError) -> list[tuple[str, str]]:
    """What is wrong with which field, in words: `[("requests.3.duration", "must be …")]`."""
    return [
        (".".join(str(part) for part in item["loc"]) or "request", item["msg"].removeprefix("Value error, "))
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
