"""What Prometheus is told, by a real studio."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from studio import GenerationRequest, Settings, Studio
from studio.errors import DatabaseUnavailable, RateLimited
from studio.gpus import Gpu
from studio.metrics import Census, Metrics
from tests.fakes import load_sine
from tests.serving import served

Figures = dict[str, float]  # "name{label}" and its value


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path, "retry_delay_seconds": 0.05, **fields})


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(settings(tmp_path, max_retries=0, rate_limit_per_minute=1), load_sine) as studio:
        yield studio


def make(studio: Studio, prompt: str = "sad piano") -> str:
    """A job, ended."""
    job_id = studio.submit(GenerationRequest(prompt=prompt, duration=2.0)).job_id
    *_, last = studio.watch(job_id, timeout_s=60)
    assert last.status.ended
    return job_id


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def figures(text: bytes) -> Figures:
    return {
        sample.name + "".join(f"{{{value}}}" for name, value in sample.labels.items() if name in ("status", "step")):
            sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if "le" not in sample.labels
    }  # fmt: skip


def test_what_a_job_took_is_told(studio: Studio) -> None:
    job = studio.job(make(studio))
    until(lambda: figures(studio.metrics())["studio_audio_seconds_total"])  # the worker tells it after it has stored it
    seen = figures(studio.metrics())
    for step in ("queued", "loading_model", "encoding_prompt", "generating", "saving"):
        assert seen[f"studio_step_duration_seconds_count{{{step}}}"] == 1, step
    assert seen["studio_audio_seconds_total"] == pytest.approx(2.0)
    assert job.generation_time_seconds is not None
    assert seen["studio_decode_speed"] == pytest.approx(2.0 / job.generation_time_seconds, rel=0.01)


def test_jobs_are_counted_by_status_also_after_a_restart(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, max_retries=0), load_sine) as studio:
        make(studio)
        make(studio, "explode now")
        seen = figures(studio.metrics())
        assert seen["studio_workers_alive"] == 1
    again = Studio(settings(tmp_path), load_sine)
    again.start(work=False)
    waiting, cancelled = (again.submit(GenerationRequest(prompt="sad piano")).job_id for _ in range(2))
    again.cancel(cancelled)
    seen = figures(again.metrics())
    again.cancel(waiting)
    again.stop()
    counts = {name: value for name, value in seen.items() if name.startswith("studio_jobs")}
    assert counts == {
        "studio_jobs{pending}": 1,
        "studio_jobs{processing}": 0,
        "studio_jobs{completed}": 1,
        "studio_jobs{failed}": 1,
        "studio_jobs{cancelled}": 1,
    }
    assert seen["studio_queue_depth"] == 1
    assert 0 < seen["studio_queue_oldest_pending_age_seconds"] < 60
    assert seen["studio_workers_alive"] == 0


def test_a_paused_queue_and_how_long_a_job_waited_are_told(studio: Studio) -> None:
    studio.pause()
    assert figures(studio.metrics())["studio_queue_paused"] == 1
    job_id = studio.submit(GenerationRequest(prompt="sad piano", duration=1.0)).job_id
    time.sleep(0.3)
    studio.resume()
    assert figures(studio.metrics())["studio_queue_paused"] == 0
    *_, _last = studio.watch(job_id, timeout_s=60)
    assert 0.3 <= figures(studio.metrics())["studio_step_duration_seconds_sum{queued}"] < 30


def test_a_wait_for_a_retry_is_no_wait_in_the_queue(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, max_retries=2), load_sine) as studio:
        make(studio, "explode now")
        assert figures(studio.metrics())["studio_step_duration_seconds_count{queued}"] == 1


def test_each_gpus_memory_is_told_as_far_as_its_driver_tells() -> None:
    def away() -> Census:
        raise DatabaseUnavailable

    gpus = [Gpu("NVIDIA H200", 150.8, 100.0), Gpu("shares the host's", None, None)]
    text = Metrics("1.2.3", away, lambda: gpus).render().decode()
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    (used,), (total,) = families["studio_gpu_memory_used_bytes"], families["studio_gpu_memory_total_bytes"]
    assert used.labels == total.labels == {"gpu": "0", "name": "NVIDIA H200"}
    assert (used.value, total.value) == (pytest.approx(50.8e9), pytest.approx(150.8e9))
    assert "studio_gpu" not in Metrics("1.2.3", away).render().decode()


def test_refusals_are_counted(studio: Studio) -> None:
    studio.submit(GenerationRequest(prompt="sad piano"), client="203.0.113.9")
    for _ in range(2):
        with pytest.raises(RateLimited):
            studio.submit(GenerationRequest(prompt="sad piano"), client="203.0.113.9")
    assert figures(studio.metrics())["studio_rate_limit_refusals_total"] == 2


def test_two_studios_in_one_process_count_apart(studio: Studio, tmp_path: Path) -> None:
    make(studio)
    with Studio(settings(tmp_path / "other"), load_sine) as other:
        assert figures(other.metrics())["studio_audio_seconds_total"] == 0


def test_without_a_database_the_rest_is_still_told() -> None:
    def away() -> Census:
        raise DatabaseUnavailable

    seen = figures(Metrics("1.2.3", away).render())
    assert seen["studio_database_up"] == 0
    assert not [name for name in seen if name.startswith("studio_jobs")]
    assert seen["process_resident_memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_prometheus_scrapes_the_server(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        server.finish(server.ask())
        answer = server.http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert figures(answer.content)["studio_jobs{completed}"] == 1
        assert 'studio_build_info{python="' in answer.text
        assert server.http.get("/metrics", headers={"Host": "evil.example"}).status_code == 400
