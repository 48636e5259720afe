"""A listener that names what it hears: genre, family of the lead instrument, drums or none, tempo class.

A small network on statistics of log-mel spectra and onset periodicity. It learns from pieces that the training music
does not have, rendered with another soundfont, half of the clips through the codec: what it knows is how the
music is made, and neither one soundfont's sound nor the codec's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine.spectral_codec import SpectralCodec, mel_filters
from studio.training.captions import Expectation
from studio.training.compose import INSTRUMENTS, Description, compose
from studio.training.render import SAMPLE_RATE, Renderer

log = logging.getLogger(__name__)

Audio = npt.NDArray[np.float32]
Truth = dict[str, str | None]  # field -> its name; None where it was not asked for

FIELDS = ("genre", "lead", "drums", "tempo")
FIRST_SEED = 3_000_000_000  # beyond all other pieces
CLIP_S, CLIPS = 8.0, 2  # cut from each piece
PART = 50  # pieces that a process hears at a time
HELD_OUT_SHARE = 1 / 6
WINDOW, HOP, BANDS = 1024, 320, 48
SHORTEST_LAG, LONGEST_LAG = 20, 150  # hops: 300 to 40 beats a minute
EPOCHS, BATCH, WIDTH = 60, 64, 256
LEARNING_RATE, MIXED, SMOOTHED = 1e-3, 0.4, 0.1


def truth_of_piece(description: Description) -> Truth:
    lead = INSTRUMENTS[description.lead].family if description.instruments else "drums"
    drums = "drums" if description.has_drums else "none"
    return {"genre": description.genre, "lead": lead, "drums": drums, "tempo": description.tempo}


def truth_of_prompt(expected: Expectation) -> Truth:
    lead = INSTRUMENTS[expected.lead].family if expected.lead else None
    drums = None if expected.drums is None else ("drums" if expected.drums else "none")
    return {"genre": expected.genre, "lead": lead, "drums": drums, "tempo": expected.tempo}


def features(audio: Audio) -> Tensor:
    """A clip [T] to numbers [N] that do not depend on its level."""
    samples = torch.from_numpy(np.ascontiguousarray(audio))
    spectrum = torch.stft(samples, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs()
    mel = (mel_filters(SAMPLE_RATE, WINDOW, BANDS).T @ spectrum + 1e-3).log()  # [BANDS, L]
    mel = mel - mel.mean()
    rise = mel.diff(dim=1).clamp(min=0)
    quantiles = torch.quantile(mel, torch.tensor([0.1, 0.9]), dim=1)
    groups = [_periodicity(rise[low:high].sum(0)) for low, high in ((0, 8), (8, 24), (24, BANDS))]
    return torch.cat([mel.mean(1), mel.std(1), *quantiles, rise.mean(1), rise.std(1), *groups])


def _periodicity(onsets: Tensor) -> Tensor:
    """Autocorrelation of an onset envelope [L] at the lags of beats, 1 at lag 0."""
    centred = onsets - onsets.mean()
    power = torch.fft.rfft(centred, 2 * len(centred)).abs().square()
    correlation = torch.fft.irfft(power)
    periodicity: Tensor = correlation[SHORTEST_LAG:LONGEST_LAG] / (correlation[0] + 1e-9)
    return periodicity


class Listener(Protocol):
    """Says what a clip [T] at 32 kHz sounds like."""

    def hear(self, audio: Audio) -> Truth: ...


@dataclass
class Judge:
    """Trained, with how often it is right about held-out music of its own kind."""

    network: nn.Sequential
    mean: Tensor
    deviation: Tensor
    names: dict[str, list[str]]
    accuracy: dict[str, float]

    @torch.no_grad()
    def hear(self, audio: Audio) -> Truth:
        """What a clip [T] sounds like."""
        scores = self.network(((features(audio) - self.mean) / self.deviation)[None])
        parts = scores[0].split([len(names) for names in self.names.values()])
        return {
            field: names[int(part.argmax())] for (field, names), part in zip(self.names.items(), parts, strict=True)
        }

    @torch.no_grad()
    def embed(self, audio: Audio) -> Tensor:
        """The hidden layer [D] when it hears a clip [T]."""
        hidden: Tensor = self.network[:-1](((features(audio) - self.mean) / self.deviation)[None])[0]
        return hidden

    @classmethod
    def learn(cls, pieces: int, soundfont: Path, codec: SpectralCodec, cache: Path, workers: int = 1) -> Judge:
        """Render, listen and learn; what was heard is kept in `cache` for the same codes and number of pieces."""
        heard = _cached(pieces, soundfont, codec, cache, workers)
        x, truths = heard["features"], heard["truths"]
        names = {field: sorted({truth[field] for truth in truths}) for field in FIELDS}
        y = torch.tensor([[names[field].index(truth[field]) for field in FIELDS] for truth in truths])
        kept = round(len(x) * (1 - HELD_OUT_SHARE)) // (2 * CLIPS) * 2 * CLIPS  # all clips of a piece on one side
        mean, deviation = x[:kept].mean(0), x[:kept].std(0) + 1e-3
        network = _fit((x[:kept] - mean) / deviation, y[:kept], [len(n) for n in names.values()])
        judge = cls(network, mean, deviation, names, {})
        judge.accuracy = judge._right((x[kept:] - mean) / deviation, y[kept:])
        log.info("the judge is right about held-out music: %s", judge.accuracy)
        return judge

    @torch.no_grad()
    def _right(self, x: Tensor, y: Tensor) -> dict[str, float]:
        parts = self.network(x).split([len(names) for names in self.names.values()], dim=1)
        shares = [(part.argmax(1) == y[:, n]).float().mean().item() for n, part in enumerate(parts)]
        return dict(zip(FIELDS, (round(share, 3) for share in shares), strict=True))


def _fit(x: Tensor, y: Tensor, sizes: list[int]) -> nn.Sequential:
    """Learns from mixtures of two clips, whose truths are mixed alike (Zhang et al., mixup, 2018): there are few."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.2), nn.Linear(x.shape[1], WIDTH), nn.GELU(), nn.Dropout(0.4),
                            nn.Linear(WIDTH, sum(sizes)))  # fmt: skip
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.05)
    truths = torch.cat([F.one_hot(y[:, n], size) for n, size in enumerate(sizes)], dim=1).float()
    share = torch.distributions.Beta(MIXED, MIXED)
    for epoch in range(EPOCHS):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - epoch / EPOCHS))
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            others, part = rows[torch.randperm(len(rows))], share.sample((len(rows), 1))
            mixed, wanted = (part * each[rows] + (1 - part) * each[others] for each in (x, truths))
            scores = zip(*(torch.split(each, sizes, dim=1) for each in (network(mixed), wanted)), strict=True)
            loss = torch.stack([F.cross_entropy(found, true, label_smoothing=SMOOTHED) for found, true in scores]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval()


def _cached(pieces: int, soundfont: Path, codec: SpectralCodec, cache: Path, workers: int) -> dict[str, Any]:
    key = f"{pieces} {soundfont.name} {_digest(codec)}"
    if cache.exists():
        stored: dict[str, Any] = torch.load(cache, weights_only=True)
        if stored["key"] == key:
            return stored
    rows = list(_listen(pieces, soundfont, codec, workers))
    heard = {"key": key, "features": torch.stack([x for x, _ in rows]), "truths": [truth for _, truth in rows]}
    torch.save(heard, cache)
    return heard


def _listen(pieces: int, soundfont: Path, codec: SpectralCodec, workers: int) -> Iterator[tuple[Tensor, Truth]]:
    """Features and truth of each clip, and of the same clip through the codec."""
    parts = [range(start, min(start + PART, pieces)) for start in range(0, pieces, PART)]
    with get_context("spawn").Pool(workers) as pool:
        for part, heard in zip(parts, pool.imap(partial(_hear, soundfont, codec), parts), strict=True):
            log.info("the judge has heard %d of %d pieces", part.stop, pieces)
            for rows, truth in heard:
                yield from ((torch.from_numpy(row), truth) for row in rows)


def _hear(soundfont: Path, codec: SpectralCodec, numbers: range) -> list[tuple[npt.NDArray[np.float32], Truth]]:
    """The features of each piece's clips [2 * CLIPS, N], and its truth; in a process of its own, on one core."""
    torch.set_num_threads(1)
    renderer, length = Renderer(soundfont), round(CLIP_S * SAMPLE_RATE)
    found = []
    for number in numbers:
        piece = compose(FIRST_SEED + number, CLIPS * CLIP_S)
        clips = renderer.render(piece)[: CLIPS * length].reshape(CLIPS, length)
        coded = codec.decode(codec.encode(torch.from_numpy(clips)[:, None]))[:, 0, :length].numpy()
        heard = torch.stack([features(clip) for clip in (*clips, *coded)])
        found.append((heard.numpy(), truth_of_piece(piece.description)))
    return found


def _digest(codec: SpectralCodec) -> str:
    """Of its codebooks: a decoder that learned on does not make what was heard wrong."""
    return hashlib.sha256(codec.codebooks.numpy().tobytes()).hexdigest()[:16]
