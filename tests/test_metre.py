"""Musical time, as musicgen-mini's decoder reads it."""

from __future__ import annotations

import numpy as np
import pytest

from studio.engine.metre import BEAT_WAVES, BEATS, CLOCK, FRAME_S, SIGNATURES, Metre, beat_frames


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_clock_goes_round_once_in_four_bars(signature: str) -> None:
    metre = Metre(24, signature)
    clock = metre.clock(1500)
    assert clock.shape == (1500, CLOCK)
    phrase = 4 * metre.bar
    np.testing.assert_allclose(clock[phrase : 2 * phrase], clock[:phrase], atol=1e-4)
    bars = clock[: 4 * metre.bar : metre.bar]
    assert len(np.unique(bars.round(3), axis=0)) == 4


@pytest.mark.parametrize("signature", SIGNATURES)
def test_each_bar_begins_a_new_beat(signature: str) -> None:
    metre = Metre(26, signature)
    hand = metre.clock(8 * metre.bar)[:, :BEAT_WAVES]
    for bar in range(8):
        np.testing.assert_allclose(hand[bar * metre.bar :][: metre.bar], hand[: metre.bar], atol=1e-4)


@pytest.mark.parametrize("beat", BEATS)
def test_a_bar_of_seven_eighths_is_whole_frames(beat: int) -> None:
    assert 2 * Metre(beat, "7/8").bar == 7 * beat


def test_each_tempo_and_signature_has_its_own_clock() -> None:
    clocks = [Metre(beat, signature).clock(2)[1] for beat in BEATS for signature in SIGNATURES]
    assert len(np.unique(np.round(clocks, 4), axis=0)) == len(clocks)


@pytest.mark.parametrize("bpm", range(50, 215))
def test_a_named_tempo_is_met_within_six_percent_or_half_a_frame_pair(bpm: int) -> None:
    beat = beat_frames(bpm)
    assert beat in BEATS
    assert abs(60 / (beat * FRAME_S) / bpm - 1) < max(0.06, 1 / beat)


@pytest.mark.parametrize(("bpm", "nearest"), [(1, BEATS[-1]), (999, BEATS[0])])
def test_a_tempo_that_there_is_not_becomes_the_nearest(bpm: int, nearest: int) -> None:
    assert beat_frames(bpm) == nearest


def test_the_last_chord_is_on_the_last_bar_line_that_lets_it_ring() -> None:
    metre = Metre(24, "4/4").ending_by(400, seconds=1.6)
    assert metre.end == 288  # of bars of 96, the fourth would leave 16 frames
    near, there, let_go = metre.clock(400)[:, -3:].T
    assert (np.diff(near[:288]) > 0).all()
    assert not near[288:].any()
    assert there.tolist() == [0.0] * 288 + [1.0] * 112
    assert not let_go[:288].any()
    assert (np.diff(let_go[288:]) > 0).all()
    assert let_go[399] > 0.9


def test_an_ending_stays_where_it_is_when_bars_before_it_are_left_out() -> None:
    metre = Metre(24, "4/4").ending_by(400, seconds=1.6)
    np.testing.assert_array_equal(metre.after(192).clock(208)[:, -3:], metre.clock(400)[192:, -3:])


@pytest.mark.parametrize(("frames", "end"), [(360, 200), (230, 150), (130, 50), (129, None), (20, None)])
def test_a_piece_shorter_than_a_bar_ends_on_a_beat_and_one_shorter_than_that_does_not(
    frames: int, end: int | None
) -> None:
    assert Metre(50, "4/4").ending_by(frames, seconds=1.6).end == end
