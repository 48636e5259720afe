"""The studio's figures for Prometheus. Counts of jobs come from the rows at each scrape, so a restart does not change
them; what happens is counted here by whoever observes it, in this process and since its start.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from studio.errors import StudioError
from studio.gpus import Gpu
from studio.schemas import DeliveryStatus, JobStatus, Step

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
GB = 1e9


@dataclass(frozen=True)
class Census:
    """The rows at one moment."""

    jobs: Mapping[JobStatus, int]
    oldest_pending_age_s: float | None
    paused: bool
    workers_alive: int
    webhooks_waiting: int


class Metrics:
    """Everything that `/metrics` shows. Thread-safe.

    Args:
        version: the studio's.
        census: counts the rows; raises StudioError when the database does not answer, in bounded time.
        gpus: the GPUs of this machine as they were last seen, at once.
    """

    def __init__(self, version: str, census: Callable[[], Census], gpus: Callable[[], Sequence[Gpu]] = tuple) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Rows(census))
        self._registry.register(_Gpus(gpus))
        self._steps = self._histogram(
            "step_duration_seconds", "How long a step of a job took; `queued` is its first wait.", ("step",)
        )
        self._audio = self._counter("audio_seconds", "Seconds of audio that were made.")
        self._speed = Gauge(
            "studio_decode_speed", "Seconds of audio per second, of the last job.", registry=self._registry
        )
        self._refusals = self._counter("rate_limit_refusals", "Requests that the rate limit refused.")
        self._webhooks = Counter(
            "studio_webhook_attempts", "Attempts at webhooks; `pending` ones failed and are tried again.", ("outcome",),
            registry=self._registry,
        )  # fmt: skip
        memory = Gauge("process_resident_memory_bytes", "Memory of this process.", registry=self._registry)
        memory.set_function(lambda: psutil.Process().memory_info().rss)
        build = Info("studio_build", "What runs here.", registry=self._registry)
        build.info({"version": version, "python": platform.python_version()})

    def render(self) -> bytes:
        """The figures in Prometheus's text format."""
        return generate_latest(self._registry)

    # What is observed

    def step_ended(self, step: Step, seconds: float) -> None:
        """A job has gone through a step."""
        self._steps.labels(step.value).observe(seconds)

    def track_made(self, audio_s: float, took_s: float) -> None:
        """A job's audio is done, `took_s` after it was admitted to a slot."""
        self._audio.inc(audio_s)
        self._speed.set(audio_s / max(took_s, 1e-6))

    def refused(self) -> None:
        """The rate limit refused a request."""
        self._refusals.inc()

    def webhook_attempted(self, outcome: DeliveryStatus) -> None:
        """A webhook was delivered, given up, or is to be tried again."""
        self._webhooks.labels(outcome.value).inc()

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"studio_{name}", what, registry=self._registry)

    def _histogram(self, name: str, what: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"studio_{name}", what, labels, registry=self._registry, buckets=STEP_BUCKETS_S)


class _Rows:
    """A collector: looks at the rows whenever somebody scrapes."""

    def __init__(self, census: Callable[[], Census]) -> None:
        self._census = census

    def describe(self) -> list[Metric]:
        """Nothing: registering does not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Without a database, only that it does not answer."""
        try:
            census = self._census()
        except StudioError:
            yield GaugeMetricFamily("studio_database_up", "Whether the database answers.", value=0)
            return
        yield GaugeMetricFamily("studio_database_up", "Whether the database answers.", value=1)
        jobs = GaugeMetricFamily("studio_jobs", "Jobs in the database, by status.", labels=["status"])
        for status in JobStatus:
            jobs.add_metric([status.value], census.jobs[status])
        yield jobs
        pending = census.jobs[JobStatus.PENDING]
        yield GaugeMetricFamily("studio_queue_depth", "Jobs that wait, also for a retry.", value=pending)
        yield GaugeMetricFamily(
            "studio_queue_oldest_pending_age_seconds", "How long the longest waiting job has waited; 0 when none does.",
            value=census.oldest_pending_age_s or 0.0,
        )  # fmt: skip
        yield GaugeMetricFamily("studio_queue_paused", "Whether the queue is paused.", value=census.paused)
        yield GaugeMetricFamily("studio_workers_alive", "Workers that have beaten lately.", value=census.workers_alive)
        yield GaugeMetricFamily("studio_webhooks_waiting", "Webhooks to deliver.", value=census.webhooks_waiting)


class _Gpus:
    """A collector: the memory of each GPU, as its driver tells it; nothing where there is none."""

    def __init__(self, gpus: Callable[[], Sequence[Gpu]]) -> None:
        self._gpus = gpus

    def collect(self) -> Iterator[Metric]:
        """In use by whomever, and there is."""
        used = GaugeMetricFamily("studio_gpu_memory_used_bytes", "GPU memory in use.", labels=["gpu", "name"])
        total = GaugeMetricFamily("studio_gpu_memory_total_bytes", "GPU memory that there is.", labels=["gpu", "name"])
        for number, gpu in enumerate(self._gpus()):
            if gpu.memory_total_gb is not None and gpu.memory_used_gb is not None:
                labels = [str(number), gpu.name]
                used.add_metric(labels, gpu.memory_used_gb * GB)
                total.add_metric(labels, gpu.memory_total_gb * GB)
        yield from (family for family in (used, total) if family.samples)
