"""Four checks and their sum. Knows what is healthy, not where the figures come from: callables are passed in.

The checks run side by side, each in a thread of its own, and one that hangs does not hold up the answer: who asks
meanwhile waits for the same thread, within the same bounds.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from studio.errors import StudioError
from studio.gpus import Gpu, nvidia_smi
from studio.schemas import CheckName, HealthCheck, HealthReport, HealthStatus, QueueState, QueueStats, utcnow
from studio.settings import Settings

logger = logging.getLogger(__name__)

PING_TIMEOUT_S = 1.5
CHECK_TIMEOUT_S = 2.0
GB = 1e9

HEALTHY, DEGRADED, UNHEALTHY = HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY


class Beat(Protocol):
    """What a worker last said of itself."""

    @property
    def device(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def slots(self) -> int: ...
    @property
    def silent_s(self) -> float: ...
    @property
    def alive(self) -> bool: ...


class Checkup:
    """The four checks of one studio. Thread-safe; one that hangs holds one thread, however often it is asked.

    Args:
        ping: runs a real query within the given seconds and returns how many it took.
        stats, workers, state: the queue's figures, its workers' last beats, and whether it is paused.
        gpus: the host's GPUs; the driver is asked when absent.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ping: Callable[[float], float],
        stats: Callable[[], QueueStats],
        workers: Callable[[], Sequence[Beat]],
        state: Callable[[], QueueState],
        version: str,
        gpus: Callable[[], list[Gpu]] | None = None,
    ) -> None:
        self._version = version
        self._checks: dict[CheckName, Callable[[], HealthCheck]] = {
            "database": lambda: _database(ping),
            "gpu": lambda: _gpu(settings, gpus or nvidia_smi),
            "queue": lambda: _queue(stats(), workers(), state()),
            "disk_space": lambda: _disk_space(settings),
        }
        self._looks: dict[CheckName, _Look] = {}
        self._lock = threading.Lock()

    def report(self, uptime_s: float) -> HealthReport:
        """Run all checks side by side; answers within `CHECK_TIMEOUT_S`."""
        looks = self._begin()
        deadline = time.monotonic() + CHECK_TIMEOUT_S
        for look in looks.values():
            look.join(max(0.0, deadline - time.monotonic()))
        late = f"No answer within {CHECK_TIMEOUT_S:g} s."
        checks = {name: look.result or _failed(name, late) for name, look in looks.items()}
        return HealthReport(
            status=_sum(checks),
            checks=checks,
            version=self._version,
            uptime_seconds=round(uptime_s, 1),
            timestamp=utcnow(),
        )

    def _begin(self) -> dict[CheckName, _Look]:
        """A look for each check: the one that is under way, or a new one."""
        with self._lock:
            for name, check in self._checks.items():
                if name not in self._looks or not self._looks[name].is_alive():
                    self._looks[name] = _Look(name, check)
                    self._looks[name].start()
            return dict(self._looks)


class _Look(threading.Thread):
    """One check, in a thread that may hang."""

    def __init__(self, check_name: CheckName, check: Callable[[], HealthCheck]) -> None:
        super().__init__(name=f"check-{check_name}", daemon=True)
        self._check_name = check_name
        self._check = check
        self.result: HealthCheck | None = None

    def run(self) -> None:
        try:
            self.result = self._check()
        except StudioError as error:
            self.result = _failed(self._check_name, str(error))
        except Exception:
            logger.exception("A health check failed: %s", self._check_name)
            self.result = _failed(self._check_name, "The check itself failed; the log says why.")


def _sum(checks: dict[CheckName, HealthCheck]) -> HealthStatus:
    found = {result.status for result in checks.values()}
    return next(status for status in (UNHEALTHY, DEGRADED, HEALTHY) if status in found)


def _failed(name: CheckName, message: str) -> HealthCheck:
    critical = name != "gpu"  # everything works without one, only slower
    return HealthCheck(name=name, status=UNHEALTHY if critical else DEGRADED, message=message)


def _database(ping: Callable[[float], float]) -> HealthCheck:
    seconds = ping(PING_TIMEOUT_S)
    details = {"latency_ms": round(seconds * 1000, 2)}
    return HealthCheck(name="database", status=HEALTHY, message="Connected", details=details)


def _gpu(settings: Settings, gpus: Callable[[], list[Gpu]]) -> HealthCheck:
    found = gpus()
    details: dict[str, Any] = {"device_count": len(found), "devices": [vars(gpu) for gpu in found]}
    if not found:
        status, message = DEGRADED, "No GPU: running on the CPU"
    elif settings.device == "cpu":
        status, message = DEGRADED, f"{found[0].name} is there, but DEVICE says cpu: running on the CPU"
    else:
        status, message = HEALTHY, f"{found[0].name} available"
    return HealthCheck(name="gpu", status=status, message=message, details=details)


def _queue(stats: QueueStats, workers: Sequence[Beat], state: QueueState) -> HealthCheck:
    alive = [worker for worker in workers if worker.alive]
    details = {
        "pending": stats.pending_jobs,
        "processing": stats.processing_jobs,
        "completed": stats.completed_jobs,
        "failed": stats.failed_jobs,
        "oldest_pending_age_seconds": stats.oldest_pending_job_age_seconds,
        "paused": state.paused,
        "workers_alive": len(alive),
        "slots": sum(worker.slots for worker in alive),
        "devices": sorted({worker.device for worker in alive if worker.device}),
        "models": sorted({worker.model for worker in alive if worker.model}),
    }
    if alive:
        plural = "" if stats.pending_jobs == 1 else "s"
        message = f"{stats.pending_jobs} pending job{plural}" + (", and the queue is paused" if state.paused else "")
        return HealthCheck(name="queue", status=HEALTHY, message=message, details=details)
    silence = min((worker.silent_s for worker in workers), default=None)
    since = "none has started" if silence is None else f"none has been heard of for {silence:.0f} s"
    return HealthCheck(name="queue", status=UNHEALTHY, message=f"No worker is alive: {since}", details=details)


def _disk_space(settings: Settings) -> HealthCheck:
    usage = shutil.disk_usage(_existing(settings.data_dir.resolve()))
    free_gb, total_gb, percent = usage.free / GB, usage.total / GB, 100 * usage.free / usage.total
    details = {"free_gb": round(free_gb, 1), "total_gb": round(total_gb, 1), "percent_free": round(percent, 1)}
    message = f"{free_gb:.1f}GB free ({percent:.1f}%)"
    if free_gb >= settings.min_free_disk_gb:
        return HealthCheck(name="disk_space", status=HEALTHY, message=message, details=details)
    message += f", less than the {settings.min_free_disk_gb:g}GB that are needed"
    return HealthCheck(name="disk_space", status=UNHEALTHY, message=message, details=details)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
