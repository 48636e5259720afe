"""MusicGenEngine through the Engine protocol, with a small decoder, a text encoder and a codec that need no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.clip import Clip, Piece
from studio.engine.base import Chunk, Engine, Event, Failed, Finished, Progress
from studio.engine.decoder import bytes_a_slot
from studio.engine.metre import Metre
from studio.engine.model import Conditions, LoadedModel
from studio.engine.musicgen import MusicGenEngine
from studio.engine.streaming import Stream, Windowed
from studio.engine.transformer import MONO_DELAYS, STEREO_DELAYS, DecoderConfig, decoder_shapes
from studio.errors import InvalidRequest, NotFinite, OutOfMemory
from studio.schemas import GenerationRequest

DIM = 16


class Letters:
    """A text encoder that knows the alphabet."""

    def encode(self, prompt: str, steps: int, seed: int, metre: Metre | None = None, given: int = 0) -> Conditions:
        table = torch.randn(128, DIM, generator=torch.Generator().manual_seed(0))
        return Conditions(cross=table[[ord(letter) % 128 for letter in prompt]], metre=metre or Metre(30, "3/4"))


@dataclass
class Steps:
    """A codec of 20 frames a second: a frame's first code is its level for 11 samples.."""

    channels: int = 1
    sample_rate: int = 220
    frame_rate: float = 20.0
    codebooks: int = 4
    breaks: Exception | None = None
    level_db: float | None = None

    def encode(self, audio: Tensor) -> Tensor:
        frames = math.ceil(audio.shape[2] / 11)
        padded = torch.nn.functional.pad(audio, (0, 11 * frames - audio.shape[2]))
        levels = (64 * padded[:, :, 5::11]).round().long().clamp(0, 63)  # [B, C, F]
        return levels.repeat_interleave(self.codebooks // self.channels, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        assert codes.shape[:2] == (1, self.codebooks)
        if self.breaks:
            raise self.breaks
        levels = codes[:, : self.channels].float() / 64  # [B, C, F]
        return levels.repeat_interleave(11, dim=2)

    def stream(self) -> Stream:
        return Windowed(lambda codes, first: self.decode(codes[None])[0], (2, 3), 11)


class Silent(Steps):
    """A codec whose audio is not a number at one sample."""

    def decode(self, codes: Tensor) -> Tensor:
        audio = super().decode(codes)
        audio[..., 3] = math.nan
        return audio


def model(codec: Steps, delays: tuple[int, ...] = MONO_DELAYS) -> LoadedModel:
    config = DecoderConfig(dim=DIM, heads=2, layers=2, ffn=32, delays=delays, cardinality=64)
    random = torch.Generator().manual_seed(5)
    lm = {name: torch.randn(shape, generator=random) / 4 for name, shape in decoder_shapes(config).items()}
    return LoadedModel("tiny", config, lm, Letters(), codec, max_duration=10.0)


def engine(codec: Steps | None = None, slots: int = 3) -> MusicGenEngine:
    return MusicGenEngine(model(codec or Steps()), torch.device("cpu"), "fp32", slots)


def request(seed: int = 1, duration: float = 2.0, prompt: str = "sad piano") -> GenerationRequest:
    return GenerationRequest(prompt=prompt, duration=duration, seed=seed)


def ends(engine: Engine, count: int = 1) -> dict[str, Event]:
    """Step until so many requests have ended."""
    ended: dict[str, Event] = {}
    while len(ended) < count:
        ended |= {event.key: event for event in engine.step() if isinstance(event, Finished | Failed)}
    return ended


def clip(event: Event) -> Clip:
    assert isinstance(event, Finished), event
    return event.clip


def generate(request: GenerationRequest) -> Clip:
    fresh = engine()
    fresh.admit("only", request)
    return clip(ends(fresh)["only"])


def test_a_request_moves_on_step_by_step_and_ends_as_a_clip() -> None:
    one: Engine = engine()
    one.admit("a", request(duration=2.0))
    events: list[Event] = []
    while one.free_slots < 3:
        events += one.step()
    total = 2 * 20 + 3  # frames and the delay of the last codebook
    moves = [event for event in events if isinstance(event, Progress)]
    assert moves == [Progress("a", done, total) for done in range(1, total + 1)]
    assert clip(events[-1]).samples.dtype == np.float32
    assert one.step() == []


@pytest.mark.parametrize("duration", [1.0, 4.7])
def test_a_request_is_heard_while_it_is_made(duration: float) -> None:
    one = engine()
    one.admit("a", request(duration=duration))
    heard: list[Chunk] = []
    while one.free_slots < 3:
        events = one.step()
        heard += [event for event in events if isinstance(event, Chunk)]
    whole = clip(events[-1])
    assert np.array_equal(np.concatenate([chunk.clip.samples for chunk in heard], axis=1), whole.samples)
    assert heard[0].clip.samples.shape[1] < 0.8 * 220 + 1  # the first is short
    assert len(heard) == {1.0: 2, 4.7: 4}[duration]


class Ending(Letters):
    """One to whom every prompt asks for an ending."""

    def encode(self, prompt: str, steps: int, seed: int, metre: Metre | None = None, given: int = 0) -> Conditions:
        conditions = super().encode(prompt, steps, seed, metre, given)
        assert conditions.metre is not None
        return replace(conditions, metre=conditions.metre.ending_by(steps, 1.0))


def test_an_ending_dies_away_and_the_rest_is_as_it_was() -> None:
    plain = generate(request(duration=4.0)).samples[0]
    one = MusicGenEngine(replace(model(Steps()), text=Ending()), torch.device("cpu"), "fp32", 1)
    one.admit("a", request(duration=4.0))
    ended = clip(ends(one)["a"]).samples[0]
    fading = round(0.5 * 220)
    assert np.array_equal(ended[:-fading], plain[:-fading])
    heard = plain[-fading:] > 0
    gain = (ended[-fading:] / np.where(heard, plain[-fading:], 1))[heard]
    assert (np.diff(gain) < 0).all()
    assert gain[0] > 0.99
    assert gain[-1] < 0.01


@pytest.mark.parametrize(("kept", "own"), [(3.4, True), (4.0, False)])
def test_the_codes_of_what_has_faded_are_not_gone_on_from(kept: float, own: bool) -> None:
    """They would bring the chord back that has died away."""
    one = MusicGenEngine(replace(model(Steps()), text=Ending()), torch.device("cpu"), "fp32", 1)
    made = finished(one, request(duration=4.0))
    assert made.codes is not None
    again = finished(one, continuation(duration=8.0, kept=kept), as_piece(made))
    assert again.codes is not None
    frames = round(kept * 20)
    assert np.array_equal(again.codes[:, :frames], made.codes[:, :frames]) == own
    assert again.recipe["fade_seconds"] == 0.5
    late = slice(round(3.9 * 220), round(4.0 * 220))
    assert own or again.clip.samples[0, late].max() < 0.1


@pytest.mark.parametrize("duration", [1.0, 1.234, 2.51, 10.0])
def test_a_clip_has_the_duration_asked_for_to_the_sample(duration: float) -> None:
    made = generate(request(duration=duration))
    assert made.samples.shape == (1, round(duration * 220))
    assert made.sample_rate == 220
    assert np.isfinite(made.samples).all()


def test_a_stereo_model_gives_two_channels() -> None:
    stereo = model(Steps(channels=2, codebooks=8), STEREO_DELAYS)
    one = MusicGenEngine(stereo, torch.device("cpu"), "fp32", 1)
    one.admit("a", request())
    assert clip(ends(one)["a"]).samples.shape == (2, 440)


def test_the_same_request_gives_the_same_clip_and_another_seed_another() -> None:
    assert np.array_equal(generate(request(1)).samples, generate(request(1)).samples)
    assert not np.array_equal(generate(request(1)).samples, generate(request(2)).samples)


def test_another_prompt_is_another_clip() -> None:
    assert not np.array_equal(generate(request()).samples, generate(request(prompt="happy tuba")).samples)


def test_requests_join_and_leave_while_others_are_decoded() -> None:
    shared = engine()
    requests = {"a": request(1, 3.0), "b": request(2, 2.0, "flute"), "c": request(3, 1.0), "d": request(4, 1.5)}
    for key in ("a", "b", "c"):
        shared.admit(key, requests[key])
        shared.step()
    assert shared.free_slots == 0
    shared.evict("b")
    assert shared.free_slots == 1
    shared.admit("d", requests["d"])
    made = {key: clip(event).samples for key, event in ends(shared, 3).items()}
    alone = {key: generate(requests[key]).samples for key in "acd"}
    assert {key: np.array_equal(made[key], alone[key]) for key in alone} == dict.fromkeys("acd", True)


def test_an_unknown_key_is_not_evicted() -> None:
    one = engine()
    one.admit("a", request())
    one.evict("b")
    assert one.free_slots == 2


def test_a_request_beyond_what_the_model_was_trained_on_is_refused() -> None:
    one = engine()
    with pytest.raises(InvalidRequest, match="duration: must be at most 10 s"):
        one.admit("a", request(duration=12.0))
    assert one.free_slots == 3


@pytest.mark.parametrize(
    ("codec", "error"),
    [
        (Silent(), NotFinite),
        (Steps(breaks=torch.OutOfMemoryError("CUDA out of memory")), OutOfMemory),
        (Steps(breaks=RuntimeError("DefaultCPUAllocator: can't allocate memory")), OutOfMemory),
    ],
)
def test_what_the_codec_cannot_do_fails_the_request_by_name(codec: Steps, error: type[Exception]) -> None:
    one = engine(codec)
    one.admit("a", request())
    failed = ends(one)["a"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, error)
    assert one.free_slots == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_makes_clips_too(precision: str) -> None:
    one = MusicGenEngine(model(Steps()), torch.device("cpu"), precision, 1)
    one.admit("a", request())
    assert np.isfinite(clip(ends(one)["a"]).samples).all()


def test_a_slot_is_used_again_and_again() -> None:
    one = engine(slots=1)
    seeds: Sequence[int] = range(4)
    for seed in seeds:
        one.admit("a", request(seed, 1.0))
        assert np.array_equal(clip(ends(one)["a"]).samples, generate(request(seed, 1.0)).samples)


def test_a_closed_engine_gives_its_buffers_back() -> None:
    import gc
    import weakref

    one = engine()
    decoder = weakref.ref(one._decoder)
    one.close()
    gc.collect()
    assert decoder() is None


@pytest.mark.parametrize(("free_gib", "slots"), [(100.0, 8), (4.5, 4), (1.6, 1), (0.1, 1)])
def test_the_slots_follow_from_the_memory_free(free_gib: float, slots: int) -> None:
    """A request that would not fit waits, since there is no slot for it; one alone is always tried."""
    from studio.engine.loader import fitting_slots

    assert fitting_slots(8, int(free_gib * 2**30), 2**30) == slots


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_slot_takes_the_memory_that_is_planned_for_it(precision: str) -> None:
    cpu = torch.device("cpu")
    held = MusicGenEngine(model(Steps()), cpu, precision, 3)._decoder._step
    assert held.prompts is not None
    kept = [
        getattr(each, name, None) for each in (held.own, held.prompts) for name in ("cells", "keys", "values", "scales")
    ]
    config = DecoderConfig(dim=DIM, heads=2, layers=2, ffn=32, cardinality=64)
    assert sum(each.nbytes for each in kept if each is not None) == 3 * bytes_a_slot(config, 200, precision, cpu)


# Going on from a piece


def finished(engine: MusicGenEngine, request: GenerationRequest, opening: Piece | None = None) -> Finished:
    engine.admit("one", request, opening)
    (event,) = ends(engine).values()
    assert isinstance(event, Finished), event
    return event


def as_piece(made: Finished, gain: float = 1.0) -> Piece:
    return Piece(Clip(made.clip.samples * np.float32(gain), made.clip.sample_rate), made.recipe, made.codes)


def continuation(seed: int = 2, duration: float = 4.0, kept: float = 2.0) -> GenerationRequest:
    return request(seed, duration).model_copy(update={"continue_from": "gen_x", "continue_seconds": kept})


@pytest.mark.parametrize("gain", [1.0, 0.4])
def test_a_piece_is_gone_on_from_with_its_own_codes_whatever_its_loudness(gain: float) -> None:
    first = finished(engine(), request())
    longer = finished(engine(), continuation(), as_piece(first, gain))
    assert first.codes is not None and longer.codes is not None
    assert np.array_equal(longer.codes[:, :40], first.codes)
    assert longer.clip.samples.shape == (1, 880)
    np.testing.assert_allclose(longer.clip.samples[:, :440], first.clip.samples, atol=1e-6)


def test_a_request_that_goes_on_from_its_own_beginning_is_the_same_piece() -> None:
    whole = finished(engine(), request(2, 4.0))
    again = finished(engine(), continuation(kept=1.5), as_piece(whole))
    assert again.codes is not None and whole.codes is not None
    assert float((again.codes == whole.codes).mean()) > 0.9  # rounding, which another order of sums has


def test_the_same_beginning_with_another_seed_is_a_variation() -> None:
    first = as_piece(finished(engine(), request(duration=4.0)))
    one, other = (finished(engine(), continuation(seed), first).clip.samples for seed in (5, 6))
    assert np.array_equal(one[:, :430], other[:, :430])
    assert not np.array_equal(one[:, 440:], other[:, 440:])


def test_a_continuation_is_heard_from_its_beginning_at_once() -> None:
    one = engine()
    one.admit("a", continuation(kept=2.0), as_piece(finished(engine(), request())))
    events = one.step()
    assert [type(event) for event in events] == [Progress, Chunk]
    assert isinstance(events[0], Progress) and (events[0].done, events[0].total) == (41, 83)
    heard = [event for event in events if isinstance(event, Chunk)]
    while one.free_slots < 3:
        events = one.step()
        heard += [event for event in events if isinstance(event, Chunk)]
    whole = clip(events[-1])
    assert heard[0].clip.samples.shape[1] > 1.5 * 220
    assert np.array_equal(np.concatenate([chunk.clip.samples for chunk in heard], axis=1), whole.samples)


@pytest.mark.parametrize(("rate", "channels"), [(220, 1), (441, 2), (96, 2)])
def test_music_of_others_is_encoded_and_kept_as_it_is(rate: int, channels: int) -> None:
    time = np.arange(3 * rate) / rate
    ramp = (0.1 + 0.25 * time)[None].repeat(channels, axis=0).astype(np.float32)
    longer = finished(engine(), continuation(kept=2.03), Piece(Clip(ramp, rate)))
    own = 0.1 + 0.25 * np.arange(440) / 220
    np.testing.assert_allclose(longer.clip.samples[0, 30:420], own[30:420], atol=0.01)
    assert longer.codes is not None
    levels = 64 * own[5::11]
    assert np.abs(longer.codes[0, :40] - levels)[3:].max() < 1.5


def test_a_codec_hears_strangers_at_the_level_that_it_knows() -> None:
    quiet = Piece(Clip(np.full((1, 660), 0.01, np.float32), 220))
    longer = finished(engine(Steps(level_db=-6.0)), continuation(), quiet)
    np.testing.assert_allclose(longer.clip.samples[0, :420], 10 ** (-6 / 20), rtol=1e-4)


@pytest.mark.parametrize(
    "codes",
    [
        np.full((4, 200), 63), np.full((4, 200), 64), np.full((4, 200), -1), np.full((3, 200), 1), np.zeros((4, 5)),
        np.zeros((4, 0)), np.zeros((200,)),
    ],
)  # fmt: skip
def test_codes_that_are_not_the_musics_are_not_believed(codes: np.ndarray) -> None:
    first = finished(engine(), request())
    forged = Piece(first.clip, first.recipe, codes.astype(np.int64))
    longer = finished(engine(), continuation(), forged)
    honest = finished(engine(), continuation(), Piece(first.clip, first.recipe))
    assert np.array_equal(longer.clip.samples, honest.clip.samples)


@pytest.mark.parametrize(
    ("recipe", "metre"),
    [
        ({"bpm": 75.0, "signature": "6/8"}, (75.0, "6/8")),
        ({"bpm": 1e300, "signature": "6/8"}, (100.0, "3/4")),
        ({"bpm": "75", "signature": "6/8"}, (100.0, "3/4")),
        ({"bpm": 75.0, "signature": "9/4"}, (100.0, "3/4")),
        ({"bpm": float("nan"), "signature": "4/4"}, (100.0, "3/4")),
        ({}, (100.0, "3/4")),
    ],
)
def test_a_piece_keeps_its_metre_and_tells_it(recipe: dict[str, object], metre: tuple[float, str]) -> None:
    first = finished(engine(), request())
    assert first.recipe == {"bpm": 100.0, "signature": "3/4"}
    longer = finished(engine(), continuation(), Piece(first.clip, recipe, first.codes))
    assert (longer.recipe["bpm"], longer.recipe["signature"]) == pytest.approx(metre)


def test_a_stereo_model_goes_on_from_mono_and_a_shorter_piece_than_was_said() -> None:
    stereo = MusicGenEngine(model(Steps(channels=2, codebooks=8), STEREO_DELAYS), torch.device("cpu"), "fp32", 1)
    one = finished(stereo, continuation(), Piece(Clip(np.full((1, 330), 0.5, np.float32), 220)))
    np.testing.assert_allclose(one.clip.samples[:, :320], 0.5, atol=1e-6)
