"""A loaded model's parts: what weights become and the engine consumes. Knows no file format and no slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from studio.engine.metre import Metre
    from studio.engine.streaming import Stream
    from studio.engine.transformer import DecoderConfig


@dataclass(frozen=True)
class Conditions:
    """What a prompt says to the decoder, projected to its width.

    The null branch of guidance has zeros in the place of `cross`, and `null_prefix` in the place of `prefix`.
    """

    cross: Tensor | None = None  # [S, dim], what cross-attention reads; masked tokens are zeros and are still attended
    summed: Tensor | None = None  # [2, S, dim], added to each step's codes: for the prompted and for the null branch
    prefix: Tensor | None = None  # [P, dim], prepended to the sequence (melody and style models)
    null_prefix: Tensor | None = None  # [P, dim], there with `prefix`; a melody model's absent melody is not zeros
    metre: Metre | None = None  # of the clock in `summed`


class TextEncoder(Protocol):
    """Turns a prompt into conditions; lives on whatever device it likes."""

    def encode(self, prompt: str, steps: int, seed: int, metre: Metre | None = None, given: int = 0) -> Conditions:
        """Conditions for `steps` decode steps; what the prompt leaves open may be drawn with `seed`. A model that reads
        a clock keeps the `metre` of what it goes on from, and ends none of the frames that are `given`."""
        ...


class Codec(Protocol):
    """Turns codes into audio; takes and returns tensors of whatever device."""

    @property
    def sample_rate(self) -> int: ...  # Hz

    @property
    def channels(self) -> int: ...  # 1 mono, 2 stereo

    @property
    def frame_rate(self) -> float: ...  # frames a second

    @property
    def codebooks(self) -> int: ...  # K, both channels' together for stereo

    @property
    def level_db(self) -> float | None: ...  # RMS in dBFS of the music that its model knows; None: of any level

    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, C, T] at the codec's rate to codes [B, K, F] (int64), F at least T * frame_rate / sample_rate."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, F] (int64) to audio [B, C, T] (float32), T at least F / frame_rate seconds."""
        ...

    def stream(self) -> Stream:
        """A way for one request's codes [K, F], as they come, to the same audio."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """Everything that generating takes."""

    name: str  # in the catalogue, or a path
    config: DecoderConfig
    lm: dict[str, Tensor]  # the decoder's parameters under audiocraft's names, any dtype, any device
    text: TextEncoder
    codec: Codec
    max_duration: float  # s, what the decoder was trained on
