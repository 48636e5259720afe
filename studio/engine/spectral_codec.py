"""musicgen-mini's neural codec: audio to 4 codes in each fiftieth of a second, and back.

A ConvNeXt encoder and decoder work on STFT frames, 100 a second, around a residual vector quantiser at 50 a second
(SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438). The decoder ends in an inverse STFT whose magnitude and
phase it predicts (Vocos, arXiv 2306.00814), so no layer runs at the sample rate. Nothing looks further than a few
frames: no recurrence, no statistics over time, so a long piece can be decoded in windows (`context_frames`).

Training (losses, moving averages of the codebooks) is `studio.training.codec`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 7  # of every depthwise convolution, in frames
MAGNITUDE_LIMIT = 100.0  # a runaway exponential must not become inf (Vocos clips here too)
COMPRESSION = 0.3  # |X| ** 0.3 brings quiet partials within the encoder's reach
LOG_FLOOR = 1e-4  # mel magnitudes under -80 dBFS count as silence


@dataclass(frozen=True)
class SpectralCodecConfig:
    """The shape of a codec; the JSON beside its weights."""

    sample_rate: int = 32_000  # Hz
    frame_rate: int = 50  # code frames a second
    channels: int = 1
    codebooks: int = 4
    cardinality: int = 1024
    n_fft: int = 1280  # samples of one STFT window
    hop: int = 320  # samples between STFT frames; a whole number of them makes one code frame
    mels: int = 128  # log-mel bands the encoder sees
    phase_bins: int = 224  # lowest STFT bins the encoder sees with their phase
    dim: int = 256
    expansion: int = 640  # hidden width of a block
    latent: int = 64  # width of a code vector
    encoder_fine: int = 1  # blocks at STFT rate
    encoder_coarse: int = 2  # blocks at code rate
    decoder_coarse: int = 2
    decoder_fine: int = 3

    def __post_init__(self) -> None:
        assert self.channels == 1, "the codec is mono"
        assert self.sample_rate % self.frame_rate == 0
        assert self.frame_hop % self.hop == 0, "a code frame is a whole number of STFT frames"
        assert (self.n_fft - self.hop) % 2 == 0
        assert self.n_fft >= 2 * self.hop
        assert self.phase_bins <= self.n_fft // 2 + 1

    @property
    def frame_hop(self) -> int:
        """Samples in one code frame."""
        return self.sample_rate // self.frame_rate

    @property
    def stride(self) -> int:
        """STFT frames in one code frame."""
        return self.frame_hop // self.hop

    @property
    def context_frames(self) -> tuple[int, int]:
        """Code frames left and right of a code frame that the audio of that frame depends on, in `decode`.

        Decoding a window with this much context on either side and dropping the context gives the samples that
        decoding the whole would.
        """
        reach = KERNEL // 2
        overlap = math.ceil((self.n_fft - self.hop) / 2 / self.hop)  # neighbouring windows that overlap a frame
        fine = reach * self.decoder_fine + overlap
        side = math.ceil(fine / self.stride) + reach * (self.decoder_coarse + 1)
        return side, side

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SpectralCodecConfig:
        return cls(**values)


class SpectralCodec(nn.Module):
    """Encoder, codebooks and decoder."""

    codebooks: Tensor  # [K, N, D]; learnt by moving averages, not by gradients

    def __init__(self, config: SpectralCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or SpectralCodecConfig()
        c = self.config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.register_buffer("codebooks", torch.zeros(c.codebooks, c.cardinality, c.latent))

    @property
    def context_frames(self) -> tuple[int, int]:
        return self.config.context_frames

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, 1, T] in -1..1 to codes [B, K, F] int64; the last frame is filled up with silence."""
        assert audio.ndim == 3, audio.shape
        assert audio.shape[1] == self.config.channels, audio.shape
        assert audio.shape[2] > 0, "no audio"
        return self.quantise(self.encoder(self._whole_frames(audio)))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, F] to audio [B, 1, F * frame_hop]."""
        c = self.config
        assert codes.ndim == 3, codes.shape
        assert codes.shape[1] == c.codebooks, codes.shape
        assert codes.shape[2] >= 1, "no frames"
        assert codes.dtype == torch.int64, codes.dtype
        audio: Tensor = self.decoder(self.dequantise(codes))
        assert audio.shape == (codes.shape[0], 1, codes.shape[2] * c.frame_hop)
        return audio

    def quantise(self, latent: Tensor) -> Tensor:
        """Latents [B, F, D] to codes [B, K, F]: each codebook codes what the ones before it left over."""
        residual = latent.float()
        codes = []
        for codebook in self.codebooks:
            index = nearest(residual, codebook)  # [B, F]
            residual = residual - codebook[index]
            codes.append(index)
        return torch.stack(codes, dim=1)

    def dequantise(self, codes: Tensor) -> Tensor:
        """Codes [B, K, F] to latents [B, F, D]."""
        vectors = [codebook[codes[:, k]] for k, codebook in enumerate(self.codebooks)]
        return torch.stack(vectors).sum(dim=0)

    def to_state(self, half: bool = True) -> dict[str, Tensor]:
        """The tensors to store, contiguous on the CPU."""
        dtype = torch.float16 if half else torch.float32
        return {name: t.detach().to("cpu", dtype).contiguous() for name, t in self.state_dict().items()}

    @classmethod
    def from_state(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SpectralCodec:
        """A codec for inference in fp32, from `config.to_json()` and `to_state()`."""
        codec = cls(SpectralCodecConfig.from_json(config))
        codec.load_state_dict({name: t.float() for name, t in tensors.items()})
        return codec.eval().requires_grad_(False)

    def save(self, path: Path, half: bool = True) -> None:
        """Write `path` (safetensors) and the configuration beside it (`.json`)."""
        from safetensors.torch import save_file

        write_json(path.with_suffix(".json"), self.config.to_json())
        partial = path.with_suffix(".partial")
        save_file(self.to_state(half), partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> SpectralCodec:
        """Read what `save` wrote."""
        import json

        from safetensors.torch import load_file

        return cls.from_state(json.loads(path.with_suffix(".json").read_text()), load_file(path))

    def _whole_frames(self, audio: Tensor) -> Tensor:
        return F.pad(audio, (0, -audio.shape[2] % self.config.frame_hop))


class Encoder(nn.Module):
    """Audio [B, 1, T] to latents [B, F, D]."""

    window: Tensor
    mel: Tensor

    def __init__(self, c: SpectralCodecConfig) -> None:
        super().__init__()
        self.config = c
        self.register_buffer("window", torch.hann_window(c.n_fft), persistent=False)
        self.register_buffer("mel", mel_filters(c.sample_rate, c.n_fft, c.mels), persistent=False)
        self.embed = nn.Linear(c.mels + 2 * c.phase_bins, c.dim)
        self.norm = nn.LayerNorm(c.dim)
        self.fine = nn.Sequential(*(Block(c.dim, c.expansion) for _ in range(c.encoder_fine)))
        self.down = nn.Linear(c.stride * c.dim, c.dim)
        self.coarse = nn.Sequential(*(Block(c.dim, c.expansion) for _ in range(c.encoder_coarse)))
        self.final_norm = nn.LayerNorm(c.dim)
        self.latent = nn.Linear(c.dim, c.latent)

    def forward(self, audio: Tensor) -> Tensor:
        assert audio.shape[2] % self.config.frame_hop == 0, audio.shape
        x = self.fine(self.norm(self.embed(self.features(audio[:, 0]))))  # [B, L, C]
        x = x.reshape(x.shape[0], x.shape[1] // self.config.stride, -1)  # [B, F, stride * C]
        x = self.coarse(self.down(x))
        latent: Tensor = self.latent(self.final_norm(x))
        return latent

    @torch.no_grad()
    def features(self, audio: Tensor) -> Tensor:
        """Audio [B, T] to [B, T / hop, mels + 2 * phase_bins]: the log-mel spectrum, and low bins with their phase."""
        c = self.config
        margin = (c.n_fft - c.hop) // 2
        frames = F.pad(audio.float(), (margin, margin)).unfold(1, c.n_fft, c.hop)  # [B, L, n_fft]
        spectrum = torch.fft.rfft(frames * self.window) * (4 / c.n_fft)  # a full-scale sine has magnitude 1
        magnitude = spectrum.abs()
        log_mel = 0.3 * (magnitude @ self.mel + LOG_FLOOR).log() + 1.5  # about zero mean, unit variance on music
        low = spectrum[..., : c.phase_bins]
        low = low * (magnitude[..., : c.phase_bins] + LOG_FLOOR).pow(COMPRESSION - 1)
        return torch.cat([log_mel, 2 * low.real, 2 * low.imag], dim=-1)


class Decoder(nn.Module):
    """Latents [B, F, D] to audio [B, 1, F * frame_hop]."""

    window: Tensor

    def __init__(self, c: SpectralCodecConfig) -> None:
        super().__init__()
        self.config = c
        self.register_buffer("window", torch.hann_window(c.n_fft), persistent=False)
        self.embed = nn.Conv1d(c.latent, c.dim, KERNEL, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(c.dim)
        self.coarse = nn.Sequential(*(Block(c.dim, c.expansion) for _ in range(c.decoder_coarse)))
        self.up = nn.Linear(c.dim, c.stride * c.dim)
        self.fine = nn.Sequential(*(Block(c.dim, c.expansion) for _ in range(c.decoder_fine)))
        self.final_norm = nn.LayerNorm(c.dim)
        self.head = nn.Linear(c.dim, 2 * (c.n_fft // 2 + 1))

    def forward(self, latent: Tensor) -> Tensor:
        x = self.embed(latent.mT).mT  # [B, F, C]
        x = self.up(self.coarse(self.norm(x)))
        x = x.reshape(x.shape[0], x.shape[1] * self.config.stride, -1)  # [B, L, C]
        x = self.head(self.final_norm(self.fine(x))).float()
        log_magnitude, phase = x.chunk(2, dim=-1)  # [B, L, n_fft / 2 + 1] each
        magnitude = log_magnitude.exp().clamp(max=MAGNITUDE_LIMIT)
        return self.overlap_add(torch.complex(magnitude * phase.cos(), magnitude * phase.sin()))[:, None]

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """Inverse STFT of [B, L, n_fft / 2 + 1] to [B, L * hop], each sample over the windows that cover it."""
        c = self.config
        frames = torch.fft.irfft(spectrum, n=c.n_fft) * self.window  # [B, L, n_fft]
        envelope = self.window.square().expand(1, frames.shape[1], -1)
        margin = (c.n_fft - c.hop) // 2
        audio = fold(frames, c.hop) / fold(envelope, c.hop).clamp(min=1e-6)
        return audio[:, margin : audio.shape[1] - margin]


class Block(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545) over frames [B, L, C], as in Vocos."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion)
        self.contract = nn.Linear(expansion, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x.mT).mT)
        y = self.contract(F.gelu(self.expand(y)))
        return x + self.scale * y


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The index of the codebook entry [N, D] nearest to each vector [..., D]."""
    distance = codebook.square().sum(dim=1) - 2 * vectors @ codebook.T  # the vector's own square changes no ranking
    return distance.argmin(dim=-1)


def fold(frames: Tensor, hop: int) -> Tensor:
    """Overlap-add frames [B, L, n] to [B, (L - 1) * hop + n]."""
    batch, count, size = frames.shape
    total = (count - 1) * hop + size
    summed: Tensor = F.fold(frames.mT, (1, total), kernel_size=(1, size), stride=(1, hop))  # [B, 1, 1, total]
    return summed.reshape(batch, total)


def mel_filters(sample_rate: int, n_fft: int, bands: int) -> Tensor:
    """Triangular mel filters [n_fft / 2 + 1, bands] (HTK scale, 0 Hz to Nyquist), each with weights summing to 1.

    A band narrower than a bin would be empty; it takes the two bins around its centre.
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    edges = edges * n_fft / sample_rate  # in bins
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None]
    centre = edges[1:-1]
    below = (centre - edges[:-2]).clamp(min=1)
    above = (edges[2:] - centre).clamp(min=1)
    rising, falling = 1 - (centre - bins) / below, 1 - (bins - centre) / above
    weights = torch.minimum(rising, falling).clamp(min=0)
    filters: Tensor = (weights / weights.sum(dim=0)).float()
    return filters


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    import json

    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(path)
