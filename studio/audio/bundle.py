"""Many tracks as one zip, made while it is sent: no more than a piece of a file is ever in memory. Knows no jobs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

PIECE_BYTES = 256 * 1024
MANIFEST = "manifest.json"


def bundle(manifest: bytes, tracks: Iterable[tuple[str, Path, datetime]]) -> Iterator[bytes]:
    """The zip in pieces: the manifest, then each track by its name in the zip, its file, and when it was made.

    Stored, not deflated: sound hardly shrinks, and this way a piece costs no more than its reading.
    """
    sent = _Sent()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MANIFEST, manifest)
        for name, path, made_at in tracks:
            info = zipfile.ZipInfo(name, made_at.timetuple()[:6])
            info.file_size = path.stat().st_size
            with path.open("rb") as track, archive.open(info, "w") as entry:
                while piece := track.read(PIECE_BYTES):
                    entry.write(piece)
                    yield sent.take()
    yield sent.take()


class _Sent(io.RawIOBase):
    """Takes what is written until somebody takes it away. It cannot go back, so sizes follow their entries."""

    def __init__(self) -> None:
        self._pieces = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._pieces += piece
        return len(piece)

    def take(self) -> bytes:
        taken, self._pieces = bytes(self._pieces), bytearray()
        return taken
