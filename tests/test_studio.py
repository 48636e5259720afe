"""The facade with a real queue, worker and files; only the engine is small."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from studio import BatchRequest, GenerationRequest, Settings, Studio
from studio.audio import loudness
from studio.audio.files import read_piece, read_recipe
from studio.clip import Piece
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
        def admit(self, key: str, request: GenerationRequest, opening: Piece | None = None) -> None:
            time.sleep(2.0)
            super().admit(key, request, opening)

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


# Going on from music


def sound_of(studio: Studio, job: JobView) -> np.ndarray:
    return read_piece(studio.track_path(Path(str(job.file_url)).name)).clip.samples


def wav(seconds: float = 3.0, rate: int = 8000, channels: int = 1, **how: str) -> bytes:
    """A file of somebody's own."""
    noise = np.random.default_rng(1).normal(0, 0.1, (round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, **{"format": "WAV", **how})
    return file.getvalue()


def test_a_finished_piece_is_made_longer(studio: Studio) -> None:
    first = finish(studio, studio.submit(ask(seed=1, duration=2.0)).job_id)
    longer = finish(studio, studio.submit(ask(seed=2, duration=5.0, continue_from=first.job_id)).job_id)
    assert (longer.status, longer.continue_from, longer.continue_seconds) == (JobStatus.COMPLETED, first.job_id, 2.0)
    assert longer.metadata is not None and longer.metadata.duration == pytest.approx(5.0)
    kept, whole = sound_of(studio, first)[0], sound_of(studio, longer)[0]
    assert np.corrcoef(kept, whole[: len(kept)])[0, 1] > 0.999
    recipe = read_recipe(studio.track_path(f"{longer.job_id}.wav"))
    assert (recipe["continue_from"], recipe["continue_seconds"], recipe["bpm"]) == (first.job_id, 2.0, 120.0)


def test_only_the_beginning_is_kept_if_so_asked(studio: Studio) -> None:
    first = finish(studio, studio.submit(ask(seed=1, duration=4.0)).job_id)
    again = ask(seed=2, duration=3.0, continue_from=first.job_id, continue_seconds=1.5)
    job = finish(studio, studio.submit(again).job_id)
    assert (job.duration, job.continue_seconds) == (3.0, 1.5)
    one, other = sound_of(studio, first)[0], sound_of(studio, job)[0]
    assert np.corrcoef(one[:12_000], other[:12_000])[0, 1] > 0.999
    assert np.corrcoef(one[12_000:24_000], other[12_000:])[0, 1] < 0.9


@pytest.mark.parametrize(
    ("file", "seconds"),
    [
        (wav(), 3.0),
        (wav(2.0, 44_100, 2, format="FLAC"), 2.0),
        (wav(2.0, 44_100, 2, format="OGG", subtype="VORBIS"), 2.0),
        (wav(2.0, 44_100, 1, format="MP3", subtype="MPEG_LAYER_III"), 2.0),
        (wav(2.0, 22_050, 1, format="AIFF"), 2.0),
        (wav(45.0, 8000, 1, format="FLAC"), 45.0),
    ],
    ids=["wav", "flac", "ogg", "mp3", "aiff", "long"],
)
def test_music_of_ones_own_is_gone_on_from(file: bytes, seconds: float, studio: Studio) -> None:
    clip = studio.keep_clip(file)
    assert re.fullmatch(r"clip_[0-9a-f]{20}", clip.clip_id)
    assert (clip.duration, clip.file_size_bytes) == (pytest.approx(seconds, abs=0.1), len(file))
    asked = ask(duration=4.0, continue_from=clip.clip_id, continue_seconds=1.0)
    assert finish(studio, studio.submit(asked).job_id).status is JobStatus.COMPLETED


def test_a_clip_that_was_cut_short_has_what_can_be_heard_of_it(studio: Studio) -> None:
    clip = studio.keep_clip(wav(20.0, 44_100, 1, format="MP3", subtype="MPEG_LAYER_III")[:60_000])
    assert 1.0 < clip.duration < 15.0
    assert studio.length_of(clip.clip_id) == clip.duration


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "is no audio"),
        (b"RIFF" + bytes(40), "is no audio"),
        (b"#!/bin/sh" * 1000, "is no audio"),
        (wav(0.2), "at least 0.5 s"),
        (wav(1.0, channels=3), "one or two channels, not 3"),
        (wav(1.0, 4000), "8000 to 192000 samples a second, not 4000"),
        (wav(70.0), "at most 1 MB"),
        (wav(1.0, subtype="FLOAT")[:-4] + b"\0\0\xc0\x7f", "not numbers"),
        (wav()[:2000], "at least 0.5 s"),
    ],
)
def test_what_is_no_music_is_not_kept(file: bytes, said: str, tmp_path: Path) -> None:
    with Studio(settings(tmp_path, clip_max_mb=1), load_sine) as studio:
        with pytest.raises(InvalidRequest, match=f"^body: .*{said}"):
            studio.keep_clip(file)
        assert not list(tmp_path.glob("clips/*"))


def test_a_clip_counts_as_a_request(tmp_path: Path) -> None:
    with Studio(settings(tmp_path, rate_limit_per_minute=2), load_sine) as studio:
        clip = studio.keep_clip(wav(), client="203.0.113.9")
        studio.submit(ask(duration=5.0, continue_from=clip.clip_id), client="203.0.113.9")
        with pytest.raises(RateLimited):
            studio.keep_clip(wav(), client="203.0.113.9")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"continue_from": "gen_nothing"}, r"^continue_from: There is no job 'gen_nothing'\.$"),
        ({"continue_from": "clip_" + "0" * 20}, r"^continue_from: There is no clip"),
        ({"continue_from": "../studio.db"}, r"^continue_from: There is no job"),
        ({"continue_from": "nul\0"}, r"^continue_from: There is no job"),
        ({"continue_seconds": 1.0}, r"^continue_seconds: .*not given"),
        ({"continue_from": "{done}", "duration": 1.0}, r"^duration: must be more than the 2 s that are kept"),
        ({"continue_from": "{done}", "duration": 2.0}, r"^duration: must be more than the 2 s that are kept"),
        (
            {"continue_from": "{done}", "continue_seconds": 2.5, "duration": 4.0},
            r"^continue_seconds: must be at most 2:",
        ),
        ({"continue_from": "{clip}", "duration": 30.0}, r"^duration: must be more than the 40 s that are kept"),
        (
            {"continue_from": "{failed}", "duration": 4.0},
            r"^continue_from: The job gen_\w+ is failed: only a completed",
        ),
    ],
)
def test_what_cannot_be_continued_is_said_at_once(asked: dict[str, object], said: str, tmp_path: Path) -> None:
    with Studio(settings(tmp_path, max_retries=0), load_sine) as studio:
        done = finish(studio, studio.submit(ask(duration=2.0)).job_id).job_id
        failed = finish(studio, studio.submit(ask("explode")).job_id).job_id
        names = {"{done}": done, "{failed}": failed, "{clip}": studio.keep_clip(wav(40.0)).clip_id}
        request = ask(**{field: names.get(str(value), value) for field, value in asked.items()})
        for refused in (lambda: studio.submit(request), lambda: studio.check(request)):
            with pytest.raises(InvalidRequest, match=said):
                refused()
        with pytest.raises(InvalidRequest, match=said.replace("^", r"^requests\.1\.")):
            studio.submit_batch(BatchRequest(requests=[ask(), request]))
        assert studio.jobs().total == 2


@pytest.mark.parametrize("own", [False, True])
def test_a_continuation_whose_beginning_is_removed_while_it_waits_says_so(own: bool, studio: Studio) -> None:
    done = finish(studio, studio.submit(ask(duration=2.0)).job_id)
    name = studio.keep_clip(wav()).clip_id if own else done.job_id
    studio.pause()
    job_id = studio.submit(ask(duration=5.0, continue_from=name)).job_id
    (studio.settings.clips_dir / name if own else studio.track_path(f"{name}.wav")).unlink()
    studio.resume()
    job = finish(studio, job_id)
    assert (job.status, job.retry_count) == (JobStatus.FAILED, 0)
    assert job.error_message == f"continue_from: The audio of {name} is gone."
    with pytest.raises(InvalidRequest, match=r"^continue_from: "):
        studio.submit(ask(duration=5.0, continue_from=name))


def test_a_continuation_survives_a_restart_and_failed_attempts(tmp_path: Path) -> None:
    tries = []

    def load(model: str, progress: LoadProgress) -> SineEngine:
        tries.append(model)
        if len(tries) == 2:
            raise DownloadError
        return load_sine(model, progress)

    with Studio(settings(tmp_path), load) as studio:
        first = finish(studio, studio.submit(ask(duration=2.0)).job_id)
        studio.pause()
        job_id = studio.submit(ask(duration=5.0, continue_from=first.job_id)).job_id
    with Studio(settings(tmp_path), load) as studio:
        studio.resume()
        job = finish(studio, job_id)
    assert (job.status, job.retry_count, job.continue_seconds) == (JobStatus.COMPLETED, 1, 2.0)


def test_a_track_that_was_downloaded_and_brought_back_has_its_codes_and_its_tempo(studio: Studio) -> None:
    done = finish(studio, studio.submit(ask(duration=2.0)).job_id)
    clip = studio.keep_clip(studio.track_path(f"{done.job_id}.wav").read_bytes())
    piece = read_piece(studio.settings.clips_dir / clip.clip_id)
    assert piece.codes is not None and piece.codes.tolist() == np.arange(8).reshape(2, 4).tolist()
    assert piece.recipe["bpm"] == 120.0
