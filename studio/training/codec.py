"""Trains musicgen-mini's codec, `studio.engine.spectral_codec`, and encodes the training music with it.

First the codes: encoder, codebooks and the decoder's trunk learn to carry the encoder's own features, log-mel bands
and low bins. That takes no audio loss, so it is fast, and codes get to know pitch, which they did not from audio
losses within an hour on two cores. Then the sound: codes stay as they are, and the decoder learns to make audio of
them; a language model can be trained meanwhile. Last, it learns from an adversary (`adversary`) what music sounds like
where the codes do not say.

Everything random comes from (seed, step), so a resumed run continues as if it had not stopped. CPU or CUDA.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine.spectral_codec import (
    LOG_FLOOR,
    SpectralCodec,
    SpectralCodecConfig,
    mel_filters,
    nearest,
)
from studio.training.adversary import Discriminator, discriminator_loss, feature_loss, generator_loss
from studio.training.data import read_shards

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
STEADY_WINDOWS = (512, 2048)  # samples; in every step
ALTERNATING_WINDOWS = (4096, 8192, 256, 4096, 8192, 1024)  # one of them a step: spectra cost more than the codec
PHASE_WINDOW = 512  # where phase is compared too
MODULATION_WINDOW = 256  # where loudness over time is looked at
MODULATION_HZ = 2.0  # about the rate of the codec's STFT, and about its double
MEL_BANDS = {256: 24, 512: 40, 1024: 80, 2048: 160, 4096: 256, 8192: 320}  # STFT window in samples -> bands
DISTANCE_WINDOWS = (1024, 2048, 4096)  # samples
DISTANCE_BANDS = 80


@dataclass(frozen=True)
class CodecTraining:
    """How to train."""

    codec: SpectralCodecConfig = field(default_factory=SpectralCodecConfig)
    code_steps: int = 1_750  # steps in which codes are learnt; the decoder's come after them
    steps: int = 6_000  # both
    stop_after: int | None = None  # step at which to pause, for a later run to go on
    batch: int = 16
    crop_frames: int = 50  # code frames of a training example
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-5
    warmup: int = 100  # steps
    weight_decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    quantise_after: int = 150  # step; until then the latents go through as they are, and take shape
    ema_decay: float = 0.98
    restart_below: float = 0.08  # a code used less than this share of the mean use starts again
    commitment: float = 0.25
    low_weight: float = 2.0
    anchor_weight: float = 0.2
    peak_weight: float = 1.0
    phase_weight: float = 0.2
    modulation_weight: float = 0.0
    adversarial_after: int | None = None  # step from which a discriminator takes part
    adversarial_weight: float = 0.3
    matching_weight: float = 1.0
    discriminator_learning_rate: float = 3e-4
    seed: int = 0
    device: str = "auto"
    log_every: int = 20  # steps
    checkpoint_every_s: float = 180.0
    rescan_every_s: float = 30.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class State:
    """Everything a checkpoint holds."""

    codec: SpectralCodec
    feature_head: nn.Linear
    optimiser: torch.optim.Optimizer
    averages: CodebookAverages
    discriminator: Discriminator
    discriminator_optimiser: torch.optim.Optimizer
    step: int = 0

    def to_checkpoint(self, config: CodecTraining) -> dict[str, Any]:
        return {
            "config": config.to_json(),
            "step": self.step,
            "codec": self.codec.state_dict(),
            "feature_head": self.feature_head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averages": self.averages.to_state(),
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]
        self.codec.load_state_dict(checkpoint["codec"])
        self.feature_head.load_state_dict(checkpoint["feature_head"])
        self.optimiser.load_state_dict(checkpoint["optimiser"])
        self.averages.restore(checkpoint["averages"])
        self.discriminator.load_state_dict(checkpoint["discriminator"])
        self.discriminator_optimiser.load_state_dict(checkpoint["discriminator_optimiser"])


def train(config: CodecTraining, data_dir: Path, out_dir: Path) -> Path:
    """Train to the last step, from the newest checkpoint in `out_dir` if there is one; return the last checkpoint."""
    out_dir.mkdir(parents=True, exist_ok=True)
    device = torch.device(pick_device(config.device))
    state = new_state(config, device)
    newest = newest_checkpoint(out_dir)
    if newest is not None:
        state.restore(torch.load(newest, map_location=device, weights_only=True))
        log.info("resumed from %s", newest)
    music = Music(data_dir, config)
    loss = SpectralLoss(config.codec).to(device)
    saved_at = time.monotonic()
    path = newest
    with Journal(out_dir / "log.jsonl", config) as journal:
        last = config.steps if config.stop_after is None else config.stop_after
        while state.step < last:
            batch = music.batch(state.step).to(device)
            losses = advance(state, config, loss, batch)
            state.step += 1
            journal.note(state.step, losses, len(music))
            if state.step == last or time.monotonic() - saved_at > config.checkpoint_every_s:
                path = save_checkpoint(state, config, out_dir)
                saved_at = time.monotonic()
    assert path is not None
    return path


def new_state(config: CodecTraining, device: torch.device) -> State:
    torch.manual_seed(config.seed)
    codec = SpectralCodec(config.codec).to(device)
    feature_head = nn.Linear(config.codec.dim, config.codec.mels + config.codec.long_bins).to(device)
    discriminator = Discriminator().to(device)
    return State(
        codec=codec,
        feature_head=feature_head,
        optimiser=torch.optim.AdamW(
            [*codec.parameters(), *feature_head.parameters()],
            config.learning_rate,
            betas=(0.8, 0.99),
            weight_decay=config.weight_decay,
        ),
        averages=CodebookAverages(codec.codebooks, config),
        discriminator=discriminator,
        discriminator_optimiser=torch.optim.AdamW(
            discriminator.parameters(), config.discriminator_learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        ),
    )


def begin(config: CodecTraining, codec: SpectralCodec, out_dir: Path) -> Path:
    """A checkpoint of a trained codec from which the adversary's steps go on, if the recipe has any, or the end."""
    out_dir.mkdir(parents=True, exist_ok=True)
    state = new_state(config, torch.device("cpu"))
    state.codec.load_state_dict(codec.float().state_dict())
    state.step = config.steps if config.adversarial_after is None else config.adversarial_after
    return save_checkpoint(state, config, out_dir)


def advance(state: State, config: CodecTraining, loss: SpectralLoss, audio: Tensor) -> dict[str, float]:
    """One step on `audio` [B, 1, T]: learn, and say what was lost."""
    rate = learning_rate(state.step, config)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    if state.step < config.code_steps:
        total, parts = code_losses(state, config, audio)
    else:
        total, parts = audio_losses(state, config, loss, audio)
    state.optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    parts["gradient"] = nn.utils.clip_grad_norm_(state.codec.parameters(), config.clip)
    state.optimiser.step()
    numbers = {name: float(v.detach() if isinstance(v, Tensor) else v) for name, v in parts.items()}
    return numbers | {"rate": rate}


Losses = tuple[Tensor, dict[str, Tensor | float]]  # the sum to descend, and its parts for the journal


def code_losses(state: State, config: CodecTraining, audio: Tensor) -> Losses:
    """Features of the decoder's trunk against those of the audio, with the codes between them."""
    codec = state.codec
    counted: dict[str, float] = {}
    with autocast(audio.device):
        latent = codec.encoder(audio).float()
    commitment = latent.new_zeros(())
    if state.step >= config.quantise_after:
        latent, commitment, codes = state.averages.quantise(latent, state.step)
        counted = usage(codes, config.codec.cardinality)
    with autocast(audio.device):
        deep = codec.decoder.trunk(latent)
    mel, low = feature_losses(state, config, audio, deep)
    total = mel + config.low_weight * low + config.commitment * commitment
    return total, {"mel": mel, "low": low, "commitment": commitment, **counted}


def feature_losses(state: State, config: CodecTraining, audio: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
    """The log-mel difference in nepers, and the difference of low bins as a share of their level."""
    mels = config.codec.mels
    got = state.feature_head(deep.float())
    with torch.no_grad():
        levels = state.codec.encoder.levels(audio[:, 0])
    mel = F.l1_loss(3 * got[..., :mels] - 5, (levels[..., :mels] + LOG_FLOOR).log())  # about unit variance in the net
    # squares of roots: a mean of what might be there, not the median, which for a sparse spectrum is silence
    low = levels[..., mels:]
    difference = (0.1 * got[..., mels:] - low.sqrt()).square().mean(dim=(1, 2))
    return mel, (difference / (low.mean(dim=(1, 2)) + LOG_FLOOR)).mean()


def audio_losses(state: State, config: CodecTraining, loss: SpectralLoss, audio: Tensor) -> Losses:
    """Decoded audio against the original, from codes that no longer change.

    Until an adversary takes part, the trunk keeps being asked for the features, lest it forget pitch before the
    oscillators have learnt from it.
    """
    codec = state.codec
    with torch.no_grad():
        quantised = codec.dequantise(codec.quantise(codec.encoder(audio)))
    with autocast(audio.device):
        deep = codec.decoder.trunk(quantised)
        decoded = codec.decoder.sound(deep, first_frame=0)
    lost = loss(audio[:, 0], decoded[:, 0], state.step)
    total = lost["mel"] + config.peak_weight * lost["peaks"] + config.phase_weight * lost["phase"]
    if config.modulation_weight:
        lost["modulation"] = loss.modulation(audio[:, 0], decoded[:, 0])
        total = total + config.modulation_weight * lost["modulation"]
    if config.adversarial_after is not None and state.step >= config.adversarial_after:
        against, parts = adversarial_losses(state, config, audio, decoded)
        return total + against, {**lost, **parts}
    mel, low = feature_losses(state, config, audio, deep)
    features = config.anchor_weight * (mel + config.low_weight * low)
    return total + features, {**lost, "mel_feature": mel, "low_feature": low}


def adversarial_losses(state: State, config: CodecTraining, audio: Tensor, decoded: Tensor) -> Losses:
    """Teach the discriminator, then ask it about decoded audio, beside what it sees in the original."""
    taught = teach_discriminator(state, audio, decoded.detach(), config)
    with autocast(audio.device):
        with torch.no_grad():
            original = state.discriminator(audio)
        judged = state.discriminator(decoded)
    adversarial, matching = generator_loss(judged), feature_loss(original, judged)
    total = config.adversarial_weight * adversarial + config.matching_weight * matching
    return total, {"discriminator": taught, "adversarial": adversarial, "matching": matching}


def teach_discriminator(state: State, audio: Tensor, decoded: Tensor, config: CodecTraining) -> Tensor:
    state.discriminator.requires_grad_(True)
    with autocast(audio.device):
        lost = discriminator_loss(state.discriminator(audio), state.discriminator(decoded))
    state.discriminator_optimiser.zero_grad(set_to_none=True)
    lost.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.discriminator.parameters(), 10 * config.clip)
    state.discriminator_optimiser.step()
    state.discriminator.requires_grad_(False)
    return lost.detach()


class CodebookAverages:
    """Learns the codebooks as moving averages of the vectors they code (VQ-VAE, arXiv 1711.00937, appendix A.1).

    They start as vectors of the first batch; a code that is hardly used starts again as a vector of the batch
    (SoundStream, section 3.3).
    """

    def __init__(self, codebooks: Tensor, config: CodecTraining) -> None:
        self.codebooks = codebooks  # [K, N, D], the codec's own
        self.decay, self.restart_below, self.seed = config.ema_decay, config.restart_below, config.seed
        self.first_step = config.quantise_after
        self.counts = torch.zeros_like(codebooks[..., 0])  # [K, N]
        self.sums = torch.zeros_like(codebooks)

    def quantise(self, latent: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, F, D] to (quantised with the gradient passed straight through, commitment loss, codes)."""
        residual, quantised, commitment, codes = latent, torch.zeros_like(latent), latent.new_zeros(()), []
        for k, codebook in enumerate(self.codebooks):
            vectors = residual.detach().reshape(-1, latent.shape[-1])
            if step == self.first_step:
                self._start(k, vectors)
            index = nearest(vectors, codebook)
            chosen = codebook[index].reshape(latent.shape)
            commitment = commitment + F.mse_loss(residual, chosen)
            residual, quantised = residual - chosen, quantised + chosen
            self._learn(k, vectors, index, step)
            codes.append(index.reshape(latent.shape[:-1]))
        return latent + (quantised - latent).detach(), commitment, torch.stack(codes, dim=1)

    def _start(self, k: int, vectors: Tensor) -> None:
        mean_count = vectors.shape[0] / self.codebooks.shape[1]
        self.codebooks[k] = self._pick(vectors, self.codebooks.shape[1], self.first_step, k)
        self.counts[k] = mean_count
        self.sums[k] = self.codebooks[k] * mean_count

    def _learn(self, k: int, vectors: Tensor, index: Tensor, step: int) -> None:
        mean_count = vectors.shape[0] / self.codebooks.shape[1]
        used = torch.zeros_like(self.counts[k]).index_add_(0, index, torch.ones_like(vectors[:, 0]))
        summed = torch.zeros_like(self.sums[k]).index_add_(0, index, vectors)
        self.counts[k].lerp_(used, 1 - self.decay)
        self.sums[k].lerp_(summed, 1 - self.decay)
        dead = (self.counts[k] < self.restart_below * mean_count).nonzero()[:, 0]
        if len(dead):
            self.counts[k, dead] = mean_count
            self.sums[k, dead] = self._pick(vectors, len(dead), step, k) * mean_count
        self.codebooks[k] = self.sums[k] / self.counts[k, :, None]

    def _pick(self, vectors: Tensor, count: int, step: int, k: int) -> Tensor:
        """`count` of the batch's vectors; where it has fewer, copies that differ by a little noise."""
        generator = np.random.default_rng([self.seed, step, k])
        if count <= len(vectors):
            return vectors[torch.from_numpy(generator.permutation(len(vectors))[:count]).to(vectors.device)]
        picked = vectors[torch.from_numpy(generator.integers(len(vectors), size=count)).to(vectors.device)]
        noise = torch.from_numpy(generator.standard_normal(picked.shape, dtype=np.float32)).to(vectors.device)
        return picked + 0.1 * vectors.std() * noise

    def to_state(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "sums": self.sums}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])


class SpectralLoss(nn.Module):
    """How far decoded audio is from the original, in spectra at several windows.

    Log-mel differences count every band alike, so that silence, noise and tone are right everywhere; but melodies are
    few and loud bins, hence a difference of magnitudes too. 2 kbit/s cannot carry the phase of every partial, and
    nobody hears it; heard is how phase moves from frame to frame and from bin to bin, so neighbours are compared.
    A loss of complex spectra pulled levels down by 3 dB and taught no phase. Where the decoder's STFT frames do not fit
    each other, bands grow and fade at their rate, which is heard as a buzz.
    """

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__()
        for size, bands in MEL_BANDS.items():
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"mel_{size}", mel_filters(config.sample_rate, size, bands), persistent=False)
        self.sample_rate, self.stft_rate = config.sample_rate, config.sample_rate / config.hop

    def forward(self, audio: Tensor, decoded: Tensor, step: int) -> dict[str, Tensor]:
        """Two [B, T] to losses.

        `mel`: mean log-mel difference in nepers; `peaks`: squared difference of roots of magnitudes, as a
        share of the original's; `phase`: 0 the same, 1 unrelated.
        """
        losses: dict[str, list[Tensor]] = {"mel": [], "peaks": [], "phase": []}
        for size in (*STEADY_WINDOWS, ALTERNATING_WINDOWS[step % len(ALTERNATING_WINDOWS)]):
            overlap = 4 if size == PHASE_WINDOW else 2
            window, filters = getattr(self, f"window_{size}"), getattr(self, f"mel_{size}")
            with torch.no_grad():
                original = spectrum(audio, window, overlap)
                wanted = magnitudes(original)
            copy = spectrum(decoded, window, overlap)
            got = magnitudes(copy)
            losses["mel"].append(F.l1_loss(log_mel(got, filters), log_mel(wanted, filters)))
            loudness = wanted.mean(dim=(1, 2)) + LOG_FLOOR
            losses["peaks"].append(((got.sqrt() - wanted.sqrt()).square().mean(dim=(1, 2)) / loudness).mean())
            if size == PHASE_WINDOW:
                losses["phase"].append(relative_phase_difference(original, copy, axis=1))
                losses["phase"].append(relative_phase_difference(original, copy, axis=2))
        return {name: torch.stack(values).mean() for name, values in losses.items()}

    def modulation(self, audio: Tensor, decoded: Tensor) -> Tensor:
        """How much is added to two [B, T] of loudness that grows and fades at the STFT's rate, or twice that: the sum
        over mel bands as a share of the original's loudness."""
        window, filters = getattr(self, f"window_{MODULATION_WINDOW}"), getattr(self, f"mel_{MODULATION_WINDOW}")
        bands = [magnitudes(spectrum(each, window)).mT @ filters for each in (audio, decoded)]  # [B, L, bands]
        taper = torch.hann_window(bands[0].shape[1], device=audio.device)[:, None]
        wanted, got = (torch.fft.rfft(each * taper, dim=1) for each in bands)
        hertz = torch.fft.rfftfreq(len(taper), MODULATION_WINDOW / 4 / self.sample_rate, device=audio.device)
        near = torch.stack([(hertz - times * self.stft_rate).abs() < MODULATION_HZ for times in (1, 2)]).any(0)
        assert near.any(), "too short to tell the rate"
        added = F.relu(magnitudes(got[:, near]) - magnitudes(wanted[:, near])).sum(dim=(1, 2))
        share: Tensor = added / ((bands[0] * taper).sum(dim=(1, 2)) + LOG_FLOOR * len(taper))
        return share.mean()


def magnitudes(spectrum: Tensor) -> Tensor:
    """abs() with a gradient at zero."""
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def log_mel(magnitude: Tensor, filters: Tensor) -> Tensor:
    """Magnitudes [B, bins, L] through filters [bins, bands] to [B, L, bands]."""
    return (magnitude.mT @ filters + LOG_FLOOR).log()


def relative_phase_difference(original: Tensor, copy: Tensor, axis: int) -> Tensor:
    """1 - cos of the error in the phase steps between neighbours along `axis` of spectra [B, bins, L].

    Weighted with the original's magnitudes; the copy's do not matter.
    """
    with torch.no_grad():
        wanted = phase_steps(original, axis)
        weight = wanted.abs().sqrt()
        wanted = wanted / (wanted.abs() + 1e-12)
    got = phase_steps(copy, axis)
    power = got.real.square() + got.imag.square()
    agreement = (got.real * wanted.real + got.imag * wanted.imag) * (power + 1e-16).rsqrt()
    return 1 - (weight * agreement).sum() / (weight.sum() + LOG_FLOOR)


def phase_steps(spectrum: Tensor, axis: int) -> Tensor:
    """Each value times the conjugate of the one before it."""
    length = spectrum.shape[axis] - 1
    return spectrum.narrow(axis, 1, length) * spectrum.narrow(axis, 0, length).conj()


def spectrum(audio: Tensor, window: Tensor, overlap: int = 4) -> Tensor:
    """STFT of [B, T] with hops of 1 / `overlap` window: [B, bins, L], a full-scale sine has magnitude 1."""
    size = window.shape[0]
    spectra: Tensor = torch.stft(audio, size, size // overlap, window=window * (4 / size), return_complex=True)
    return spectra


def log_mel_distance(reference: Tensor, decoded: Tensor, sample_rate: int = 32_000) -> float:
    """Mean absolute difference of log-mel spectra, in nepers (0.115 is 1 dB), of two [T] or [B, T].

    Averaged over STFTs with Hann windows of 1024, 2048 and 4096 samples and hops of a quarter window; 80 triangular
    HTK-mel bands from 0 Hz to Nyquist with unit weight sums over magnitudes, a full-scale sine at 1;
    ln(mel + 1e-4), so that what is below -80 dBFS hardly counts.
    """
    assert reference.shape == decoded.shape, (reference.shape, decoded.shape)
    pair = torch.stack([reference, decoded]).reshape(-1, reference.shape[-1]).float()
    distances = []
    for size in DISTANCE_WINDOWS:
        magnitude = spectrum(pair, torch.hann_window(size)).abs().mT  # [2B, L, bins]
        mel = (magnitude @ mel_filters(sample_rate, size, DISTANCE_BANDS) + LOG_FLOOR).log()
        original, copy = mel.chunk(2)
        distances.append((original - copy).abs().mean())
    return torch.stack(distances).mean().item()


class Music:
    """The pieces in `data_dir`, looked for again while shards arrive, and random crops of them."""

    def __init__(self, data_dir: Path, config: CodecTraining) -> None:
        self.data_dir, self.config = data_dir, config
        self.pieces: list[npt.NDArray[np.int16]] = []
        self.scanned_at = 0.0

    def __len__(self) -> int:
        return len(self.pieces)

    def batch(self, step: int) -> Tensor:
        """Crops [B, 1, T] for this step."""
        if not self.pieces or time.monotonic() - self.scanned_at > self.config.rescan_every_s:
            self.pieces = [piece for shard in read_shards(self.data_dir) for piece in shard.audio]
            self.scanned_at = time.monotonic()
            assert self.pieces, f"no music in {self.data_dir}"
        generator = np.random.default_rng([self.config.seed, step])
        samples = self.config.crop_frames * self.config.codec.frame_hop
        crops = [self._crop(generator, samples) for _ in range(self.config.batch)]
        return torch.from_numpy(np.stack(crops))[:, None]

    def _crop(self, generator: np.random.Generator, samples: int) -> npt.NDArray[np.float32]:
        piece = self.pieces[generator.integers(len(self.pieces))]
        start = int(generator.integers(len(piece) - samples + 1))
        return piece[start : start + samples].astype(np.float32) / np.float32(32768)


class Journal:
    """Losses averaged over `log_every` steps: a line of JSON each, and one for people."""

    def __init__(self, path: Path, config: CodecTraining) -> None:
        self.path, self.config = path, config
        self.sums: dict[str, float] = {}
        self.count = 0
        self.since = time.monotonic()

    def __enter__(self) -> Journal:
        self.file = self.path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def note(self, step: int, losses: dict[str, float], pieces: int) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if step % self.config.log_every == 0:
            self._write(step, pieces)

    def _write(self, step: int, pieces: int) -> None:
        means = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        now = time.monotonic()
        crop_s = self.config.crop_frames / self.config.codec.frame_rate
        speed = self.count * self.config.batch * crop_s / (now - self.since)
        line = {"step": step, "time": round(time.time()), "pieces": pieces, "speed": round(speed, 1), **means}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        log.info(
            "step %d of %d, %.0f s of music a second, %s",
            step,
            self.config.steps,
            speed,
            ", ".join(f"{name} {value:.4g}" for name, value in means.items()),
        )
        self.sums, self.count, self.since = {}, 0, now


def export(checkpoint: Path, path: Path) -> Path:
    """Write the codec of a checkpoint in half precision for the studio: `path` and a `.json` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec_of(checkpoint).save(path)
    return path


def codec_of(checkpoint: Path) -> SpectralCodec:
    """The codec in a checkpoint, rounded to half precision as the studio gets it."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    codec = SpectralCodec(SpectralCodecConfig.from_json(stored["config"]["codec"]))
    codec.load_state_dict(stored["codec"])
    return SpectralCodec.from_state(codec.config.to_json(), codec.to_state())


def encode_shards(codec_path: Path, data_dir: Path, out_dir: Path) -> int:
    """Encode every shard of `data_dir` with an exported codec; return how many were new.

    Shard `shard_00000` becomes `codes_00000.npy`, uint16 [N, K, F], and `codes_00000.jsonl`, a copy of its records.
    Shards that have their codes are skipped.
    """
    codec = SpectralCodec.load(codec_path)
    assert codec.config.cardinality <= 65_536
    out_dir.mkdir(parents=True, exist_ok=True)
    done = 0
    for shard in read_shards(data_dir):
        path = out_dir / shard.path.name.replace("shard", "codes")
        if path.exists():
            continue
        codes = np.concatenate([encode_piece(codec, piece) for piece in shard.audio])
        path.with_suffix(".jsonl").write_bytes(shard.path.with_suffix(".jsonl").read_bytes())
        partial = path.with_suffix(".partial.npy")
        np.save(partial, codes)
        partial.replace(path)
        done += 1
        log.info("%s: %d pieces", path, len(codes))
    return done


def encode_piece(codec: SpectralCodec, piece: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    """One piece [T] to codes [1, K, F]."""
    audio = torch.from_numpy(piece.astype(np.float32) / 32768)[None, None]
    return codec.encode(audio).numpy().astype(np.uint16)


def save_checkpoint(state: State, config: CodecTraining, out_dir: Path) -> Path:
    path = out_dir / f"checkpoint_{state.step:07d}.pt"
    partial = path.with_suffix(".partial")
    torch.save(state.to_checkpoint(config), partial)
    os.replace(partial, path)
    for old in sorted(out_dir.glob("checkpoint_*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()
    return path


def newest_checkpoint(out_dir: Path) -> Path | None:
    return max(out_dir.glob("checkpoint_*.pt"), default=None)


def learning_rate(step: int, config: CodecTraining) -> float:
    """Linear warm-up, then half a cosine down to the final rate; once for the codes and once for the sound."""
    start, end = (0, config.code_steps) if step < config.code_steps else (config.code_steps, config.steps)
    step, length = step - start, end - start
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    share = min(1.0, (step - config.warmup) / max(1, length - config.warmup))
    fall = 0.5 * (1 + np.cos(np.pi * share))
    return float(config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall)


def usage(codes: Tensor, cardinality: int) -> dict[str, float]:
    """The perplexity of each codebook in codes [B, K, F]."""
    return {f"perplexity_{k}": perplexity(codes[:, k], cardinality) for k in range(codes.shape[1])}


def perplexity(codes: Tensor, cardinality: int) -> float:
    """How many codes a uniform choice would need to be as varied as `codes`."""
    share = torch.bincount(codes.flatten(), minlength=cardinality).double() / codes.numel()
    return float(torch.special.entr(share).sum().exp())


def autocast(device: torch.device) -> torch.autocast:
    """bf16 halves the time of a step, on GPUs and on CPUs that multiply bf16."""
    return torch.autocast(device.type, torch.bfloat16)


def pick_device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
