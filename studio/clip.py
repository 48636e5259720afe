"""Music in memory: what the engine makes and `studio.audio` saves."""

from __future__ import annotations

from dataclasses import dataclass

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
