"""Music from the bundle, through the studio's own engine, and the codes that it is made of. Knows no measure.

A small decoder uses one core, so there is a process for each, with an engine of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from studio.engine import catalog, weights
from studio.engine.base import Engine, Failed, Finished
from studio.engine.loader import pick_device, pick_precision, pick_threads
from studio.engine.musicgen import MusicGenEngine
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
        precision = pick_precision(settings.precision, device, model.config)
        self._engine: Engine = MusicGenEngine(model, device, precision, slots)

    def play(self, requests: Sequence[GenerationRequest]) -> list[Take]:
        """A take for each request, in their order."""
        waiting, takes = list(enumerate(requests)), dict[str, Take]()
        while len(takes) < len(requests):
            while waiting and self._engine.free_slots:
                number, request = waiting.pop(0)
                self._engine.admit(str(number), request)
            for event in self._engine.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    assert event.codes is not None
                    takes[event.key] = Take(event.clip.samples[0], event.codes.astype(np.uint16))
        return [takes[str(number)] for number in range(len(requests))]


_musician = cache(Musician)  # one a process


def _play(assets: Path, slots: int, requests: Sequence[GenerationRequest]) -> list[Take]:
    return _musician(assets, slots).play(requests)
