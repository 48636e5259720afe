"""Music from the bundle, through the studio's own engine, and the codes that it is made of. Knows no measure.

A small decoder uses one core, so there is a process for each, with an engine of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studio.engine import catalog, weights
from studio.engine.base import Engine, Failed, Finished
from studio.engine.loader import pick_device, pick_precision, pick_threads
from studio.engine.model import Codec
from studio.engine.musicgen import MusicGenEngine
from studio.engine.streaming import Stream
from studio.schemas import GenerationRequest
from studio.settings import Settings

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Take:
    """What was made of a request."""

    audio: npt.NDArray[np.float32]  # [T]
    codes: Codes  # [K, F], as the decoder wrote them


class Musicians:
    """Processes that play what is asked for; a context."""

    def __init__(self, assets: Path, slots: int, workers: int) -> None:
        self._workers = workers
        self._played = partial(_play, assets, slots)
        self._pool = get_context("spawn").Pool(workers)

    def __enter__(self) -> Musicians:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.terminate()

    def play(self, requests: Sequence[GenerationRequest]) -> list[Take]:
        """A take for each request, in their order."""
        parts = [requests[worker :: self._workers] for worker in range(self._workers)]
        takes: list[Take | None] = [None] * len(requests)
        for worker, played in enumerate(self._pool.map(self._played, parts, chunksize=1)):
            takes[worker :: self._workers] = played
        return [take for take in takes if take is not None]


class Musician:
    """An engine that plays several requests at a time."""

    def __init__(self, assets: Path, slots: int) -> None:
        settings = Settings(model_name=str(assets), slots=slots)
        device = pick_device(settings.device)
        model = weights.load(catalog.resolve(str(assets), settings), settings, device, lambda *_: None)
        pick_threads(sum(tensor.numel() for tensor in model.lm.values()))
        self._codec = _Recorder(model.codec)
        precision = pick_precision(settings.precision, device)
        self._engine: Engine = MusicGenEngine(replace(model, codec=self._codec), device, precision, slots)

    def play(self, requests: Sequence[GenerationRequest]) -> list[Take]:
        """A take for each request, in their order."""
        waiting, tapes, takes = list(enumerate(requests)), dict[str, _Tape](), dict[str, Take]()
        while len(takes) < len(requests):
            while waiting and self._engine.free_slots:
                number, request = waiting.pop(0)
                self._engine.admit(str(number), request)
                tapes[str(number)] = self._codec.last_opened
            for event in self._engine.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    takes[event.key] = Take(event.clip.samples[0], tapes.pop(event.key).codes)
        return [takes[str(number)] for number in range(len(requests))]


_musician = cache(Musician)  # one a process


def _play(assets: Path, slots: int, requests: Sequence[GenerationRequest]) -> list[Take]:
    return _musician(assets, slots).play(requests)


class _Recorder:
    """A codec that keeps the codes which pass through its streams."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.sample_rate, self.channels = codec.sample_rate, codec.channels
        self.frame_rate, self.codebooks = codec.frame_rate, codec.codebooks

    def decode(self, codes: Tensor) -> Tensor:
        return self._codec.decode(codes)

    def stream(self) -> Stream:
        self.last_opened = _Tape(self._codec.stream())
        return self.last_opened


class _Tape:
    """A stream and the codes that went into it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parts: list[Tensor] = []

    def push(self, codes: Tensor, last: bool) -> Tensor:
        self._parts.append(codes.cpu())
        return self._stream.push(codes, last)

    @property
    def codes(self) -> Codes:
        return torch.cat(self._parts, dim=1).numpy().astype(np.uint16)
