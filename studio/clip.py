"""Music in memory: what the engine makes and `studio.audio` saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Clip:
    """Samples and their rate."""

    samples: npt.NDArray[np.float32]  # [channels, time], -1..1
    sample_rate: int  # Hz

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.samples.shape[1] / self.sample_rate)


@dataclass(frozen=True)
class Piece:
    """A clip that somebody goes on from, and what is known of how it was made."""

    clip: Clip
    recipe: Mapping[str, object] = field(default_factory=dict)
    codes: npt.NDArray[np.int64] | None = None  # [K, F], whose decoding it is, or was before its loudness was changed
