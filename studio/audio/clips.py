"""Music to go on from: tracks that the studio made, and clips that somebody brought, which lie as they came."""

from __future__ import annotations

import io
import re
import secrets
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from studio.audio.files import appearing_at, file_name, is_old, read_piece
from studio.clip import Piece
from studio.errors import InvalidRequest
from studio.schemas import CONTINUE_MIN_S, DURATION_MAX_S, ClipView, GenerationRequest
from studio.settings import Settings

CLIP_ID = re.compile(r"clip_[0-9a-f]{20}")
READABLE = "WAV, FLAC, MP3, Ogg or AIFF"
RATES = (8_000, 192_000)  # Hz
CHANNELS_MAX = 2


def keep(settings: Settings, data: bytes) -> ClipView:
    """Keep a file that somebody brought; what it holds is heard through, as far as anybody can go on from it.

    Raises:
        InvalidRequest: it is too large, or no music that the studio can read.
        DiskFull: there is no room; nothing is left behind.
    """
    if len(data) > settings.clip_max_mb * 1e6:
        raise InvalidRequest("body", f"must have at most {settings.clip_max_mb:g} MB")
    try:
        view = _heard(data)
    except soundfile.LibsndfileError as error:
        raise InvalidRequest("body", f"is no audio that the studio can read: send {READABLE}") from error
    settings.clips_dir.mkdir(parents=True, exist_ok=True)
    with appearing_at(settings.clips_dir / view.clip_id) as temporary:
        temporary.write_bytes(data)
    return view


def collect_parts(settings: Settings) -> None:
    """Delete what a crash has left of clips that were being written."""
    for part in settings.clips_dir.glob(".*.part"):
        if is_old(part):
            part.unlink(missing_ok=True)


def length(settings: Settings, clip_id: str) -> float | None:
    """Seconds of a clip that somebody brought; None when there is none of this id."""
    if not CLIP_ID.fullmatch(clip_id):
        return None
    try:
        with soundfile.SoundFile(settings.clips_dir / clip_id) as file:
            _, frames = _read(file)
            return float(frames / file.samplerate)
    except (OSError, soundfile.LibsndfileError):
        return None


def opening(settings: Settings, request: GenerationRequest) -> Piece | None:
    """What an accepted request goes on from, if it goes on from something.

    Raises:
        InvalidRequest: somebody has removed the file, or damaged it.
    """
    if request.continue_from is None:
        return None
    try:
        return read_piece(_file(settings, request.continue_from))
    except (OSError, soundfile.LibsndfileError) as error:
        raise InvalidRequest("continue_from", f"The audio of {request.continue_from} is gone.") from error


def _file(settings: Settings, name: str) -> Path:
    """Of a clip, or of a completed job."""
    return settings.clips_dir / name if CLIP_ID.fullmatch(name) else settings.audio_dir / file_name(name)


def _heard(data: bytes) -> ClipView:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if file.channels > CHANNELS_MAX:
            raise InvalidRequest("body", f"must have one or two channels, not {file.channels}")
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise InvalidRequest("body", f"must have {RATES[0]} to {RATES[1]} samples a second, not {file.samplerate}")
        samples, frames = _read(file)
        if frames < CONTINUE_MIN_S * file.samplerate:
            raise InvalidRequest("body", f"must be at least {CONTINUE_MIN_S:g} s long")
        if not np.isfinite(samples).all():
            raise InvalidRequest("body", "has samples that are not numbers")
        return ClipView(
            clip_id=f"clip_{secrets.token_hex(10)}",
            duration=frames / file.samplerate,
            sample_rate=file.samplerate,
            channels=file.channels,
            file_size_bytes=len(data),
            format=file.format.lower(),
        )


def _read(file: soundfile.SoundFile) -> tuple[NDArray[np.float32], int]:
    """As much as anybody can go on from [time, channels], and how many frames there are in all."""
    wanted = min(file.frames, round(DURATION_MAX_S * file.samplerate))
    samples = file.read(wanted, dtype="float32", always_2d=True)
    return samples, file.frames if len(samples) == wanted else len(samples)  # a file cut short says more than it has
