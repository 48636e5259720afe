"""Training music on disk: shards of rendered pieces, written once and read through memory maps.

A shard is two files: `shard_00000.npy`, int16 [pieces, samples] in mono at 32 kHz, and `shard_00000.jsonl`, one
record a piece with its seed, captions and description. Both appear whole or not at all, so an interrupted build
is continued by running it again.

Training pieces have seeds from 0; the held-out ones, that no model may be trained on, from HELD_OUT_FIRST_SEED.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from studio.training.captions import captions
from studio.training.compose import PIECE_S, compose
from studio.training.render import SAMPLE_RATE, Renderer, find_soundfont

TRAINING_FIRST_SEED = 0
HELD_OUT_FIRST_SEED = 1_000_000_000
SHARD_PIECES = 64
CAPTIONS = 6

Record = dict[str, Any]  # seed, captions, description


@dataclass(frozen=True)
class Shard:
    """One shard, its audio mapped and not loaded."""

    path: Path
    audio: NDArray[np.int16]  # [pieces, samples]
    records: list[Record]


def build(
    out_dir: Path,
    pieces: int,
    first_seed: int = TRAINING_FIRST_SEED,
    soundfont: Path | None = None,
    workers: int = 1,
) -> None:
    """Compose, caption and render pieces first_seed … first_seed + pieces - 1 into shards, skipping finished ones.

    Raises:
        SoundfontMissingError: there is no soundfont to render with.
    """
    font = find_soundfont(soundfont)
    out_dir.mkdir(parents=True, exist_ok=True)
    shards = [shard for shard in _plan(out_dir, pieces, first_seed) if not _is_whole(shard)]
    done = _write_all(shards, font, workers)
    for _ in track(done, description="rendering shards", total=len(shards), disable=not shards):
        pass


def read_shards(directory: Path) -> list[Shard]:
    """All finished shards of a directory, in order."""
    return [
        Shard(path, np.load(path, mmap_mode="r"), _read_records(_records_path(path)))
        for path in sorted(directory.glob("shard_*.npy"))
        if _records_path(path).exists()
    ]


@dataclass(frozen=True)
class _Order:
    path: Path
    seeds: range


def _plan(out_dir: Path, pieces: int, first_seed: int) -> Iterator[_Order]:
    for number, start in enumerate(range(0, pieces, SHARD_PIECES)):
        seeds = range(first_seed + start, first_seed + min(start + SHARD_PIECES, pieces))
        yield _Order(out_dir / f"shard_{number:05d}.npy", seeds)


def _is_whole(shard: _Order) -> bool:
    """The last shard of a smaller plan has fewer pieces."""
    records = _records_path(shard.path)
    return records.exists() and len(records.read_text("utf-8").splitlines()) >= len(shard.seeds)


def _write_all(shards: Sequence[_Order], font: Path, workers: int) -> Iterable[None]:
    """A generator of one item a finished shard."""
    if workers <= 1 or len(shards) <= 1:
        renderer = Renderer(font)
        return map(partial(_write_shard, renderer), shards)
    return _write_in_processes(shards, font, workers)


def _write_in_processes(shards: Sequence[_Order], font: Path, workers: int) -> Iterator[None]:
    with get_context("spawn").Pool(workers, _start_worker, (font,)) as pool:
        yield from pool.imap_unordered(_write_in_worker, shards)


_worker_renderer: list[Renderer] = []  # of this process; a synth cannot be sent to another


def _start_worker(font: Path) -> None:
    _worker_renderer.append(Renderer(font))


def _write_in_worker(shard: _Order) -> None:
    _write_shard(_worker_renderer[0], shard)


def _write_shard(renderer: Renderer, shard: _Order) -> None:
    """The records are renamed last: their presence says that the shard is whole."""
    samples = round(PIECE_S * SAMPLE_RATE)
    part = shard.path.with_suffix(".part.npy")
    audio = np.lib.format.open_memmap(part, "w+", np.int16, (len(shard.seeds), samples))
    records = []
    for row, seed in enumerate(shard.seeds):
        audio[row], record = _make(seed, renderer)
        records.append(json.dumps(record))
    audio.flush()
    part.replace(shard.path)
    part = shard.path.with_suffix(".part.jsonl")
    part.write_text("\n".join(records) + "\n", encoding="utf-8")
    part.replace(_records_path(shard.path))


def _make(seed: int, renderer: Renderer) -> tuple[NDArray[np.int16], Record]:
    piece = compose(seed, PIECE_S)
    audio = np.round(renderer.render(piece) * 32767).astype(np.int16)
    texts = captions(piece.description, Random(seed), CAPTIONS)
    description = {**asdict(piece.description), "tempo": piece.description.tempo, "lead": piece.description.lead}
    return audio, {"seed": seed, "captions": texts, "description": description}


def _records_path(shard: Path) -> Path:
    return shard.with_suffix(".jsonl")


def _read_records(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
