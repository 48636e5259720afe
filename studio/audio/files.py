"""Tracks on disk: WAV files that carry the recipe and the codes that they are made of, written so that a crash leaves
none half done."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from studio.audio import codes
from studio.audio.codes import Codes
from studio.audio.loudness import normalise
from studio.clip import Clip, Piece
from studio.errors import DiskFull, StudioError
from studio.schemas import DURATION_MAX_S, RECIPE_FIELDS, GenerationRequest, TrackInfo

FORMAT = "wav"
SOFTWARE = "studio"
COPIES = {".flac": ("FLAC", "PCM_16"), ".mp3": ("MP3", "MPEG_LAYER_III"), ".ogg": ("OGG", "VORBIS")}
NAME_WORDS_MAX = 48  # characters
ORPHAN_AGE_S = 3600.0  # a younger file may belong to a job that is being finished right now


def track_name(prompt: str, seed: int) -> str:
    """A name by which a person finds the file again, words of the prompt and the seed: `sad-piano-seed-42.wav`."""
    ascii_words = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_words).strip("-")[:NAME_WORDS_MAX].rstrip("-") or "music"
    return f"{words}-seed-{seed}.{FORMAT}"


def write_track(
    path: Path, clip: Clip, request: GenerationRequest, engine: Mapping[str, object], made_of: Codes | None = None
) -> TrackInfo:
    """Write the clip as 16-bit WAV at even loudness; `path` appears complete or not at all.

    The same clip and recipe give the same bytes: nothing in the file depends on the time or the job.

    Raises:
        DiskFull: there is no room; nothing is left behind.
    """
    clip = normalise(clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing_at(path) as temporary:
        _write_wav(temporary, clip, recipe(request, engine))
        if made_of is not None:
            codes.append(temporary, made_of)
    return TrackInfo(
        duration=clip.duration,
        sample_rate=clip.sample_rate,
        channels=clip.samples.shape[0],
        file_size_bytes=path.stat().st_size,
        format=FORMAT,
    )


def check_format(output: Path) -> None:
    """Raises StudioError where `copy_track` does not write such a file."""
    if output.suffix.lower() not in ("", f".{FORMAT}", *COPIES):
        raise StudioError(f"output: {output.name} must end in .{FORMAT}, {', '.join(COPIES)}.")


def copy_track(path: Path, output: Path) -> None:
    """Copy a track, in the format that the name of `output` ends in, with its recipe.

    Raises:
        StudioError: `output` cannot be written.
    """
    try:
        if output.suffix.lower() not in COPIES:
            shutil.copyfile(path, output)
            return
        kind, coding = COPIES[output.suffix.lower()]
        with soundfile.SoundFile(path) as track, output.open("wb") as target:
            samples = track.read(dtype="float32", always_2d=True)
            with soundfile.SoundFile(target, "w", track.samplerate, track.channels, coding, format=kind) as copy:
                copy.title, copy.software, copy.comment = track.title, track.software, track.comment
                for start in range(0, len(samples), track.samplerate):  # more at once overflows Vorbis' stack
                    copy.write(samples[start : start + track.samplerate])
    except OSError as error:
        raise StudioError(f"Cannot write {output} ({error.strerror}). The track is {path}.") from error


def recipe(request: GenerationRequest, engine: Mapping[str, object]) -> dict[str, object]:
    """What it takes to make the same audio again: the request with its seed, and what the engine says of itself."""
    return {**request.model_dump(include=set(RECIPE_FIELDS)), **engine}


def read_recipe(path: Path) -> dict[str, object]:
    """The recipe that `write_track` put into the file; empty of any other file."""
    with soundfile.SoundFile(path) as file:
        return _recipe(file.comment)


def read_piece(path: Path) -> Piece:
    """As much music of a file as anybody can go on from, with its recipe and its codes, where it carries them.

    Raises:
        OSError, soundfile.LibsndfileError: it is not there, or no audio.
    """
    with soundfile.SoundFile(path) as file:
        samples = file.read(round(DURATION_MAX_S * file.samplerate), dtype="float32", always_2d=True)
        clip = Clip(np.ascontiguousarray(samples.T), file.samplerate)
        return Piece(clip, _recipe(file.comment), codes.read(path))


def file_name(job_id: str) -> str:
    """Of a job's track, below the audio directory."""
    return f"{job_id}.{FORMAT}"


def collect_orphans(audio_dir: Path, tracks: Callable[[list[str]], Mapping[str, str | None]]) -> list[str]:
    """Delete files that a crash has left (between the file and the row, or half written); their names.

    `tracks` gives of those jobs that have ended the file that is their track. The files of all other jobs stay: they
    are being made, or another database knows them.
    """
    if not audio_dir.is_dir():
        return []
    old = {entry.name: entry for entry in audio_dir.iterdir() if is_old(entry)}
    ended = tracks(sorted({_job_of(name) for name in old}))
    orphans = sorted(name for name in old if ended.get(_job_of(name), name) != name)
    for name in orphans:
        old[name].unlink(missing_ok=True)
    return orphans


def is_old(path: Path) -> bool:
    """Whether it is a file that nobody is writing any more."""
    try:
        status = path.stat()
    except FileNotFoundError:  # it has got its name just now
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime < time.time() - ORPHAN_AGE_S


def _recipe(comment: str) -> dict[str, object]:
    try:
        loaded = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _job_of(name: str) -> str:
    """Whose track, or half a track, the file is."""
    return name.removeprefix(".").partition(".")[0]


def _write_wav(path: Path, clip: Clip, metadata: dict[str, object]) -> None:
    samples = np.clip(clip.samples.T, -1.0, 1.0)  # [time, channels]
    channels = clip.samples.shape[0]
    with soundfile.SoundFile(path, "w", clip.sample_rate, channels, "PCM_16", format="WAV") as file:
        file.title = str(metadata["prompt"])
        file.software = SOFTWARE
        file.comment = json.dumps(metadata, sort_keys=True)
        file.write(samples)


@contextmanager
def appearing_at(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name, durably, when the block succeeds."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
