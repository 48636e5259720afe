"""A job's audio while it is made: what listeners hear on a real server, and how they hear of an end."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from studio import Settings, Studio
from studio.api.audience import Audience
from studio.api.events import Feed
from studio.api.server import serving
from studio.audio import wav
from studio.audio.loudness import PEAK_MAX, RAISED_MAX, Leveller, integrated, normalise
from studio.clip import Clip
from studio.engine.base import LoadProgress
from studio.errors import JobConflict
from studio.schemas import GenerationRequest
from tests.fakes import SAMPLE_RATE, SineEngine, load_sine, part, sine
from tests.serving import API, Served, served

STEP_S = 0.02  # five times faster than real time


def load_brisk(model: str, progress: LoadProgress) -> SineEngine:
    return SineEngine(model, slots=2, step_s=STEP_S)


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("streams"), load_brisk) as server:
        yield server


def url(job_id: str) -> str:
    return f"{API}/jobs/{job_id}/stream"


def listen(server: Served, job_id: str) -> bytes:
    """All of a job's stream."""
    with server.http.stream("GET", url(job_id)) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
        return b"".join(answer.iter_raw())


def music(seed: int, duration: float) -> bytes:
    """What the sine engine makes of a request, as a stream."""
    clip = sine(GenerationRequest(prompt="sad piano", seed=seed, duration=duration))
    return wav.header(SAMPLE_RATE, 1, clip.samples.shape[1]) + wav.samples(clip)


def pcm(data: bytes) -> npt.NDArray[np.int16]:
    samples: npt.NDArray[np.int16] = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)[0]
    return samples


# While it is made


def test_a_job_is_heard_while_it_is_made(brisk: Served) -> None:
    job_id = brisk.ask(duration=10, seed=5)
    with brisk.http.stream("GET", url(job_id)) as answer:
        pieces = answer.iter_raw()
        heard = b"".join(next(pieces) for _ in range(3))
        assert brisk.job(job_id)["status"] == "processing"
        assert 0 < float(answer.headers["x-speed"]) <= 0.1 / STEP_S
        heard += b"".join(pieces)
    assert heard == music(5, 10)


def test_who_comes_late_and_who_comes_in_company_hears_everything(brisk: Served) -> None:
    job_id = brisk.ask(duration=6, seed=9)
    brisk.until(lambda: brisk.job(job_id)["progress"] > 0.3)
    with ThreadPoolExecutor(4) as listeners:
        heard = list(listeners.map(lambda _: listen(brisk, job_id), range(4)))
    assert heard == [music(9, 6)] * 4


def test_a_job_that_waits_is_waited_for(brisk: Served) -> None:
    brisk.studio.pause()
    job_id = brisk.ask(seed=2)
    with ThreadPoolExecutor(1) as listener:
        heard = listener.submit(listen, brisk, job_id)
        time.sleep(0.3)
        assert not heard.done()
        brisk.studio.resume()
        assert heard.result(60) == music(2, 1)


def test_who_does_not_read_holds_nobody_up(brisk: Served) -> None:
    job_id = brisk.ask(duration=30, seed=4)
    host, _, port = brisk.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        deaf.sendall(f"GET {url(job_id)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert listen(brisk, job_id) == music(4, 30)
        assert brisk.finish(job_id)["status"] == "completed"


def test_a_browser_may_ask_for_it_as_a_range(brisk: Served) -> None:
    job_id = brisk.ask(seed=6)
    answer = brisk.http.get(url(job_id), headers={"Range": "bytes=0-"})
    assert (answer.status_code, answer.content) == (200, music(6, 1))


# The end


def test_a_finished_job_is_streamed_from_its_file_and_nothing_is_kept_in_memory(brisk: Served) -> None:
    job_id = brisk.ask(seed=3)
    job = brisk.finish(job_id)
    assert brisk.studio.stream(job_id) is None
    answer = brisk.http.get(url(job_id))
    assert int(answer.headers["content-length"]) == len(answer.content)
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (SAMPLE_RATE, 1, SAMPLE_RATE)
    assert np.array_equal(pcm(answer.content), pcm(brisk.http.get(job["file_url"]).content))


def test_a_stopped_job_ends_its_stream_early(brisk: Served) -> None:
    job_id = brisk.ask(duration=30, seed=1)
    with brisk.http.stream("GET", url(job_id)) as answer:
        pieces = answer.iter_raw()
        heard = next(pieces)
        brisk.studio.cancel(job_id, force=True)
        heard += b"".join(pieces)
    whole = music(1, 30)
    assert len(heard) < len(whole)
    assert whole.startswith(heard)  # its header too: who has less than it says knows
    gone = brisk.http.get(url(job_id))
    assert (gone.status_code, gone.json()) == (404, {"error": "There is no audio: the job was cancelled."})


def test_who_waits_for_a_job_that_is_cancelled_is_told_at_once(brisk: Served) -> None:
    brisk.studio.pause()
    job_id = brisk.ask()
    with ThreadPoolExecutor(1) as listener:
        waiting = listener.submit(brisk.http.get, url(job_id))
        time.sleep(0.3)
        brisk.studio.cancel(job_id)
        assert waiting.result(20).status_code == 404
    brisk.studio.resume()


def test_each_failed_attempt_ends_its_stream_and_the_last_one_leaves_none(tmp_path: Path) -> None:
    with served(tmp_path, load_brisk, retry_delay_seconds=3, max_retries=1) as server:
        job_id = server.ask("explode", duration=2, seed=8)
        first = listen(server, job_id)
        assert first == music(8, 2)[: len(first)] != music(8, 2)
        assert listen(server, job_id) == first  # waits for the second attempt
        server.finish(job_id)
        gone = server.http.get(url(job_id))
        assert (gone.status_code, gone.json()) == (404, {"error": "There is no audio: the job has failed."})


def test_an_unknown_job_has_no_stream(brisk: Served) -> None:
    gone = brisk.http.get(url("gen_0000000000000000"))
    assert (gone.status_code, gone.json()) == (404, {"error": "There is no job 'gen_0000000000000000'."})


def test_a_file_that_somebody_removed_is_not_found(brisk: Served) -> None:
    job_id = brisk.ask()
    job = brisk.finish(job_id)
    (brisk.studio.settings.audio_dir / Path(job["file_url"]).name).unlink()
    assert brisk.http.get(url(job_id)).status_code == 404


def test_a_server_that_goes_down_lets_its_listeners_go(tmp_path: Path) -> None:
    with served(tmp_path, load_brisk) as server:
        job_id = server.ask(duration=30)
        with server.http.stream("GET", url(job_id)) as answer:
            pieces = answer.iter_raw()
            heard = next(pieces)
            began = time.monotonic()
            server.close()
            heard += b"".join(pieces)
            assert time.monotonic() - began < 3
            assert len(heard) < len(music(0, 30))


def test_a_job_of_another_process_is_heard_when_its_file_is_there(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    front = Studio(settings, load_sine)
    front.start(work=False)  # as with DGX_MUSIC_EMBEDDED_WORKER=false
    try:
        job_id = front.submit(GenerationRequest(prompt="sad piano", duration=2, seed=7)).job_id
        with serving(front) as address, Studio(settings, load_brisk) as elsewhere, ThreadPoolExecutor(1) as listener:
            heard = listener.submit(httpx.get, address + url(job_id), timeout=60).result()
            assert heard.status_code == 200
            assert np.array_equal(pcm(heard.content), pcm(elsewhere.track_path(f"{job_id}.wav").read_bytes()))
    finally:
        front.stop()


def test_after_a_while_of_silence_the_listener_is_told_why(tmp_path: Path) -> None:
    closing = threading.Event()
    studio = Studio(Settings(data_dir=tmp_path), load_sine)
    studio.start(work=False)
    try:
        job_id = studio.submit(GenerationRequest(prompt="sad piano")).job_id
        audience = Audience(studio, Feed(studio, closing), closing, wait_s=0.1)
        with pytest.raises(JobConflict, match=r"The job waits: there is nothing to hear yet\. Ask again\."):
            asyncio.run(audience.begin(job_id))
    finally:
        studio.stop()


# Format and level


@pytest.mark.parametrize("channels", [1, 2])
def test_parts_in_a_row_are_the_file_and_a_file_is_read_back_as_its_stream(tmp_path: Path, channels: int) -> None:
    clip = Clip(np.random.default_rng(0).uniform(-1, 1, (channels, 90_001)).astype(np.float32), 32_000)
    data = wav.header(32_000, channels, 90_001) + b"".join(wav.samples(part(clip, n, 7)) for n in range(1, 8))
    path = tmp_path / "whole.wav"
    soundfile.write(path, clip.samples.T, 32_000, "PCM_16")
    assert np.array_equal(pcm(data), pcm(path.read_bytes()))
    assert b"".join(wav.pieces_of(path)) == data
    assert wav.size_of(path) == len(data)


def noise(seconds: float, level: float) -> Clip:
    samples = np.random.default_rng(0).normal(0, level, (1, round(32_000 * seconds)))
    return Clip(np.clip(samples, -1, 1).astype(np.float32), 32_000)


def test_a_stream_is_as_loud_as_its_file_when_it_goes_on_as_it_began() -> None:
    clip = noise(6, 0.12)
    leveller = Leveller()
    heard = np.concatenate([leveller.push(part(clip, n, 12)).samples for n in range(1, 13)], axis=1)
    assert integrated(Clip(heard, 32_000)) == pytest.approx(integrated(normalise(clip)), abs=0.5)


def test_a_stream_is_turned_down_where_it_would_clip_and_a_quiet_beginning_is_not_made_loud() -> None:
    leveller = Leveller()
    quiet = noise(0.5, 0.001)
    assert np.abs(leveller.push(quiet).samples).max() <= RAISED_MAX * np.abs(quiet.samples).max()
    loud = leveller.push(noise(0.5, 0.5)).samples[0, round(0.02 * 32_000) :]
    assert np.abs(loud).max() == pytest.approx(PEAK_MAX, abs=1e-3)
    assert not leveller.push(Clip(np.zeros((1, 100), np.float32), 32_000)).samples.any()


# The bundled model


def test_what_is_heard_of_the_bundled_model_is_what_its_file_holds(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"prompt": "sad piano", "duration": 3, "seed": 7}
    with (
        Studio(Settings(data_dir=tmp_path)) as studio,
        serving(studio) as address,
        httpx.Client(base_url=address, timeout=120) as http,
    ):
        job_id = http.post(f"{API}/generate", json=asked).json()["job_id"]
        while (answer := http.get(url(job_id))).status_code == 409:  # a machine that loads models slowly
            pass
        heard = pcm(answer.content)[:, 0].astype(np.float64)
        job = list(studio.watch(job_id))[-1]
        whole = pcm(http.get(job.file_url or "").content)[:, 0].astype(np.float64)
    assert heard.shape == whole.shape == (3 * 32_000,)
    assert np.corrcoef(heard, whole)[0, 1] > 0.99  # the levels differ
