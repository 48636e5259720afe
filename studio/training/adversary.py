"""The codec's adversary: a discriminator that looks at spectra, and its losses.

Regression cannot tell a decoder which phase to choose where the codes do not say; a discriminator can tell it that
the choice must sound like music (SoundStream, arXiv 2107.03312). Convolutions over complex STFTs at several window
lengths, as in EnCodec (arXiv 2210.13438, section 3.4), but thin and with early strides, for the sake of CPUs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

WINDOWS = (2048, 1024, 512)  # samples
SLOPE = 0.2  # of the leaky ReLUs

Judgement = tuple[list[Tensor], list[list[Tensor]]]  # a score map for each window, the features behind each


class Discriminator(nn.Module):
    """Audio [B, 1, T] to score maps, high where the sound seems original."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.views = nn.ModuleList(SpectrumDiscriminator(window, width) for window in WINDOWS)

    def forward(self, audio: Tensor) -> Judgement:
        scores, features = zip(*(view(audio[:, 0]) for view in self.views), strict=True)
        return list(scores), list(features)


class SpectrumDiscriminator(nn.Module):
    """Audio [B, T] to a score map [B, 1, L, bins'] of its STFT with one window."""

    window: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        self.layers = nn.ModuleList(
            [
                convolution(2, width, (3, 8), (1, 4), (1, 2)),
                convolution(width, 2 * width, (3, 8), (1, 4), (1, 2)),
                convolution(2 * width, 2 * width, (3, 4), (2, 2), (1, 1)),
                convolution(2 * width, 2 * width, (3, 3), (1, 1), (1, 1)),
            ]
        )
        self.score = convolution(2 * width, 1, (3, 3), (1, 1), (1, 1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum = torch.stft(
            audio.float(), self.size, self.size // 4, window=self.window, center=True, return_complex=True
        )
        spectrum = spectrum * (spectrum.abs() * (2 / self.size) + 1e-4).pow(-0.7) * (2 / self.size)
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1).contiguous()  # [B, 2, L, bins]
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.score(x), features


def convolution(
    into: int, out: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> nn.Module:
    convolution: nn.Module = weight_norm(nn.Conv2d(into, out, kernel, stride, padding))
    return convolution


def discriminator_loss(original: Judgement, decoded: Judgement) -> Tensor:
    """Hinge loss: originals above 1, decoded audio below -1."""
    pairs = zip(original[0], decoded[0], strict=True)
    losses = [F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean() for real, fake in pairs]
    return torch.stack(losses).mean()


def generator_loss(decoded: Judgement) -> Tensor:
    """Hinge loss of the decoder: be taken for an original."""
    return torch.stack([F.relu(1 - fake.float()).mean() for fake in decoded[0]]).mean()


def feature_loss(original: Judgement, decoded: Judgement) -> Tensor:
    """Mean distance of the discriminator's features, relative to their size (EnCodec, equation 3)."""
    losses = []
    for real_view, fake_view in zip(original[1], decoded[1], strict=True):
        for real, fake in zip(real_view, fake_view, strict=True):
            real = real.detach().float()
            losses.append(F.l1_loss(fake.float(), real) / real.abs().mean().clamp(min=1e-3))
    return torch.stack(losses).mean()
