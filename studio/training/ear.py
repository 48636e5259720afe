"""The judge's ear: a small network on a clip's log-mel spectrogram, and on statistics of it.

Convolutions along time hear timbre and figures wherever they are; the statistics know how loud each band is over the
whole clip and how onsets repeat, which is the beat.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine.spectral_codec import mel_filters
from studio.training.render import SAMPLE_RATE

WINDOW, HOP, BANDS = 1024, 320, 64
STEPS = 16  # of a neper: how finely a spectrogram is kept
SILENT = 128  # a clip's mean level
SHORTEST_LAG, LONGEST_LAG = 20, 150  # hops: 300 to 40 beats a minute
REGISTERS = (0, 10, 32, BANDS)  # whose onsets are heard apart
STATISTICS = 6 * BANDS + 3 * (LONGEST_LAG - SHORTEST_LAG)
CHANNELS, WIDTH = (96, 128, 192), 256
EPOCHS, BATCH, LEARNING_RATE, MIXED, SMOOTHED = 20, 64, 1e-3, 0.4, 0.1
PART = 256  # clips at a time, where they are many


def spectrogram(audio: npt.NDArray[np.float32]) -> Tensor:
    """A clip [T] at 32 kHz to its log-mel spectrogram about its mean, uint8 [BANDS, L], whatever its level."""
    samples = torch.from_numpy(np.ascontiguousarray(audio))
    spectrum = torch.stft(samples, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs()
    mel = (mel_filters(SAMPLE_RATE, WINDOW, BANDS).T @ spectrum + 1e-3).log()
    return ((mel - mel.mean()) * STEPS).round().add(SILENT).clamp(0, 255).to(torch.uint8)


def nepers(spectrograms: Tensor) -> Tensor:
    """Kept spectrograms as numbers again."""
    return (spectrograms.float() - SILENT) / STEPS


def statistics(mel: Tensor) -> Tensor:
    """Spectrograms [B, BANDS, L] in nepers to [B, STATISTICS]."""
    rise = mel.diff(dim=2).clamp(min=0)
    quantiles = torch.quantile(mel, torch.tensor([0.1, 0.9]), dim=2)
    beats = [_periodicity(rise[:, low:high].sum(1)) for low, high in pairwise(REGISTERS)]
    return torch.cat([mel.mean(2), mel.std(2), *quantiles, rise.mean(2), rise.std(2), *beats], dim=1)


def _periodicity(onsets: Tensor) -> Tensor:
    """Autocorrelation of onset envelopes [B, L] at the lags of beats, 1 at lag 0."""
    centred = onsets - onsets.mean(dim=1, keepdim=True)
    power = torch.fft.rfft(centred, 2 * centred.shape[1]).abs().square()
    correlation = torch.fft.irfft(power)
    periodicity: Tensor = correlation[:, SHORTEST_LAG:LONGEST_LAG] / (correlation[:, :1] + 1e-9)
    return periodicity


class Ear(nn.Module):
    """From what a clip sounds like to scores, of which several questions have a part each."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(STATISTICS))
        self.register_buffer("deviation", torch.ones(STATISTICS))
        layers: list[nn.Module] = []
        for into, out, kernel, stride in zip((BANDS, *CHANNELS), CHANNELS, (5, 5, 3), (4, 2, 2), strict=False):
            layers += [nn.Conv1d(into, out, kernel, stride, kernel // 2), nn.BatchNorm1d(out), nn.GELU()]
        self.figures = nn.Sequential(*layers)
        self.of_figures = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * CHANNELS[-1], WIDTH))
        self.of_statistics = nn.Sequential(nn.Dropout(0.2), nn.Linear(STATISTICS, WIDTH))
        self.answer = nn.Sequential(nn.Dropout(0.4), nn.Linear(WIDTH, answers))

    def embed(self, mel: Tensor, known: Tensor) -> Tensor:
        """[B, BANDS, L] and statistics [B, STATISTICS] to [B, WIDTH]."""
        figures = self.figures(mel)
        pooled = torch.cat([figures.mean(2), figures.amax(2)], dim=1)
        heard = self.of_figures(pooled) + self.of_statistics((known - self.mean) / self.deviation)
        return F.gelu(heard)

    def forward(self, mel: Tensor, known: Tensor) -> Tensor:
        scores: Tensor = self.answer(self.embed(mel, known))
        return scores

    @torch.no_grad()
    def hear(self, spectrograms: Tensor) -> Tensor:
        """Scores of kept spectrograms [B, BANDS, L]."""
        parts = map(nepers, torch.split(spectrograms, PART))
        return torch.cat([self(part, statistics(part)) for part in parts])


def learn(spectrograms: Tensor, truths: Tensor, sizes: list[int]) -> Ear:
    """An ear for kept spectrograms [N, BANDS, L] whose answers to several questions are truths [N, Q].

    It learns from mixtures of two clips, whose truths are mixed alike (Zhang et al., mixup, 2018), begun anywhere.
    """
    torch.manual_seed(0)
    ear, share = Ear(sum(sizes)), torch.distributions.Beta(MIXED, MIXED)
    known = torch.cat([statistics(nepers(part)) for part in torch.split(spectrograms, PART)])
    ear.mean.copy_(known.mean(0))
    ear.deviation.copy_(known.std(0) + 1e-3)
    wanted = torch.cat([F.one_hot(truths[:, n], size) for n, size in enumerate(sizes)], dim=1).float()
    optimiser = torch.optim.AdamW(ear.parameters(), LEARNING_RATE, weight_decay=0.05)
    for epoch in range(EPOCHS):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - epoch / EPOCHS))
        for rows in torch.split(torch.randperm(len(known)), BATCH):
            others, part = rows[torch.randperm(len(rows))], share.sample((len(rows), 1))
            begun = int(torch.randint(spectrograms.shape[2], ()))
            mel, numbers, answers = (_mixed(of[rows], of[others], part) for of in (spectrograms, known, wanted))
            with torch.autocast("cpu", torch.bfloat16):
                scores = ear(nepers(mel).roll(begun, 2), numbers)
            pairs = zip(*(torch.split(of.float(), sizes, 1) for of in (scores, answers)), strict=True)
            loss = torch.stack([F.cross_entropy(found, true, label_smoothing=SMOOTHED) for found, true in pairs]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return ear.eval()


def _mixed(some: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """[B, …] each, and how much [B, 1] of the first."""
    of_first = share.view(-1, *[1] * (some.ndim - 1))
    return of_first * some + (1 - of_first) * others
