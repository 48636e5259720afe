"""The engine's interface: slots into which requests are admitted, and the events that decoding them yields.

One `step()` decodes one frame for every request in flight, so requests join and leave at any step; live progress and
cancel follow from that. An engine belongs to one thread, knows no job table and no web.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from studio.clip import Clip, Piece
from studio.schemas import GenerationRequest


@dataclass(frozen=True)
class Progress:
    """A request moved on: `done` of `total` decode steps."""

    key: str
    done: int
    total: int


@dataclass(frozen=True)
class Chunk:
    """The next piece of a request's audio, final: all chunks in a row are the clip that it finishes with, which has
    `round(duration * sample_rate)` samples a channel."""

    key: str
    clip: Clip


@dataclass(frozen=True)
class Finished:
    """A request is done and has left its slot."""

    key: str
    clip: Clip
    codes: npt.NDArray[np.int64] | None = (
        None  # [K, F], whose decoding it is, but for a fade: to go on takes no encoder
    )
    recipe: Mapping[str, object] = field(default_factory=dict)  # what the model made of the request: its tempo, say


@dataclass(frozen=True)
class Failed:
    """A request could not be finished and has left its slot."""

    key: str
    error: Exception


Event = Progress | Chunk | Finished | Failed


class Engine(Protocol):
    """A loaded model with `slots` places for requests in flight."""

    model: str  # the name in the catalogue
    device: str  # such as "cpu" or "cuda:0"
    precision: str  # such as "fp32"
    slots: int

    @property
    def free_slots(self) -> int: ...

    def admit(self, key: str, request: GenerationRequest, opening: Piece | None = None) -> None:
        """Encode the prompt and take the request into a free slot.

        `request.seed` is set: the same request gives the same clip, whatever else is in flight. With an `opening` the
        clip begins with its first `request.continue_seconds`, and goes on from there.

        Raises:
            InvalidRequest: this model cannot serve the request.
            OutOfMemory: there is no room; evict or wait.
        """
        ...

    def step(self) -> list[Event]:
        """One decode step for every request in flight; nothing in flight, no events."""
        ...

    def evict(self, key: str) -> None:
        """Free the slot of `key` at once; unknown keys are ignored."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


LoadProgress = Callable[[float, str], None]  # fraction 0..1, what is happening ("downloading state_dict.bin")
EngineLoader = Callable[[str, LoadProgress], Engine]  # model name -> loaded engine
