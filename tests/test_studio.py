"""The facade with a real queue, worker and files; only the engine is small."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import soundfile

from studio import BatchRequest, GenerationRequest, Settings, Studio
from studio.audio import loudness
from studio.audio.files import read_recipe
from studio.engine.base import Event, Finished, LoadProgress
from studio.errors import (
    DownloadError,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    ModelNotFound,
    OutOfMemory,
    RateLimited,
)
from studio.schemas import HealthStatus, JobStatus, JobView, Step
from tests.conftest import PostgresServer
from tests.fakes import SineEngine, load_sine
from tests.serving import load_slow


def ask(prompt: str = "sad piano", **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": prompt, "duration": 1.0, **fields})


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path, "retry_delay_seconds": 0.05, **fields})


def finish(studio: Studio, job_id: str) -> JobView:
    *_, last = studio.watch(job_id, timeout_s=60)
    assert last.status.ended, last
    return last


def until(condition: object, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(settings(tmp_path), load_sine) as studio:
        yield studio


@pytest.fixture
def slow_studio(tmp_path: Path) -> Iterator[Studio]:
    """Decodes a second of audio in a second, one job at a time."""

    with Studio(settings(tmp_path), load_slow) as studio:
        yield studio


def test_a_prompt_becomes_a_file_with_its_recipe(studio: Studio) -> None:
    accepted = studio.submit(ask(seed=7, duration=2.5))
    job = finish(studio, accepted.job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.current_step is Step.COMPLETED
    assert job.progress == 1.0
    assert job.file_url is not None
    assert job.metadata is not None
    assert job.metadata.duration == pytest.approx(2.5)
    path = studio.track_path(Path(job.file_url).name)
    assert soundfile.info(path).duration == pytest.approx(2.5)
    assert path.stat().st_size == job.metadata.file_size_bytes
    recipe = read_recipe(path)
    assert (recipe["prompt"], recipe["seed"], recipe["model"]) == ("sad piano", 7, "musicgen-mini")


def test_the_same_request_gives_the_same_bytes(studio: Studio) -> None:
    first, second, other = (finish(studio, studio.submit(ask(seed=seed)).job_id) for seed in (5, 5, 6))
    files = [studio.track_path(Path(str(job.file_url)).name).read_bytes() for job in (first, second, other)]
    assert files[0] == files[1] != files[2]


def test_a_drawn_seed_and_the_default_model_are_reported(studio: Studio) -> None:
    job = studio.job(studio.submit(ask()).job_id)
    assert job.model == "musicgen-mini"
    assert job.seed >= 0


def test_steps_come_in_order_and_progress_never_falls(slow_studio: Studio) -> None:
    views = list(slow_studio.watch(slow_studio.submit(ask(duration=1.5)).job_id, timeout_s=60))
    order = list(Step)
    steps = [order.index(view.current_step) for view in views]
    assert steps == sorted(steps)
    assert [view.progress for view in views] == sorted(view.progress for view in views)
    assert len({view.progress for view in views if view.current_step is Step.GENERATING}) >= 3


def test_a_failed_attempt_is_tried_again_and_then_fails_for_good(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, max_retries=2), load_sine) as studio:
        job = finish(studio, studio.submit(ask("explode now")).job_id)
    assert job.status is JobStatus.FAILED
    assert job.retry_count == 2
    assert job.error_message == "RuntimeError: the engine exploded"


def test_a_waiting_retry_does_not_hold_up_other_jobs(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, retry_delay_seconds=60), load_sine) as studio:
        bad = studio.submit(ask("explode now")).job_id
        until(lambda: studio.job(bad).retry_count == 1)
        assert finish(studio, studio.submit(ask()).job_id).status is JobStatus.COMPLETED
        assert studio.job(bad).status is JobStatus.PENDING
        studio.cancel(bad)
        assert studio.job(bad).status is JobStatus.CANCELLED


def test_an_error_that_cannot_heal_fails_at_once(tmp_path: Path) -> None:
    def load(model: str, progress: LoadProgress) -> SineEngine:
        raise ModelNotFound("It is gone.")

    with Studio(settings(tmp_path), load) as studio:
        job = finish(studio, studio.submit(ask()).job_id)
    assert (job.status, job.retry_count, job.error_message) == (JobStatus.FAILED, 0, "It is gone.")


def test_a_download_that_breaks_is_tried_again(tmp_path: Path) -> None:
    tries = []

    def load(model: str, progress: LoadProgress) -> SineEngine:
        tries.append(model)
        if len(tries) < 3:
            raise DownloadError
        return load_sine(model, progress)

    with Studio(settings(tmp_path), load) as studio:
        job = finish(studio, studio.submit(ask()).job_id)
    assert (job.status, job.retry_count) == (JobStatus.COMPLETED, 2)


class CrampedEngine(SineEngine):
    """Four slots, and memory for two."""

    def step(self) -> list[Event]:
        if self.slots - self.free_slots > 2:
            raise OutOfMemory
        return super().step()


def test_when_memory_runs_out_fewer_requests_are_decoded_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "studio.worker")
    with Studio(settings(tmp_path), lambda model, progress: CrampedEngine(model, slots=4)) as studio:
        jobs = [finish(studio, job_id) for job_id in studio.submit_batch(BatchRequest(requests=[ask()] * 6)).job_ids]
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}
        assert max(job.retry_count for job in jobs) == 1
        assert seen_slots(tmp_path) == 2
        assert sum("fewer requests together" in message for message in caplog.messages) == 1
        for job_id in studio.submit_batch(BatchRequest(requests=[ask()] * 8)).job_ids:
            assert finish(studio, job_id).status is JobStatus.COMPLETED
    assert any("One more request together" in message for message in caplog.messages), "it is tried again"


def seen_slots(data_dir: Path) -> int:
    with sqlite3.connect(data_dir / "studio.db") as connection:
        (row,) = connection.execute("SELECT slots FROM workers").fetchall()
    connection.close()
    return int(row[0])


def test_a_switch_of_models_waits_for_the_slots(tmp_path: Path) -> None:
    loaded: list[SineEngine] = []

    def load(model: str, progress: LoadProgress) -> SineEngine:
        assert all(engine.closed and engine.free_slots == engine.slots for engine in loaded)
        loaded.append(SineEngine(model, slots=2, step_s=0.01))
        return loaded[-1]

    with Studio(settings(tmp_path), load) as studio:
        models = ["musicgen-mini", "musicgen-mini", "musicgen-small", "musicgen-mini", "musicgen-small"]
        jobs = [studio.submit(ask(model=model)).job_id for model in models]
        assert [finish(studio, job).model for job in jobs] == models
    assert {engine.model for engine in loaded} == set(models)


def test_cancelling_a_waiting_job_keeps_it_from_ever_running(slow_studio: Studio) -> None:
    running = slow_studio.submit(ask(duration=2.0)).job_id
    waiting = slow_studio.submit(ask()).job_id
    assert slow_studio.cancel(waiting).job_id == waiting
    assert finish(slow_studio, running).status is JobStatus.COMPLETED
    job = slow_studio.job(waiting)
    assert (job.status, job.current_step, job.file_url) == (JobStatus.CANCELLED, Step.CANCELLED, None)


def test_a_running_job_is_cancelled_only_by_force(slow_studio: Studio) -> None:
    job_id = slow_studio.submit(ask(duration=30.0)).job_id
    until(lambda: slow_studio.job(job_id).current_step is Step.GENERATING)
    with pytest.raises(JobConflict):
        slow_studio.cancel(job_id)
    slow_studio.cancel(job_id, force=True)
    assert slow_studio.job(job_id).status is JobStatus.CANCELLED
    assert finish(slow_studio, slow_studio.submit(ask()).job_id).status is JobStatus.COMPLETED  # its slot is free
    assert slow_studio.job(job_id).file_url is None
    with pytest.raises(JobConflict):
        slow_studio.cancel(job_id, force=True)


def test_a_person_retries_a_job_that_failed(tmp_path: Path) -> None:
    broken = True

    def load(model: str, progress: LoadProgress) -> SineEngine:
        if broken:
            raise ModelNotFound("It is gone.")
        return load_sine(model, progress)

    with Studio(settings(tmp_path, rate_limit_per_minute=2), load) as studio:
        job_id = studio.submit(ask(), client="203.0.113.9").job_id
        assert finish(studio, job_id).status is JobStatus.FAILED
        broken = False
        job = studio.retry(job_id, client="203.0.113.9")
        assert (job.status, job.error_message, job.queue_position) == (JobStatus.PENDING, None, 1)
        assert finish(studio, job_id).status is JobStatus.COMPLETED
        with pytest.raises(JobConflict, match="completed"):
            studio.retry(job_id, client="203.0.113.9")
        with pytest.raises(RateLimited):
            studio.submit(ask(), client="203.0.113.9")


def test_a_job_cancelled_and_retried_at_once_is_made_once_more(slow_studio: Studio) -> None:
    job_id = slow_studio.submit(ask(duration=1.0)).job_id
    for _ in range(3):
        until(lambda: slow_studio.job(job_id).current_step is Step.GENERATING)
        slow_studio.cancel(job_id, force=True)
        slow_studio.retry(job_id)
    job = finish(slow_studio, job_id)
    assert (job.status, job.retry_count) == (JobStatus.COMPLETED, 0)
    assert slow_studio.track_path(Path(str(job.file_url)).name).exists()


def test_unknown_jobs_models_and_files_are_named(studio: Studio) -> None:
    with pytest.raises(JobNotFound, match="gen_nothing"):
        studio.job("gen_nothing")
    with pytest.raises(JobNotFound):
        studio.cancel("gen_nothing")
    with pytest.raises(InvalidRequest, match=r"^model: .*musicgen-mini"):
        studio.submit(ask(model="musicgen-tiny"))
    for name in (".", "..", "../studio.db", "x" * 300, "nul\0", "gen_nothing.wav", ""):
        with pytest.raises(JobNotFound):
            studio.track_path(name)


def test_a_symbolic_link_is_not_served(studio: Studio) -> None:
    job = finish(studio, studio.submit(ask()).job_id)
    path = studio.track_path(Path(str(job.file_url)).name)
    path.rename(path.with_suffix(".away"))
    path.symlink_to("/etc/hostname")
    with pytest.raises(JobNotFound):
        studio.track_path(path.name)


def test_a_batch_is_stored_whole_or_not_at_all(studio: Studio) -> None:
    good, bad = ask(), ask(model="no-such-model")
    with pytest.raises(InvalidRequest, match=r"^requests\.1\.model: There is no model 'no-such-model'"):
        studio.submit_batch(BatchRequest(requests=[good, bad]))
    assert studio.jobs().total == 0
    accepted = studio.submit_batch(BatchRequest(requests=[good, good, good]))
    assert accepted.total_jobs == len(set(accepted.job_ids)) == 3
    assert {finish(studio, job_id).status for job_id in accepted.job_ids} == {JobStatus.COMPLETED}


def test_clients_are_limited_and_a_refused_request_leaves_no_row(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, rate_limit_per_minute=3), load_sine) as studio:
        studio.submit_batch(BatchRequest(requests=[ask(), ask()]), client="203.0.113.9")
        studio.submit(ask(), client="203.0.113.9")
        with pytest.raises(RateLimited, match="Rate limit exceeded") as refusal:
            studio.submit(ask(), client="203.0.113.9")
        assert 1 <= refusal.value.retry_after_s <= 60
        with pytest.raises(InvalidRequest):
            studio.submit_batch(BatchRequest(requests=[ask()] * 4), client="203.0.113.9")
        assert studio.jobs().total == 3


def test_jobs_are_listed_newest_first_in_pages(studio: Studio) -> None:
    ids = [studio.submit(ask()).job_id for _ in range(5)]
    for job_id in ids:
        finish(studio, job_id)
    page = studio.jobs(page=2, page_size=2)
    assert (page.total, [job.job_id for job in page.jobs]) == (5, [ids[2], ids[1]])
    assert studio.jobs(status=JobStatus.FAILED).total == 0


def test_the_estimate_is_learned_and_counts_the_queue_ahead(slow_studio: Studio) -> None:
    took = finish(slow_studio, slow_studio.submit(ask(duration=2.0)).job_id).generation_time_seconds
    first, second = (slow_studio.submit(ask(duration=2.0)).job_id for _ in range(2))
    own = slow_studio.job(first).estimated_time_seconds
    queued = slow_studio.job(second).estimated_time_seconds
    assert took is not None
    assert own == pytest.approx(took, rel=0.5)
    assert queued == pytest.approx(2 * took, rel=0.5)


def test_a_stop_hands_unfinished_jobs_back(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, shutdown_seconds=0.2), load_slow) as studio:
        job_id = studio.submit(ask(duration=30.0)).job_id
        until(lambda: studio.job(job_id).current_step is Step.GENERATING)
    with Studio(settings(tmp_path), load_sine) as studio:
        job = finish(studio, job_id)
    assert (job.status, job.retry_count) == (JobStatus.COMPLETED, 0)


def test_a_stop_hands_back_a_job_whose_model_still_loads(tmp_path: Path) -> None:
    loading, over = threading.Event(), threading.Event()

    def load(model: str, progress: LoadProgress) -> SineEngine:
        loading.set()
        over.wait()  # a file of some gigabytes, say
        return load_sine(model, progress)

    with Studio(settings(tmp_path, shutdown_seconds=0), load) as studio:
        job_id = studio.submit(ask()).job_id
        loading.wait()
    assert _status(tmp_path, job_id) == "pending"
    over.set()
    with Studio(settings(tmp_path), load_sine) as studio:
        assert finish(studio, job_id).retry_count == 0


def test_no_job_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(loudness, "prepare", over.wait)
    with Studio(settings(tmp_path), load_sine) as studio:
        assert finish(studio, studio.submit(ask()).job_id).status is JobStatus.COMPLETED
        over.set()


def test_a_job_keeps_its_lease_while_its_prompt_is_read(tmp_path: Path) -> None:
    class Slow(SineEngine):
        def admit(self, key: str, request: GenerationRequest) -> None:
            time.sleep(2.0)
            super().admit(key, request)

    with Studio(settings(tmp_path, lease_seconds=1), lambda model, progress: Slow(model)) as studio:
        job = finish(studio, studio.submit(ask()).job_id)
    assert (job.status, job.error_message) == (JobStatus.COMPLETED, None)


def test_an_engine_that_breaks_is_replaced(tmp_path: Path) -> None:
    class Broken(SineEngine):
        """As after an illegal access on a GPU: nothing works any more."""

        def step(self) -> list[Event]:
            raise RuntimeError("an illegal memory access was encountered")

        def evict(self, key: str) -> None:
            raise RuntimeError("an illegal memory access was encountered")

        def close(self) -> None:
            raise RuntimeError("an illegal memory access was encountered")

    engines = iter([Broken(), SineEngine()])
    with Studio(settings(tmp_path), lambda model, progress: next(engines)) as studio:
        jobs = [finish(studio, job_id) for job_id in studio.submit_batch(BatchRequest(requests=[ask()] * 2)).job_ids]
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}


@pytest.mark.postgres
def test_a_database_that_is_away_for_a_moment_costs_no_job(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url = postgres_server.create()
    made = threading.Event()

    class Watched(SineEngine):
        def step(self) -> list[Event]:
            events = super().step()
            if any(isinstance(event, Finished) for event in events):
                made.set()
            return events

    with Studio(
        settings(tmp_path, database_url=url, max_retries=0), lambda model, progress: Watched(model, step_s=0.1)
    ) as studio:
        job_id = studio.submit(ask(duration=1.5)).job_id
        until(lambda: studio.job(job_id).current_step is Step.GENERATING)
        with postgres_server.away(url):
            assert made.wait(60), "it is decoded meanwhile"
            time.sleep(1.0)
        job = finish(studio, job_id)
        assert (job.status, job.retry_count) == (JobStatus.COMPLETED, 0)
        assert [row.outcome for row in studio.attempts(job_id).attempts] == ["completed"]


@pytest.mark.postgres
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_server_with_another_clock_knows_its_workers(
    tmp_path: Path, postgres_server: PostgresServer, hours: int
) -> None:
    url = postgres_server.create()
    postgres_server.set_clock_ahead(url, hours)
    with Studio(settings(tmp_path, database_url=url), load_sine) as studio:
        (worker,) = studio.workers()
        assert worker.alive
        assert worker.silent_s < 30
        assert studio.health().checks["queue"].status is HealthStatus.HEALTHY


def test_a_living_workers_job_survives_that_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process looks after the jobs of dead workers, and psutil tells when a process started as a date."""
    with Studio(settings(tmp_path), load_slow) as studio:
        job_id = studio.submit(ask(duration=2.0)).job_id
        until(lambda: studio.job(job_id).current_step is Step.GENERATING)
        told = psutil.boot_time()
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: told + 3600)
        other = Studio(settings(tmp_path), load_sine)
        assert other.start(work=False).interrupted == []
        other.stop()
        assert finish(studio, job_id).status is JobStatus.COMPLETED


CRASHING = """
import sys, time
from studio import GenerationRequest, Settings, Studio
from tests.fakes import SineEngine
studio = Studio(Settings(data_dir=sys.argv[1]), lambda model, progress: SineEngine(model, slots=1, step_s=0.1))
studio.start()
for _ in range(3):
    print(studio.submit(GenerationRequest(prompt="sad piano", duration=30.0)).job_id, flush=True)
time.sleep(60)
"""


def test_after_kill_9_waiting_jobs_run_and_the_interrupted_one_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "studio")
    process = subprocess.Popen([sys.executable, "-c", CRASHING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first, second, third = (process.stdout.readline().strip() for _ in range(3))
    until(lambda: _status(tmp_path, first) == "processing")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    studio = Studio(settings(tmp_path), load_sine)
    started = studio.start()
    try:
        assert (started.pending, started.interrupted) == (2, [first])
        (said,) = [record for record in caplog.records if record.message == "Queue recovered"]
        assert (vars(said)["waiting"], vars(said)["interrupted"]) == (2, 1)
        job = studio.job(first)
        assert job.status is JobStatus.FAILED
        assert "worker stopped" in str(job.error_message)
        assert finish(studio, second).status is finish(studio, third).status is JobStatus.COMPLETED
    finally:
        studio.stop()


CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]  # process ids of its own, the host's name


def test_a_worker_in_a_container_with_the_hosts_name_keeps_its_job(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*CONTAINER, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this user may make no PID namespace")
    command = [*CONTAINER, sys.executable, "-c", CRASHING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            job_id = process.stdout.readline().strip()
            until(lambda: _status(tmp_path, job_id) == "processing", 60)
            other = Studio(settings(tmp_path), load_sine)
            assert other.start(work=False).interrupted == []
            other.stop()
        finally:
            process.kill()


def test_a_start_leaves_the_audio_of_another_database_alone(tmp_path: Path) -> None:
    with Studio(settings(tmp_path), load_sine) as studio:
        job_id = studio.submit(ask()).job_id
        finish(studio, job_id)
        path = studio.track_path(f"{job_id}.wav")
    os.utime(path, (0, 0))
    with Studio(settings(tmp_path, database_url=f"sqlite:///{tmp_path / 'new.db'}"), load_sine):
        assert path.exists()
    with Studio(settings(tmp_path), load_sine) as studio:
        assert studio.track_path(path.name) == path


def test_several_watchers_see_the_end(slow_studio: Studio) -> None:
    job_id = slow_studio.submit(ask()).job_id
    ends: list[JobStatus] = []
    threads = [threading.Thread(target=lambda: ends.append(finish(slow_studio, job_id).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [JobStatus.COMPLETED] * 4


def _status(data_dir: Path, job_id: str) -> str | None:
    with sqlite3.connect(data_dir / "studio.db") as connection:
        row = connection.execute("SELECT status FROM generations WHERE job_id = ?", [job_id]).fetchone()
    connection.close()
    return row and row[0]
