"""Clips become files: loudness, format, metadata, and nothing half written."""

from __future__ import annotations

import errno
import os
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from studio.audio import files
from studio.audio.files import collect_orphans, read_piece, read_recipe, write_track
from studio.audio.loudness import PEAK_MAX, TARGET_LUFS, integrated, normalise
from studio.clip import Clip
from studio.errors import DiskFull
from studio.schemas import RECIPE_FIELDS, GenerationRequest

RATE = 32_000
ENGINE = {"precision": "fp32"}


def noise(seconds: float = 2.0, level: float = 0.05, channels: int = 1) -> Clip:
    samples = np.random.default_rng(0).normal(0, level, (channels, round(seconds * RATE)))
    return Clip(samples.astype(np.float32), RATE)


def request(prompt: str = "sad piano") -> GenerationRequest:
    return GenerationRequest(prompt=prompt, seed=7, model="musicgen-mini")


@pytest.mark.parametrize("level", [0.001, 0.05, 0.3])
def test_quiet_and_loud_clips_come_out_alike(level: float) -> None:
    assert integrated(normalise(noise(level=level))) == pytest.approx(TARGET_LUFS, abs=0.5)


def test_peaks_are_never_clipped() -> None:
    clip = noise(level=0.001)
    clip.samples[0, 1000] = 1.0
    assert np.abs(normalise(clip).samples).max() <= PEAK_MAX + 1e-6


def test_silence_stays_silent() -> None:
    silence = Clip(np.zeros((1, RATE), np.float32), RATE)
    assert not normalise(silence).samples.any()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_track_holds_the_clip_and_says_what_it_is(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "audio" / "a.wav"
    info = write_track(path, noise(1.5, channels=channels), request(), ENGINE)
    saved = soundfile.info(path)
    assert (saved.samplerate, saved.channels, saved.frames) == (RATE, channels, round(1.5 * RATE))
    assert (info.sample_rate, info.channels, info.duration, info.format) == (RATE, channels, 1.5, "wav")
    assert info.file_size_bytes == path.stat().st_size


def test_the_recipe_survives_any_prompt(tmp_path: Path) -> None:
    prompt = 'ünïcödé "quotes" \n <b>🎹</b> ' + "x" * 400
    write_track(tmp_path / "a.wav", noise(), request(prompt), ENGINE)
    recipe = read_recipe(tmp_path / "a.wav")
    assert recipe == {**request(prompt).model_dump(include=set(RECIPE_FIELDS)), **ENGINE}
    assert not recipe.keys() & {"priority", "after", "webhook_url"}, "what does not sound is no part of it"
    assert soundfile.SoundFile(tmp_path / "a.wav").title == prompt.strip()


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_track(tmp_path / name, noise(), request(), ENGINE)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_fsync", full)
    with pytest.raises(DiskFull, match="disk is full"):
        write_track(tmp_path / "a.wav", noise(), request(), ENGINE)
    assert list(tmp_path.iterdir()) == []


def test_only_old_files_that_ended_jobs_do_not_have_are_collected(tmp_path: Path) -> None:
    for name in ("done.wav", ".done.wav.part", "failed.wav", "young.wav", "running.wav", ".running.wav.part", "a.txt"):
        (tmp_path / name).write_bytes(b"")
        if name != "young.wav":
            os.utime(tmp_path / name, (0, 0))
    ended = {"done": "done.wav", "failed": None, "young": None}
    collected = collect_orphans(tmp_path, lambda asked: {job_id: ended[job_id] for job_id in asked if job_id in ended})
    assert collected == [".done.wav.part", "failed.wav"]
    left = {".running.wav.part", "a.txt", "done.wav", "running.wav", "young.wav"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("channels", [1, 2])
def test_a_track_carries_its_codes_and_players_pass_over_them(channels: int, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 2048, (4 * channels, 101))
    info = write_track(tmp_path / "a.wav", noise(2.0, channels=channels), request(), ENGINE, codes)
    write_track(tmp_path / "b.wav", noise(2.0, channels=channels), request(), ENGINE)
    piece, plain = read_piece(tmp_path / "a.wav"), read_piece(tmp_path / "b.wav")
    assert piece.codes is not None and np.array_equal(piece.codes, codes)
    assert plain.codes is None
    assert np.array_equal(piece.clip.samples, plain.clip.samples)
    assert piece.recipe == plain.recipe
    content = (tmp_path / "a.wav").read_bytes()
    assert info.file_size_bytes == len(content) == int.from_bytes(content[4:8], "little") + 8
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnframes(), file.getnchannels()) == (64_000, channels)


@pytest.mark.parametrize("cut", [1, 100, 700, 815])
def test_damaged_codes_are_none(cut: int, tmp_path: Path) -> None:
    write_track(tmp_path / "a.wav", noise(), request(), ENGINE, np.ones((4, 101), np.int64))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-cut])
    assert read_piece(tmp_path / "a.wav").codes is None
