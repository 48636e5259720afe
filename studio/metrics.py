"""The studio's figures for Prometheus. Counts of jobs come from the rows at each scrape, so a restart does not change
them; what happens is counted here by whoever observes it, in this process and since its start.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from studio.errors import StudioError
from studio.schemas import JobStatus, Step

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True)
class Census:
    """The rows at one moment."""

    jobs: Mapping[JobStatus, int]
    oldest_pending_age_s: float | None
    workers_alive: int


class Metrics:
    """Everything that `/metrics` shows. Thread-safe.

    Args:
        version: the studio's.
        census: counts the rows; raises StudioError when the database does not answer, in bounded time.
    """

    def __init__(self, version: str, census: Callable[[], Census]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Rows(census))
        self._steps = self._histogram("step_duration_seconds", "How long a step of a job took.", ("step",))
        self._audio = self._counter("audio_seconds", "Seconds of audio that were made.")
        self._speed = Gauge(
            "studio_decode_speed", "Seconds of audio per second, of the last job.", registry=self._registry
        )
        self._refusals = self._counter("rate_limit_refusals", "Requests that the rate limit refused.")
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
        yield GaugeMetricFamily("studio_workers_alive", "Workers that have beaten lately.", value=census.workers_alive)
