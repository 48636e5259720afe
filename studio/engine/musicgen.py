"""A loaded MusicGen as an engine: requests to clips. Puts text encoder, decoder and codec together.

Knows no file, no job and no web.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from studio.clip import Clip
from studio.engine.base import Event, Failed, Finished, Progress
from studio.engine.decoder import Decoder
from studio.engine.model import LoadedModel
from studio.engine.sampling import Sampling
from studio.errors import InvalidRequest, NotFinite, OutOfMemory, StudioError
from studio.schemas import GenerationRequest

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        self._in_flight: dict[str, GenerationRequest] = {}
        with _out_of_memory_named():
            self._decoder = Decoder(
                model.config,
                model.lm,
                device=device,
                dtype=DTYPES[precision],
                slots=slots,
                max_frames=self._frames(model.max_duration),
            )

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted."""
        return self._decoder.free_slots

    def admit(self, key: str, request: GenerationRequest) -> None:
        """Encode the prompt and take the request into a free slot. `request.seed` is set.

        Raises:
            InvalidRequest: this model cannot serve the request.
            OutOfMemory: there is no room; evict or wait.
        """
        assert request.seed is not None
        if request.duration > self._max_duration:
            raise InvalidRequest("duration", f"must be at most {self._max_duration:g} s with {self.model}")
        with _out_of_memory_named(), torch.inference_mode():
            conditions = self._text.encode(request.prompt)
            self._decoder.admit(key, conditions, self._frames(request.duration), _sampling(request, request.seed))
        self._in_flight[key] = request

    def step(self) -> list[Event]:
        """One decode step for every request in flight; one that is complete leaves its slot as a clip."""
        try:
            with _out_of_memory_named():
                advances = self._decoder.step()
        except OutOfMemory as error:
            return [self._fail(key, error) for key in list(self._in_flight)]
        events: list[Event] = [Progress(*advance) for advance in advances]
        return events + [self._finish(key) for key, done, total in advances if done == total]

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

    def _finish(self, key: str) -> Event:
        request = self._in_flight.pop(key)
        try:
            with _out_of_memory_named():
                return Finished(key, self._clip(self._decoder.take(key), request.duration))
        except StudioError as error:
            return Failed(key, error)

    def _clip(self, codes: Tensor, duration: float) -> Clip:
        """Codes [K, F] to a clip of exactly `duration` seconds, rounded to samples."""
        with torch.inference_mode():
            audio = self._codec.decode(codes[None])[0].float().cpu()  # [C, T]
        length = round(duration * self._codec.sample_rate)
        assert audio.shape[1] >= length, (audio.shape, length)
        samples = audio[:, :length].numpy()
        if not bool(torch.isfinite(audio[:, :length]).all()):
            raise NotFinite
        return Clip(samples.copy(), self._codec.sample_rate)

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
