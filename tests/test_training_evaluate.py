"""The figures of musicgen-mini's card mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.training import evaluate
from studio.training.captions import Expectation
from studio.training.codec import log_mel_distance
from studio.training.judge import Truth, features, truth_of_prompt
from studio.training.measures import SAMPLE_RATE, Audio, key, onsets, pulse, statistics, tempo

RATE = SAMPLE_RATE


def tone(seconds: float = 4.0, amplitude: float = 0.2) -> Audio:
    time = np.arange(round(seconds * RATE)) / RATE
    beats = 0.55 + 0.45 * np.sign(np.sin(2 * np.pi * 2 * time))
    return np.asarray(amplitude * beats * np.sin(2 * np.pi * 440 * time), np.float32)


def test_more_bits_bring_opus_nearer_to_the_original() -> None:
    original = tone() + 0.02 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    copies = [torch.from_numpy(evaluate.opus(original, kbits)) for kbits in (8, 64)]
    low, high = (log_mel_distance(torch.from_numpy(original), copy) for copy in copies)
    assert high < low
    assert copies[1].shape == (4 * RATE,)


def test_statistics_tell_tones_from_noise_and_silence() -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    pure, noisy = statistics([tone()]), statistics([noise])
    silent = statistics([np.zeros(RATE, np.float32)])
    assert pure["flatness"] < 0.01 < 0.4 < noisy["flatness"]
    assert noisy["level_db"] == pytest.approx(-14, abs=0.1)
    assert (silent["silent"], pure["silent"]) == (1.0, 0.0)
    assert statistics([np.ones(RATE, np.float32)])["clipped"] == 1.0


def test_a_steady_beat_has_a_pulse_and_noise_has_none() -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    assert pulse(noise) < 0.2 < 0.6 < pulse(tone())
    assert onsets(tone(8.0)) == pytest.approx(4.0, abs=0.3)  # on and off, twice a second


def clicks(bpm: float, seconds: float = 8.0) -> Audio:
    clip = np.zeros(round(seconds * RATE), np.float32)
    for at in np.arange(0, seconds - 0.1, 60 / bpm):
        start = round(at * RATE)
        clip[start : start + 800] = 0.5 * np.sin(np.arange(800))
    return clip


@pytest.mark.parametrize("bpm", [70, 96, 120, 150])
def test_the_tempo_of_a_metronome_is_measured(bpm: int) -> None:
    assert tempo(clicks(bpm)) == pytest.approx(bpm, rel=0.02)


def test_a_tempo_is_kept_within_six_percent_and_half_of_it_is_counted_apart() -> None:
    found = evaluate.tempo_kept([clicks(100), clicks(100), clicks(100), clicks(100)], [103, 110, 50, 200])
    assert found == {"kept": 0.25, "kept_or_octave": 0.75}


def test_a_scale_is_in_a_key_and_a_cluster_is_not() -> None:
    def chord(pitches: list[int]) -> Audio:
        time = np.arange(2 * RATE) / RATE
        return np.sum([0.1 * np.sin(2 * np.pi * 440 * 2 ** ((p - 69) / 12) * time) for p in pitches], 0, np.float32)

    assert key(chord([60, 64, 67])) > 0.8 > 0.6 > key(chord(list(range(60, 72))))


def test_a_quieter_copy_sounds_the_same_to_the_judge() -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    assert torch.allclose(features(noise), features(noise / 2), atol=0.05)


def test_adherence_counts_what_was_asked_for_and_what_other_prompts_would_give() -> None:
    class Oracle:
        """Hears in a clip's first sample which prompt it was made for."""

        def hear(self, audio: Audio) -> Truth:
            drums = "drums" if audio[0] > 0 else "none"
            return {"genre": "rock", "lead": "keys", "drums": drums, "tempo": "slow"}

    clips = [np.full(10, sign, np.float32) for sign in (1, -1) * 10]
    asked = [truth_of_prompt(Expectation(drums=wanted)) for wanted in (True, False) * 10]
    found = evaluate.adherence(Oracle(), clips, asked)
    assert set(found) == {"drums"}
    assert found["drums"]["heard"] == 1.0
    assert 0.2 < found["drums"]["by_chance"] < 0.8
