"""What music has in common, code for code: the longest run that an output shares with any of many pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FRAMES_A_SECOND = 50
SHORTEST = 8  # frames; a shorter run is found anywhere and counts as none
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial that names a run, modulo 2 ** 64

Codes = npt.NDArray[np.uint16]  # [K, F]; [F] of the first codebook alone


def read_codes(directory: Path) -> list[Codes]:
    """The pieces in a directory of codes, [K, F] each, mapped and not loaded."""
    paths = (path for path in sorted(directory.glob("codes_[0-9]*.npy")) if not path.name.endswith(".partial.npy"))
    return [piece for path in paths for piece in np.load(path, mmap_mode="r")]


def first_codes(pieces: Sequence[Codes]) -> list[Codes]:
    """Of each piece [K, F] the first codebook's [F]: what plays, where the others say how exactly it sounds."""
    return [piece[0] for piece in pieces]


def longest_runs(outputs: Sequence[Codes], pieces: Sequence[Codes]) -> npt.NDArray[np.int64]:
    """For each output the frames of the longest run of codes that any piece has too.

    Runs grow code by code, on both sides only where the other side has the same run: few are left after the first.
    """
    longest = np.zeros(len(outputs), np.int64)
    ours, theirs = _Runs(outputs), _Runs(pieces)
    for _ in range(SHORTEST - 1):
        ours.grow()
        theirs.grow()
    while len(ours.names) and len(theirs.names):
        ours.grow()
        theirs.grow()
        theirs.keep(ours.names)
        ours.keep(theirs.names)
        longest[ours.owners()] = ours.length
    return longest


def seconds(runs: npt.NDArray[np.int64]) -> dict[str, float]:
    """The longest of some runs, and their median."""
    return {
        "longest_s": round(float(runs.max()) / FRAMES_A_SECOND, 2),
        "median_s": round(float(np.median(runs)) / FRAMES_A_SECOND, 2),
    }


class _Runs:
    """All runs of one length in some sequences, each with a number for a name; the same codes have the same."""

    def __init__(self, sequences: Sequence[Codes]) -> None:
        lengths = [len(sequence) for sequence in sequences]
        self.length = 0
        self._codes = np.concatenate(sequences).astype(np.uint64) + np.uint64(1)
        self._owner = np.repeat(np.arange(len(sequences)), lengths)
        self._end = np.repeat(np.cumsum(lengths), lengths)  # of the sequence that a code is in
        self._start = np.arange(len(self._codes))
        self.names = np.zeros(len(self._codes), np.uint64)

    def grow(self) -> None:
        """By the next code, where there is one."""
        self._only(self._start + self.length < self._end[self._start])
        self.names = self.names * BASE + self._codes[self._start + self.length]
        self.length += 1

    def keep(self, names: npt.NDArray[np.uint64]) -> None:
        """Only those with a name among these."""
        known = np.unique(names)
        at = np.searchsorted(known, self.names).clip(max=len(known) - 1)
        self._only(known[at] == self.names if len(known) else np.zeros(len(self.names), bool))

    def owners(self) -> npt.NDArray[np.int64]:
        """Which sequences they are in."""
        return self._owner[self._start]

    def _only(self, kept: npt.NDArray[np.bool_]) -> None:
        self._start, self.names = self._start[kept], self.names[kept]
