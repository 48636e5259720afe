"""The examples in the documentation of the routes: instances of the models themselves, so they cannot go stale."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from studio.schemas import (
    AttemptView,
    BatchAccepted,
    BatchCancelResult,
    BatchView,
    CancelResult,
    ClipView,
    DeliveryStatus,
    DeliveryView,
    HealthCheck,
    HealthReport,
    HealthStatus,
    JobAccepted,
    JobAttempts,
    JobDeliveries,
    JobPage,
    JobStatus,
    JobView,
    Outcome,
    QueueState,
    QueueStats,
    Step,
    TrackInfo,
    View,
    WebhookEvent,
)

NOON = datetime(2026, 11, 7, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 7, 12, 0, 4, tzinfo=UTC)
JOB_ID = "gen_0f3c9a71d2b84e5690ab"
BATCH_ID = "batch_3c41d8e07b92fa65"
FILENAME = f"{JOB_ID}.wav"
REQUEST = {"prompt": "lo-fi hip hop beat to study to, 80 bpm", "duration": 8.0, "seed": 7}
BATCH = {
    "requests": [{"prompt": "trap beat with 808s", "duration": 16.0}, {"prompt": "lo-fi hip hop", "duration": 20.0}]
}


class FieldError(View):
    """One field that is wrong."""

    field: str
    message: str


class ErrorBody(View):
    """What every error looks like; `detail` where fields are wrong."""

    error: str
    detail: list[FieldError] | None = None


class Probe(View):
    """The answer to a probe."""

    status: str


ACCEPTED = JobAccepted(
    job_id=JOB_ID, status=JobStatus.PENDING, current_step=Step.QUEUED, estimated_time_seconds=4.2, created_at=NOON
)
BATCH_ACCEPTED = BatchAccepted(
    batch_id=BATCH_ID, job_ids=[JOB_ID, "gen_5be07d1c3a9f4e2286cd"], total_jobs=2, estimated_total_time_seconds=9.5
)
BATCH_VIEW = BatchView(
    batch_id=BATCH_ID, total_jobs=2, jobs_by_status=dict.fromkeys(JobStatus, 0) | {
        JobStatus.PROCESSING: 1, JobStatus.COMPLETED: 1,
    },
    progress=0.75, estimated_time_seconds=2.4, job_ids=BATCH_ACCEPTED.job_ids, created_at=NOON,
)  # fmt: skip
BATCH_CANCELLED = BatchCancelResult(batch_id=BATCH_ID, job_ids=BATCH_ACCEPTED.job_ids[1:], cancelled_at=LATER)
JOB = JobView(
    job_id=JOB_ID, status=JobStatus.COMPLETED, current_step=Step.COMPLETED, progress=1.0,
    prompt="lo-fi hip hop beat to study to, 80 bpm", model="musicgen-mini", duration=8.0, temperature=1.0, top_k=250,
    top_p=0.0, cfg_coef=3.0, seed=7, retry_count=0,
    queue_position=None, estimated_time_seconds=None, generation_time_seconds=1.8, file_url=f"/api/v1/files/{FILENAME}",
    metadata=TrackInfo(duration=8.0, sample_rate=32000, channels=1, file_size_bytes=512_044, format="wav"),
    created_at=NOON, started_at=NOON, completed_at=LATER,
)  # fmt: skip
CLIP_ID = "clip_7d10b4f29ce853a6e1f8"
CLIP = ClipView(
    clip_id=CLIP_ID, duration=12.5, sample_rate=44_100, channels=2, file_size_bytes=1_340_811, format="flac"
)
ATTEMPTS = JobAttempts(
    job_id=JOB_ID,
    attempts=[
        AttemptView(
            series=1, number=1, outcome=Outcome.FAILED, started_at=NOON, ended_at=LATER, seconds=4.0,
            error_message="The device has no memory left for this request.",
            stack_trace="Traceback (most recent call last):\n  …\n", worker_id="studio-4711-9f0c2b1d",
        )
    ],
)  # fmt: skip
DELIVERY_ID = "msg_5f1c20b98e7d43a6c0f2e914"
WEBHOOK = WebhookEvent(event="job.completed", delivery_id=DELIVERY_ID, sent_at=LATER, job=JOB)
DELIVERIES = JobDeliveries(
    job_id=JOB_ID,
    deliveries=[
        DeliveryView(
            delivery_id=DELIVERY_ID, event="job.completed", status=DeliveryStatus.PENDING, attempts=1,
            response_status=503, error_message="The receiver answered 503.", created_at=LATER, attempted_at=LATER,
            next_attempt_at=datetime(2026, 11, 7, 12, 0, 9, tzinfo=UTC),
        )
    ],
)  # fmt: skip
WAITING = JOB.model_copy(
    update={
        "status": JobStatus.PENDING, "current_step": Step.QUEUED, "progress": 0.0, "queue_position": 3,
        "estimated_time_seconds": 6.1, "generation_time_seconds": None, "file_url": None, "metadata": None,
        "started_at": None, "completed_at": None,
    }
)  # fmt: skip
FRONT = WAITING.model_copy(update={"queue_position": 1})
JOBS = JobPage(jobs=[JOB], total=1, page=1, page_size=20)
CANCELLED = CancelResult(job_id=JOB_ID, cancelled_at=LATER)
RUNNING, PAUSED = QueueState(paused=False), QueueState(paused=True, paused_at=NOON)
STATS = QueueStats(
    pending_jobs=5, processing_jobs=1, completed_jobs=42, failed_jobs=3,
    oldest_pending_job_age_seconds=120.5, average_processing_time_seconds=18.4,
)  # fmt: skip
HEALTH = HealthReport(
    status=HealthStatus.HEALTHY,
    checks={
        "database": HealthCheck(name="database", status=HealthStatus.HEALTHY, message="Connected"),
        "gpu": HealthCheck(
            name="gpu", status=HealthStatus.HEALTHY, message="NVIDIA A100 available", details={"device_count": 1}
        ),
        "queue": HealthCheck(
            name="queue", status=HealthStatus.HEALTHY, message="5 pending jobs",
            details={"pending": 5, "processing": 1, "completed": 42, "failed": 3, "workers_alive": 1, "slots": 4},
        ),
        "disk_space": HealthCheck(
            name="disk_space", status=HealthStatus.HEALTHY, message="45.2GB free (72.3%)",
            details={"free_gb": 45.2, "total_gb": 62.5, "percent_free": 72.3},
        ),
    },
    version="0.1.0", uptime_seconds=3600.5, timestamp=NOON,
)  # fmt: skip
UNHEALTHY = HEALTH.model_copy(
    update={
        "status": HealthStatus.UNHEALTHY,
        "checks": HEALTH.checks
        | {
            "database": HealthCheck(
                name="database", status=HealthStatus.UNHEALTHY, message="The database does not answer."
            )
        },
    }
)
READY, NOT_READY, LIVE = (Probe(status=word) for word in ("ready", "not ready", "live"))

ERRORS = {
    404: ErrorBody(error=f"There is no job '{JOB_ID}'."),
    409: ErrorBody(error="The job has already ended."),
    413: ErrorBody(error="The body has more than 1000 kB."),
    416: ErrorBody(error="The file has 512044 bytes; none of them is in that range."),
    422: ErrorBody(
        error="duration: Input should be less than or equal to 30",
        detail=[FieldError(field="duration", message="Input should be less than or equal to 30")],
    ),
    429: ErrorBody(error="Rate limit exceeded"),
    503: ErrorBody(error="The database does not answer."),
}
SILENT = ErrorBody(error="The job waits: there is nothing to hear yet. Ask again.")
MEANINGS = {
    404: "There is no such job, batch or file.",
    409: "The job, or the batch, is in a state that does not allow this.",
    413: "The body is too large.",
    416: "No byte of the file is in the range.",
    422: "The request is not valid; `detail` names each field that is wrong.",
    429: "Too many requests; `Retry-After` says in how many seconds the same request is accepted.",
    503: "The studio cannot serve this now.",
}


def answers(status: int, meaning: str, example: BaseModel, *errors: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` of a route: its success and its errors, each with an example."""
    return {
        status: {"description": meaning, "content": _content(example)},
        **{
            error: {"model": ErrorBody, "description": MEANINGS[error], "content": _content(ERRORS[error])}
            for error in errors
        },
    }


def _content(example: BaseModel) -> dict[str, Any]:
    brief = isinstance(example, ErrorBody)
    return {"application/json": {"example": example.model_dump(mode="json", exclude_none=brief)}}
