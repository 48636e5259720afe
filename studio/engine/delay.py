"""The delay pattern between codebooks: codes [K, F] to what the decoder reads and writes, and back. Knows no model.

Codebook k lags by delays[k] steps; what lies outside is the special token. Copet et al., "Simple and controllable music
generation" (2023), section 2.2; audiocraft's DelayedPatternProvider (modules/codebooks_patterns.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def steps(frames: int, delays: Sequence[int]) -> int:
    """Decode steps that `frames` frames take."""
    return frames + max(delays)


def delay(codes: Tensor, delays: Sequence[int], special: int) -> Tensor:
    """Codes [..., K, F] to the decoder's sequence [..., K, 1 + steps], which starts with a column of special tokens."""
    *batch, codebooks, frames = codes.shape
    assert codebooks == len(delays), (codes.shape, delays)
    sequence = codes.new_full((*batch, codebooks, 1 + steps(frames, delays)), special)
    for k, lag in enumerate(delays):
        sequence[..., k, 1 + lag : 1 + lag + frames] = codes[..., k, :]
    return sequence


def undelay(sequence: Tensor, delays: Sequence[int]) -> Tensor:
    """A sequence [..., K, 1 + steps] back to codes [..., K, F]."""
    *_, codebooks, length = sequence.shape
    assert codebooks == len(delays), (sequence.shape, delays)
    frames = length - 1 - max(delays)
    return torch.stack([sequence[..., k, 1 + lag : 1 + lag + frames] for k, lag in enumerate(delays)], dim=-2)
