"""WAV as it goes over a wire: a header that says the whole length first, then 16-bit samples as they come.

A music's length is known before its first sample is, so even a stream has a true header: players show its time, what
`curl -o` saved is a file like any other, and who has received less than the header says knows that it was cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from studio.clip import Clip

MEDIA_TYPE = "audio/wav"
HEADER_BYTES = 44
SAMPLE_BYTES = 2
PIECE_FRAMES = 32_768


def header(sample_rate: int, channels: int, frames: int) -> bytes:
    """The header of `frames` samples a channel, 16-bit PCM; all fields are little-endian."""
    frame_bytes = channels * SAMPLE_BYTES
    size = frames * frame_bytes
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, 16)
    return struct.pack("<4sI4s", b"RIFF", HEADER_BYTES - 8 + size, b"WAVE") + chunk + struct.pack("<4sI", b"data", size)


def samples(clip: Clip) -> bytes:
    """The clip's samples, channels in turn: the bits that libsndfile writes into a file."""
    return np.clip(np.floor(clip.samples.T * 32768), -32768, 32767).astype("<i2").tobytes()


def size_of(path: Path) -> int:
    """Bytes of `pieces_of` the file."""
    info = soundfile.info(path)
    return HEADER_BYTES + int(info.frames * info.channels) * SAMPLE_BYTES


def pieces_of(path: Path) -> Iterator[bytes]:
    """A track's audio as a stream: what else the file carries is left out."""
    with soundfile.SoundFile(path) as file:
        yield header(file.samplerate, file.channels, file.frames)
        for block in file.blocks(PIECE_FRAMES, dtype="int16"):
            yield block.astype("<i2").tobytes()
