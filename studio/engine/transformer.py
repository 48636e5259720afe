"""The decoder's transformer: its shape, its weights fused from audiocraft's, and one step of it. Knows no slots.

The architecture is audiocraft 1.3.0's LMModel as released (modules/transformer.py, models/lm.py): norm first, no
biases but the norms', exact GELU, sinusoidal positions.
"""

from __future__ import annotations

from dataclasses import dataclass

MONO_DELAYS = (0, 1, 2, 3)
STEREO_DELAYS = (0, 0, 1, 1, 2, 2, 3, 3)


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder."""

    dim: int
    heads: int
    layers: int
    ffn: int  # hidden width of the feed-forward
    delays: tuple[int, ...] = MONO_DELAYS  # frames by which each codebook lags
    cardinality: int = 1024  # codes a codebook; the code after the last is the special token
    cross_attention: bool = True
    max_period: float = 10_000.0  # of the sinusoidal positions
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        assert self.dim % (2 * self.heads) == 0, (self.dim, self.heads)

    @property
    def codebooks(self) -> int:
        """K."""
        return len(self.delays)
