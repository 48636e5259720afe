"""Health: four checks, their sum, and an answer in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from studio import health
from studio.errors import DatabaseUnavailable
from studio.gpus import Gpu, nvidia_smi
from studio.health import Beat, Checkup
from studio.schemas import HealthReport, HealthStatus, QueueState, QueueStats, utcnow
from studio.settings import Settings

A100 = Gpu("NVIDIA A100", 85.0, 80.0)


@dataclass(frozen=True)
class Worker:
    silent_s: float = 1.0
    alive: bool = True
    device: str | None = "cuda:0"
    model: str | None = "musicgen-mini"
    slots: int = 4


def checkup(
    tmp_path: Path,
    *,
    ping: Callable[[float], float] = lambda timeout_s: 0.001,
    stats: Callable[[], QueueStats] | None = None,
    workers: Callable[[], Sequence[Beat]] = lambda: [Worker()],
    state: Callable[[], QueueState] = lambda: QueueState(paused=False, paused_at=None),
    gpus: Callable[[], list[Gpu]] = lambda: [A100],
    **settings: object,
) -> Checkup:
    return Checkup(
        Settings.model_validate({"data_dir": tmp_path, "min_free_disk_gb": 0, **settings}),
        ping=ping, stats=stats or five_pending, workers=workers, state=state, version="0.1.0", gpus=gpus,
    )  # fmt: skip


def answer(tmp_path: Path, **given: Any) -> HealthReport:
    return checkup(tmp_path, **given).report(uptime_s=1.25)


def five_pending() -> QueueStats:
    return QueueStats(
        pending_jobs=5, processing_jobs=1, completed_jobs=42, failed_jobs=3,
        oldest_pending_job_age_seconds=120.5, average_processing_time_seconds=18.4,
    )  # fmt: skip


@pytest.fixture
def forever() -> Iterator[Callable[..., float]]:
    """A call that hangs until the test is over."""
    over = threading.Event()

    def hang(*_: object) -> float:
        over.wait()
        return 0.0

    yield hang
    over.set()


def test_all_is_well(tmp_path: Path) -> None:
    report = answer(tmp_path)
    assert report.status is HealthStatus.HEALTHY
    assert set(report.checks) == {"database", "gpu", "queue", "disk_space"}
    assert all(name == check.name for name, check in report.checks.items())
    assert report.checks["database"].message == "Connected"
    assert report.checks["gpu"].message == "NVIDIA A100 available"
    assert report.checks["queue"].message == "5 pending jobs"
    assert "GB free (" in report.checks["disk_space"].message
    assert (report.version, report.uptime_seconds) == ("0.1.0", 1.2)
    assert report.model_dump(mode="json")["timestamp"].endswith("Z")


def test_the_details_have_the_documented_figures(tmp_path: Path) -> None:
    checks = answer(tmp_path).checks
    assert checks["gpu"].details["device_count"] == 1
    assert checks["gpu"].details["devices"][0] == {
        "name": "NVIDIA A100", "memory_total_gb": 85.0, "memory_free_gb": 80.0, "busy_percent": None,
    }  # fmt: skip
    queue = checks["queue"].details
    assert [queue[key] for key in ("pending", "processing", "completed", "failed")] == [5, 1, 42, 3]
    assert (queue["oldest_pending_age_seconds"], queue["workers_alive"], queue["slots"]) == (120.5, 1, 4)
    assert set(checks["disk_space"].details) == {"free_gb", "total_gb", "percent_free"}


def test_a_cpu_is_degraded_and_says_so(tmp_path: Path) -> None:
    report = answer(tmp_path, gpus=list)
    assert report.status is report.checks["gpu"].status is HealthStatus.DEGRADED
    assert report.checks["gpu"].message == "No GPU: running on the CPU"
    assert report.checks["gpu"].details["device_count"] == 0


def test_a_gpu_that_the_settings_leave_idle_is_degraded(tmp_path: Path) -> None:
    assert answer(tmp_path, device="cpu").checks["gpu"].status is HealthStatus.DEGRADED


def test_a_database_that_is_down_is_unhealthy(tmp_path: Path) -> None:
    def down(timeout_s: float) -> float:
        raise DatabaseUnavailable("The database does not answer: connection refused")

    report = answer(tmp_path, ping=down)
    assert report.status is HealthStatus.UNHEALTHY
    assert "connection refused" in report.checks["database"].message


@pytest.mark.parametrize(("check", "status"), [("ping", "unhealthy"), ("stats", "unhealthy"), ("gpus", "degraded")])
def test_a_check_that_hangs_does_not_hold_up_the_answer(
    tmp_path: Path, forever: Callable[..., float], check: str, status: str
) -> None:
    start = time.monotonic()
    report = answer(tmp_path, **{check: forever})
    assert time.monotonic() - start < 2 * health.CHECK_TIMEOUT_S
    assert report.status == status


def test_a_check_that_hangs_holds_one_thread_however_often_it_is_asked(
    tmp_path: Path, forever: Callable[..., float]
) -> None:
    hanging = checkup(tmp_path, ping=forever, stats=forever)  # type: ignore[arg-type]
    many = [threading.Thread(target=hanging.report, args=[1.0]) for _ in range(8)]
    start = time.monotonic()
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert hanging.report(1.0).checks["disk_space"].status is HealthStatus.HEALTHY
    assert time.monotonic() - start < 4 * health.CHECK_TIMEOUT_S
    names = [thread.name for thread in threading.enumerate()]
    assert (names.count("check-database"), names.count("check-queue")) == (1, 1)


def test_a_check_that_hung_is_asked_again_when_it_has_come_back(tmp_path: Path) -> None:
    over = threading.Event()
    hanging = checkup(tmp_path, ping=lambda timeout_s: float(over.wait()))
    assert hanging.report(1.0).status is HealthStatus.UNHEALTHY
    over.set()
    assert hanging.report(1.0).status is HealthStatus.HEALTHY


@pytest.mark.parametrize("silent_s", [None, 31.0])
def test_a_queue_without_a_living_worker_is_unhealthy(tmp_path: Path, silent_s: float | None) -> None:
    workers = [] if silent_s is None else [Worker(silent_s, alive=False)]
    report = answer(tmp_path, workers=lambda: workers)
    assert report.status is report.checks["queue"].status is HealthStatus.UNHEALTHY
    assert report.checks["queue"].message.startswith("No worker is alive")


def test_one_living_worker_is_enough(tmp_path: Path) -> None:
    workers = [Worker(3600.0, alive=False), Worker()]
    assert answer(tmp_path, workers=lambda: workers).checks["queue"].status is HealthStatus.HEALTHY


def test_a_paused_queue_is_healthy_and_says_so(tmp_path: Path) -> None:
    report = answer(tmp_path, state=lambda: QueueState(paused=True, paused_at=utcnow()))
    check = report.checks["queue"]
    assert (report.status, check.message) == (HealthStatus.HEALTHY, "5 pending jobs, and the queue is paused")
    assert check.details["paused"] is True


def test_a_full_disk_is_unhealthy(tmp_path: Path) -> None:
    report = answer(tmp_path / "not" / "made" / "yet", min_free_disk_gb=1e9)
    assert report.status is report.checks["disk_space"].status is HealthStatus.UNHEALTHY


def test_a_check_that_breaks_is_reported_without_its_internals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> QueueStats:
        raise RuntimeError("secret")

    report = answer(tmp_path, stats=broken)
    assert report.checks["queue"].status is HealthStatus.UNHEALTHY
    assert "secret" not in report.model_dump_json()
    assert "secret" in caplog.text


def test_the_drivers_tool_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 143157, 12'\necho 'NVIDIA GB10, [N/A], [N/A], [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert nvidia_smi() == [Gpu("NVIDIA H200", 150.8, 150.1, 12.0), Gpu("NVIDIA GB10", None, None)]
    for answer in ("echo 'NVIDIA-SMI has failed'; exit 9", "echo 'No devices were found'"):
        tool.write_text(f"#!/bin/sh\n{answer}\n")
        assert nvidia_smi() == []
    tool.write_text("#!/bin/sh\nprintf 'NVIDIA \\377, [N/A], [N/A], 5\\n'\n")
    assert nvidia_smi() == [Gpu("NVIDIA \ufffd", None, None, 5.0)]
    monkeypatch.setenv("PATH", "/nowhere")
    assert nvidia_smi() == []
