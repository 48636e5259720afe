"""Codes that come bit by bit become the same audio as the whole: what is given out, no later code can change.

A convolution sees some frames to either side, so audio is given out once those have come, and each piece is computed
with them around it. A recurrence carries its state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class Stream(Protocol):
    """One request's way from codes to audio."""

    def push(self, codes: Tensor, last: bool) -> Tensor:
        """The codes [K, F] that come next, `last` if none follow, to the audio [C, T] that is final now, T may be 0."""
        ...


class Windowed:
    """A function of frames [C, F] to [D, F * hop] that sees `context` frames to the left and to the right."""

    def __init__(self, function: Callable[[Tensor, int], Tensor], context: tuple[int, int], hop: int) -> None:
        """`function` is given a window and the number of its first frame."""
        self._function, self._hop = function, hop
        self._left, self._right = context
        self._window: Tensor | None = None  # frames from `_first` on
        self._first = 0
        self._done = 0  # frames given out

    def push(self, codes: Tensor, last: bool) -> Tensor:
        self._window = codes if self._window is None else torch.cat([self._window, codes], dim=-1)
        come = self._first + self._window.shape[-1]
        stop = max(come if last else come - self._right, self._done)
        y = self._function(self._window, self._first) if stop > self._done else self._nothing(codes)
        given = y[:, (self._done - self._first) * self._hop : (stop - self._first) * self._hop]
        keep = max(stop - self._left, self._first)
        self._window, self._first, self._done = self._window[:, keep - self._first :], keep, stop
        return given

    def _nothing(self, codes: Tensor) -> Tensor:
        return torch.zeros(1, 0, device=codes.device)


class Chain:
    """One stream into another."""

    def __init__(self, *streams: Stream) -> None:
        self._streams = streams

    def push(self, codes: Tensor, last: bool) -> Tensor:
        x = codes
        for stream in self._streams:
            if x.shape[-1] == 0 and not last:
                return torch.zeros(1, 0, device=codes.device)
            x = stream.push(x, last)
        return x


class Recurrent:
    """An LSTM over frames [C, F] with its input added to its output, as in EnCodec."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self._lstm = lstm
        self._state: tuple[Tensor, Tensor] | None = None

    def push(self, codes: Tensor, last: bool) -> Tensor:
        if codes.shape[-1] == 0:
            return codes
        y: Tensor
        y, self._state = self._lstm(codes.T, self._state)
        return codes + y.T


class Interleaved:
    """A stereo codec made of a mono one: left and right take the codebooks in turn."""

    def __init__(self, left: Stream, right: Stream) -> None:
        self._left, self._right = left, right

    def push(self, codes: Tensor, last: bool) -> Tensor:
        return torch.cat([self._left.push(codes[0::2], last), self._right.push(codes[1::2], last)])
