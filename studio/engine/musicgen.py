"""A loaded MusicGen as an engine: requests to clips. Puts text encoder, decoder and codec together.

Knows no file, no job and no web.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from studio.clip import Clip, Piece
from studio.engine.base import Chunk, Event, Failed, Finished, Progress
from studio.engine.decoder import Decoder
from studio.engine.metre import Metre
from studio.engine.model import Codec, LoadedModel
from studio.engine.opening import Opening, metre_of, opening_of, told
from studio.engine.sampling import Sampling
from studio.errors import InvalidRequest, NotFinite, OutOfMemory, StudioError
from studio.schemas import GenerationRequest

FIRST_CHUNK_S, LAST_CHUNK_S = 0.8, 2.0  # seconds of codes between chunks of audio: doubled from the first to the last
FADE_S = 0.5  # of an ending that was asked for: a chord that still rings is not cut


class _Voice:
    """A request's audio as it grows: short chunks first, for the player to start early, longer ones later."""

    def __init__(
        self, request: GenerationRequest, codec: Codec, opening: Opening | None = None, metre: Metre | None = None
    ) -> None:
        self._codec = codec
        self._opening = opening
        self.metre = metre
        self.fade_s = FADE_S if metre is not None and metre.end is not None else 0.0
        self._stream = codec.stream()
        self._length = round(request.duration * codec.sample_rate)  # samples
        self._made: list[np.ndarray] = []  # [C, T] each
        self._chunk_s = FIRST_CHUNK_S
        self.frames = 0  # whose codes are in the stream
        self.next_frame = self._frames(FIRST_CHUNK_S)  # when so many are ready, a chunk is due

    def push(self, codes: Tensor, last: bool) -> Clip:
        """The next codes [K, F] to the audio that follows from them, cut where the request ends."""
        audio = self._stream.push(codes, last).float().cpu()
        made = sum(part.shape[1] for part in self._made)
        if self._opening is not None:
            audio = self._opening.laid_over(audio, made, self._codec.sample_rate)
        assert not last or made + audio.shape[1] >= self._length, (made, audio.shape, self._length)
        audio = audio[:, : self._length - made]
        if self.fade_s:
            left = (self._length - made - torch.arange(audio.shape[1])) / self._codec.sample_rate
            audio = audio * (math.pi / 2 * (left / self.fade_s).clamp(max=1)).sin().square()
        if not bool(audio.isfinite().all()):
            raise NotFinite
        self._made.append(audio.numpy().copy())
        self.frames += codes.shape[1]
        self._chunk_s = min(2 * self._chunk_s, LAST_CHUNK_S)
        self.next_frame = self.frames + self._frames(self._chunk_s)
        return Clip(self._made[-1], self._codec.sample_rate)

    def clip(self) -> Clip:
        """All of it."""
        parts = [part for part in self._made if part.shape[1]]
        return Clip(np.concatenate(parts, axis=1), self._codec.sample_rate)

    def _frames(self, seconds: float) -> int:
        return round(seconds * self._codec.frame_rate)


class MusicGenEngine:
    """`slots` requests in flight through one decoder (studio.engine.base.Engine)."""

    def __init__(self, model: LoadedModel, device: torch.device, precision: str, slots: int) -> None:
        """`precision` is the decoder's; text encoder and codec are as they were loaded.

        Raises:
            OutOfMemory: the weights and the buffers of `slots` requests do not fit.
        """
        self.model = model.name
        self.device = str(device)
        self.precision = precision
        self.slots = slots
        self._text = model.text
        self._codec = model.codec
        self._max_duration = model.max_duration
        self._in_flight: dict[str, _Voice] = {}
        with _out_of_memory_named():
            self._decoder = Decoder(
                model.config,
                model.lm,
                device=device,
                precision=precision,
                slots=slots,
                max_frames=self._frames(model.max_duration),
            )

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted."""
        return self._decoder.free_slots

    def admit(self, key: str, request: GenerationRequest, opening: Piece | None = None) -> None:
        """Encode the prompt and take the request into a free slot. `request.seed` is set. With an `opening` the clip
        begins with its first `request.continue_seconds`, and goes on from there.

        Raises:
            InvalidRequest: this model cannot serve the request.
            OutOfMemory: there is no room; evict or wait.
        """
        assert request.seed is not None
        if request.duration > self._max_duration:
            raise InvalidRequest("duration", f"must be at most {self._max_duration:g} s with {self.model}")
        with _out_of_memory_named(), torch.inference_mode():
            frames = self._frames(request.duration)
            begun = self._begin(opening, request) if opening else None
            metre = metre_of(opening.recipe) if opening else None
            given = begun.codes if begun else None
            kept = 0 if given is None else given.shape[1]
            conditions = self._text.encode(request.prompt, self._decoder.steps(frames), request.seed, metre, kept)
            self._decoder.admit(key, conditions, frames, _sampling(request, request.seed), given)
        self._in_flight[key] = _Voice(request, self._codec, begun, conditions.metre)

    def step(self) -> list[Event]:
        """One decode step for every request in flight; one that is complete leaves its slot as a clip."""
        try:
            with _out_of_memory_named():
                advances = self._decoder.step()
        except OutOfMemory as error:
            return [self._fail(key, error) for key in list(self._in_flight)]
        events: list[Event] = [Progress(*advance) for advance in advances]
        for key, done, total in advances:
            events += self._sound(key, done == total)
        return events

    def evict(self, key: str) -> None:
        """Free the slot of `key` at once; unknown keys are ignored."""
        self._in_flight.pop(key, None)
        self._decoder.evict(key)

    def close(self) -> None:
        """Give the memory back. The engine cannot be used afterwards."""
        self._in_flight.clear()
        del self._decoder, self._text, self._codec
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _frames(self, duration: float) -> int:
        """Frames that cover `duration` seconds."""
        return math.ceil(round(duration * self._codec.frame_rate, 6))

    def _begin(self, piece: Piece, request: GenerationRequest) -> Opening:
        assert request.continue_seconds is not None
        return opening_of(piece, request.continue_seconds, self._codec, self._decoder.config.cardinality)

    def _sound(self, key: str, complete: bool) -> list[Event]:
        """What can be heard since the last step, and the end of a request that is complete."""
        voice = self._in_flight[key]
        ready = self._decoder.frames_ready(key)
        if not complete and ready < voice.next_frame:
            return []
        try:
            with _out_of_memory_named(), torch.inference_mode():
                codes = self._decoder.codes(key, voice.frames, ready)
                chunk = voice.push(codes, complete)
                whole = self._decoder.codes(key, 0, ready).cpu().numpy() if complete else None
        except StudioError as error:
            return [self._fail(key, error)]
        events: list[Event] = [Chunk(key, chunk)] if chunk.samples.shape[1] else []
        if complete:
            self.evict(key)
            events.append(Finished(key, voice.clip(), whole, told(voice.metre, voice.fade_s)))
        return events

    def _fail(self, key: str, error: StudioError) -> Failed:
        self.evict(key)
        return Failed(key, error)


def _sampling(request: GenerationRequest, seed: int) -> Sampling:
    return Sampling(seed, request.temperature, request.top_k, request.top_p, request.cfg_coef)


@contextmanager
def _out_of_memory_named() -> Iterator[None]:
    """A device, or a host, without memory is an OutOfMemory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's CPU allocator has no class of its own
            raise OutOfMemory from error
        raise
