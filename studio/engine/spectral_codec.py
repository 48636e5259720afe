"""musicgen-mini's neural codec: audio to 4 codes in each fiftieth of a second, and back.

A ConvNeXt encoder and decoder work on STFT frames, 100 a second, around a residual vector quantiser at 50 a second
(SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438). The decoder ends in an inverse STFT whose magnitude and
phase it predicts (Vocos, arXiv 2306.00814), so no layer runs at the sample rate, and in a bank of oscillators on a
fine tempered scale and bands of noise, whose levels it predicts (as in DDSP, arXiv 2001.04643).

Why oscillators: 2 kbit/s cannot carry the phase of each partial, and where codes stand still, convolutions predict the
same frame again and again: a tone becomes a buzz at the frame rate, out of tune. Oscillators keep their own phase;
a frame repeated cannot hiss either, hence the noise.
So the encoder codes no phase at all, which also leaves the language model less to predict.

Nothing looks further than a few frames: no recurrence, no statistics over time, so a long piece can be decoded in
windows (`context_frames`) by one who says where in the piece a window starts.

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
LOWEST_OSCILLATOR = 27.5  # Hz, A0
NOISE_FRAMES = 256  # STFT frames after which the noise repeats
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
    long_fft: int = 4096  # samples of a longer window, in which the encoder sees low pitches apart
    long_bins: int = 192  # its lowest bins
    oscillators: int = 288  # eight octaves
    noise_bands: int = 18
    oscillators_per_octave: int = 36  # at A = 440 Hz; no partial is further than a sixth of a semitone from one
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
        assert (self.long_fft - self.hop) % 2 == 0
        assert self.long_bins <= self.long_fft // 2 + 1
        assert LOWEST_OSCILLATOR * 2 ** (self.oscillators / self.oscillators_per_octave) < self.sample_rate / 2

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
    def decode(self, codes: Tensor, first_frame: int = 0) -> Tensor:
        """Codes [B, K, F] to audio [B, 1, F * frame_hop].

        `first_frame` is where in their piece the codes start: oscillators continue from window to window.
        """
        c = self.config
        assert codes.ndim == 3, codes.shape
        assert codes.shape[1] == c.codebooks, codes.shape
        assert codes.shape[2] >= 1, "no frames"
        assert codes.dtype == torch.int64, codes.dtype
        audio: Tensor = self.decoder(self.dequantise(codes), first_frame)
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
    long_window: Tensor
    mel: Tensor

    def __init__(self, c: SpectralCodecConfig) -> None:
        super().__init__()
        self.config = c
        self.register_buffer("window", torch.hann_window(c.n_fft), persistent=False)
        self.register_buffer("long_window", torch.hann_window(c.long_fft), persistent=False)
        self.register_buffer("mel", mel_filters(c.sample_rate, c.n_fft, c.mels), persistent=False)
        self.embed = nn.Linear(c.mels + c.long_bins, c.dim)
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
        """Audio [B, T] to [B, T / hop, mels + long_bins]: log-mel bands, and low bins of a longer window."""
        return 0.3 * (self.levels(audio) + LOG_FLOOR).log() + 1.5  # about zero mean and unit variance on music

    def levels(self, audio: Tensor) -> Tensor:
        """The magnitudes behind the features."""
        mel = self._magnitudes(audio, self.window) @ self.mel
        low = self._magnitudes(audio, self.long_window)[..., : self.config.long_bins]
        return torch.cat([mel, low], dim=-1)

    def _magnitudes(self, audio: Tensor, window: Tensor) -> Tensor:
        """[B, T] to [B, T / hop, bins]; a full-scale sine has magnitude 1."""
        size, hop = window.shape[0], self.config.hop
        margin = (size - hop) // 2
        frames = F.pad(audio.float(), (margin, margin)).unfold(1, size, hop)  # [B, L, size]
        magnitudes: Tensor = torch.fft.rfft(frames * (window * (4 / size))).abs()
        return magnitudes


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
        self.oscillators = Oscillators(c)
        self.noise = Noise(c)

    def forward(self, latent: Tensor, first_frame: int = 0) -> Tensor:
        return self.sound(self.trunk(latent), first_frame)

    def sound(self, x: Tensor, first_frame: int) -> Tensor:
        """What the trunk made, [B, L, C], to audio [B, 1, L * hop]."""
        first_frame *= self.config.stride
        log_magnitude, phase = self.head(x).float().chunk(2, dim=-1)  # [B, L, n_fft / 2 + 1] each
        magnitude = log_magnitude.exp().clamp(max=MAGNITUDE_LIMIT)
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        tones: Tensor = self.oscillators(x, first_frame)
        return (self.overlap_add(spectrum + self.noise(x, first_frame)) + tones)[:, None]

    def trunk(self, latent: Tensor) -> Tensor:
        """Latents [B, F, D] to what magnitudes, phases and levels are read from, [B, L, C]."""
        x = self.embed(latent.mT).mT  # [B, F, C]
        x = self.up(self.coarse(self.norm(x)))
        x = self.fine(x.reshape(x.shape[0], x.shape[1] * self.config.stride, -1))
        deep: Tensor = self.final_norm(x)
        return deep

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """Inverse STFT of [B, L, n_fft / 2 + 1] to [B, L * hop], each sample over the windows that cover it."""
        c = self.config
        frames = torch.fft.irfft(spectrum, n=c.n_fft) * self.window  # [B, L, n_fft]
        return overlap_add(frames, self.window.square(), c.hop)


class Oscillators(nn.Module):
    """Sines at fixed frequencies that never lose their phase; only their levels follow x [B, L, C]."""

    level_window: Tensor
    waves: Tensor
    turns: Tensor

    def __init__(self, c: SpectralCodecConfig) -> None:
        super().__init__()
        self.hop = c.hop
        self.level = nn.Linear(c.dim, c.oscillators)
        nn.init.normal_(self.level.weight, std=0.01)
        nn.init.constant_(self.level.bias, -7.0)  # near silence
        steps = torch.arange(c.oscillators, dtype=torch.float64) / c.oscillators_per_octave
        turns = LOWEST_OSCILLATOR * 2**steps / c.sample_rate  # a sample
        angle = 2 * math.pi * turns[:, None] * torch.arange(2 * c.hop, dtype=torch.float64)
        self.register_buffer("turns", turns * c.hop, persistent=False)  # [M] in a frame
        self.register_buffer("waves", torch.cat([angle.cos(), angle.sin()]).float(), persistent=False)
        self.register_buffer("level_window", torch.hann_window(2 * c.hop), persistent=False)

    def forward(self, x: Tensor, first_frame: int) -> Tensor:
        """[B, L, C], of which the first is frame `first_frame` of the piece, to [B, L * hop]."""
        level = self.level(x).float().exp().clamp(max=1.0)  # [B, L, M]
        frame = torch.arange(first_frame, first_frame + x.shape[1], dtype=torch.float64, device=x.device)
        angle = ((frame[:, None] * self.turns.double() + self._start()) % 1 * (2 * math.pi)).float()  # [L, M]
        with torch.autocast(x.device.type, enabled=False):  # bf16 would add noise at -50 dB
            waves = torch.cat([level * angle.cos(), -level * angle.sin()], dim=-1) @ self.waves  # [B, L, 2 * hop]
        return overlap_add(waves * self.level_window, self.level_window, self.hop)

    def _start(self) -> Tensor:
        """Phases at the start of a piece, in turns, spread so that the tones do not peak together."""
        index = torch.arange(self.turns.shape[0], dtype=torch.float64, device=self.turns.device)
        return index * ((math.sqrt(5) - 1) / 2)


class Noise(nn.Module):
    """White noise, always the same, in bands whose levels follow x [B, L, C]."""

    spectra: Tensor
    bands: Tensor

    def __init__(self, c: SpectralCodecConfig) -> None:
        super().__init__()
        self.level = nn.Linear(c.dim, c.noise_bands)
        nn.init.normal_(self.level.weight, std=0.01)
        nn.init.constant_(self.level.bias, -4.0)
        white = torch.randn(NOISE_FRAMES * c.hop, generator=torch.Generator().manual_seed(0))
        frames = torch.cat([white, white[: c.n_fft - c.hop]]).unfold(0, c.n_fft, c.hop)
        spectra = torch.fft.rfft(frames * torch.hann_window(c.n_fft)) * c.n_fft**-0.5
        self.register_buffer("spectra", spectra, persistent=False)  # [NOISE_FRAMES, bins]
        filters = mel_filters(c.sample_rate, c.n_fft, c.noise_bands)
        bands = (filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-6)).T  # of any bin, weights sum to 1
        self.register_buffer("bands", bands, persistent=False)  # [bands, bins]

    def forward(self, x: Tensor, first_frame: int) -> Tensor:
        """[B, L, C] to the noise's STFT [B, L, bins]."""
        level = self.level(x).float().exp().clamp(max=MAGNITUDE_LIMIT) @ self.bands
        frame = torch.arange(first_frame, first_frame + x.shape[1], device=x.device) % NOISE_FRAMES
        noise: Tensor = level * self.spectra[frame]
        return noise


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
        mixed: Tensor = x + self.scale * y
        return mixed


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The index of the codebook entry [N, D] nearest to each vector [..., D]."""
    distance = codebook.square().sum(dim=1) - 2 * vectors @ codebook.T  # the vector's own square changes no ranking
    return distance.argmin(dim=-1)


def overlap_add(frames: Tensor, envelope: Tensor, hop: int) -> Tensor:
    """Windowed frames [B, L, n] to [B, L * hop], divided by the overlapping envelopes [n]; frames lie centred."""
    envelopes = envelope.expand(1, frames.shape[1], -1)
    margin = (frames.shape[2] - hop) // 2
    audio = fold(frames, hop) / fold(envelopes, hop).clamp(min=1e-6)
    return audio[:, margin : audio.shape[1] - margin]


def fold(frames: Tensor, hop: int) -> Tensor:
    """Overlap-add frames [B, L, n] to [B, (L - 1) * hop + n]."""
    batch, count, size = frames.shape
    total = (count - 1) * hop + size
    summed = F.fold(frames.mT, (1, total), kernel_size=(1, size), stride=(1, hop))  # [B, 1, 1, total]
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
