"""The codes of a track, in a chunk of its WAV file that players pass over: whoever goes on from it needs no encoder."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

CHUNK = b"code"
CHUNK_MAX_BYTES = 1_000_000  # thirty seconds of eight codebooks have 24 kB

Codes = npt.NDArray[np.int64]  # [K, F]


def append(path: Path, codes: Codes) -> None:
    """Add the chunk to a WAV file: K and F in 32 bits each, then the codes in 16, all little-endian."""
    content = struct.pack("<2I", *codes.shape) + codes.astype("<u2").tobytes()
    chunk = struct.pack("<4sI", CHUNK, len(content)) + content
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        assert end % 2 == 0, "chunks begin at even places"
        file.write(chunk)
        file.seek(4)
        file.write(struct.pack("<I", end + len(chunk) - 8))  # the size of all that follows


def read(path: Path) -> Codes | None:
    """The codes that a file carries; None where there are none, or the file is something else."""
    with path.open("rb") as file:
        riff, _, wave = struct.unpack("<4s4s4s", file.read(12).ljust(12))
        if (riff, wave) != (b"RIFF", b"WAVE"):
            return None
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == CHUNK:
                return _codes(file.read(min(size, CHUNK_MAX_BYTES)))
            file.seek(size + size % 2, 1)
    return None


def _codes(content: bytes) -> Codes | None:
    rows, frames = struct.unpack("<2I", content[:8].ljust(8, b"\0"))
    codes = content[8:]
    if not codes or len(codes) != 2 * rows * frames:
        return None
    return np.frombuffer(codes, "<u2").astype(np.int64).reshape(rows, frames)
