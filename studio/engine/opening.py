"""The beginning that a request goes on from: a piece becomes codes for the decoder and samples for the listener.

The listener hears the piece's own samples, and near their end what the codes decode to, faded in: after that comes what
the decoder adds, and a fade of 40 ms leaves no seam. A piece that this model made carries its codes. Encoding its
audio would give others: the music that follows them is 2 to 3 dB off in level where after its own it is 1 dB off
(eight prompts, four seeds each, musicgen-mini 0.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.clip import Clip, Piece
from studio.engine.metre import SIGNATURES, Metre, beat_frames
from studio.engine.model import Codec

FADE_S = 0.04  # from the piece's own samples to decoded ones
COMPARED_S = 2.0  # of the kept audio's end, by which one hears whether codes are its own
ALIKE = 0.95  # correlation; 16 bits and another loudness leave more
AHEAD_S = 1.0  # an encoder hears what follows, where something does


@dataclass(frozen=True)
class Opening:
    """The kept beginning of a piece."""

    codes: Tensor  # [K, P]
    samples: Tensor  # [C, P frames], as loud as what the codes decode to

    def laid_over(self, decoded: Tensor, at: int, sample_rate: int) -> Tensor:
        """Decoded audio [C, T], which begins at sample `at`, with the piece's own samples in place of it."""
        own = self.samples[:, at : at + decoded.shape[1]]
        left = self.samples.shape[1] - at - torch.arange(own.shape[1])
        weight = (left / (FADE_S * sample_rate)).clamp(max=1.0)
        return torch.cat([decoded[:, : own.shape[1]].lerp(own, weight), decoded[:, own.shape[1] :]], dim=1)


def opening_of(piece: Piece, seconds: float, codec: Codec, cardinality: int) -> Opening:
    """The piece's first `seconds`, in whole frames, as this codec has them."""
    audio = _as_read(piece.clip, codec)
    hop = codec.sample_rate / codec.frame_rate  # samples in a frame
    frames = max(1, min(int(seconds * codec.frame_rate + 1e-6), int(audio.shape[1] / hop)))
    end = round(frames * hop)
    codes = None if _faded(piece, frames / codec.frame_rate) else _own_codes(piece, codec, cardinality, frames)
    gain = None if codes is None else _gain(codec.decode(codes[None])[0].cpu(), audio, end, codec.sample_rate)
    if codes is None or gain is None:
        gain = _gain_of_strangers(audio[:, :end], codec)
        codes = codec.encode(audio[None, :, : end + round(AHEAD_S * codec.sample_rate)] / gain)[0]
    return Opening(codes[:, :frames], audio[:, :end] / gain)


def metre_of(recipe: Mapping[str, object]) -> Metre | None:
    """The metre that a recipe tells, if it tells one; it may come from anywhere."""
    match recipe:
        case {"bpm": float(bpm), "signature": str(signature)} if 1.0 < bpm < 1000.0 and signature in SIGNATURES:
            return Metre(beat_frames(bpm), signature)
    return None


def told(metre: Metre | None, fade_s: float) -> dict[str, object]:
    """The metre as a recipe tells it, and in how many seconds the audio fades at its end, if it does."""
    time = {} if metre is None else {"bpm": metre.bpm, "signature": metre.signature}
    return time | ({"fade_seconds": fade_s} if fade_s else {})


def _faded(piece: Piece, seconds: float) -> bool:
    """Whether the first `seconds` reach into what its recipe says has faded, which is no longer what its codes say."""
    fade = piece.recipe.get("fade_seconds")
    return isinstance(fade, float) and seconds > piece.clip.duration - fade


def _as_read(clip: Clip, codec: Codec) -> Tensor:
    """The clip at the codec's rate and channels [C, T]."""
    audio = torch.from_numpy(clip.samples)
    if clip.sample_rate != codec.sample_rate:
        from torchaudio.functional import resample  # which takes a while to import

        audio = resample(audio, clip.sample_rate, codec.sample_rate)
    if audio.shape[0] != codec.channels:
        audio = audio.mean(0, keepdim=True).expand(codec.channels, -1)
    return audio


def _own_codes(piece: Piece, codec: Codec, cardinality: int, frames: int) -> Tensor | None:
    """The codes that the piece carries [K, F], if this codec can read them."""
    codes = piece.codes
    if codes is None or codes.ndim != 2 or codes.shape[0] != codec.codebooks or codes.shape[1] < frames:
        return None
    return torch.from_numpy(codes) if codes.min() >= 0 and codes.max() < cardinality else None


def _gain(decoded: Tensor, audio: Tensor, end: int, sample_rate: int) -> float | None:
    """How much louder the audio is than what codes decode to; None when these are not its codes."""
    heard = slice(max(0, end - round(COMPARED_S * sample_rate)), end)
    x, y = decoded[:, heard].flatten().double(), audio[:, heard].flatten().double()
    if x.shape != y.shape or not bool(x.any()) or not bool(y.any()):
        return None
    alike, gain = float(x @ y / (x.norm() * y.norm())), float(x @ y / (x @ x))
    return gain if alike > ALIKE else None


def _gain_of_strangers(audio: Tensor, codec: Codec) -> float:
    """How much louder the audio is than the music that the codec's model knows."""
    level = float(audio.square().mean().sqrt())
    return 1.0 if codec.level_db is None or level == 0.0 else level / 10 ** (codec.level_db / 20)
