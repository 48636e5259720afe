"""The figures of musicgen-mini's card mean what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from studio.engine.bundle import Bundle
from studio.engine.spectral_codec import SpectralCodec
from studio.schemas import GenerationRequest
from studio.training import card, evaluate, heeding, memory, prompts, structure, variety, words
from studio.training.captions import Expectation, caption
from studio.training.codec import log_mel_distance
from studio.training.compose import describe
from studio.training.ear import Ear, learn, spectrogram
from studio.training.judge import FIELDS, Judge, Truth, truth_of_prompt
from studio.training.measures import SAMPLE_RATE, Audio, brightness, buzz, key, major, onsets, pulse, statistics, tempo
from studio.training.place import Place
from studio.training.takes import Musician, Musicians
from tests.checkpoints import write_bundle

RATE = SAMPLE_RATE
BUNDLE = Path(__file__).parents[1] / "assets" / "musicgen-mini"


FAINT = 1e-3  # -60 dB


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


def test_what_comes_and_goes_with_a_codec_s_frames_buzzes() -> None:
    clip = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    assert buzz(clip) < 2
    time = np.arange(4 * RATE, dtype=np.float32) / RATE
    assert buzz(clip * (1 + 0.1 * np.sin(2 * np.pi * 100 * time))) > 5 > 2 > buzz(clip * (1 + 0.1 * np.sin(90 * time)))


def test_a_steady_beat_has_a_pulse_and_noise_has_none() -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    assert pulse(noise) < 0.2 < 0.6 < pulse(tone())
    assert onsets(tone(8.0)) == pytest.approx(4.0, abs=0.3)  # on and off, twice a second


def clicks(bpm: float, seconds: float = 8.0) -> Audio:
    return struck(np.arange(0, seconds - 0.1, 60 / bpm), seconds)


def struck(times: Sequence[float], seconds: float) -> Audio:
    clip = np.zeros(round(seconds * RATE), np.float32)
    for at in times:
        start = round(at * RATE)
        clip[start : start + 800] = 0.5 * np.sin(np.arange(800))
    return clip


@pytest.mark.parametrize("bpm", [70, 96, 120, 150])
def test_the_tempo_of_a_metronome_is_measured(bpm: int) -> None:
    assert tempo(clicks(bpm)) == pytest.approx(bpm, rel=0.02)


def test_a_tempo_is_kept_within_six_percent_and_half_of_it_is_counted_apart() -> None:
    found = heeding.tempo_kept([clicks(100), clicks(100), clicks(100), clicks(100)], [103, 110, 50, 200])
    assert found == {"kept": 0.25, "kept_or_octave": 0.75}


def chord(*pitches: int, seconds: float = 2.0) -> Audio:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.sum([0.1 * np.sin(2 * np.pi * 440 * 2 ** ((p - 69) / 12) * time) for p in pitches], 0, np.float32)


def test_a_scale_is_in_a_key_and_a_cluster_is_not() -> None:
    assert key(chord(60, 64, 67)) > 0.8 > 0.6 > key(chord(*range(60, 72)))


def test_a_major_chord_leans_to_major_and_a_minor_one_to_minor() -> None:
    assert major(chord(60, 64, 67)) > 0.05
    assert major(chord(60, 63, 67)) < -0.05


def test_an_octave_higher_is_an_octave_brighter() -> None:
    low, high = brightness(chord(69)), brightness(chord(81))
    assert high - low == pytest.approx(1.0, abs=0.1)


def test_a_tempo_that_quickens_drifts_and_a_steady_one_does_not() -> None:
    quickening = struck(np.cumsum(0.5 * 0.999 ** np.arange(60)), 30.0)
    assert structure.tempo_drift(clicks(120, 30.0)) < 0.002
    assert structure.tempo_drift(quickening) == pytest.approx(1 - 0.999**40, abs=0.01)


def test_music_that_returns_repeats_and_a_new_section_parts() -> None:
    bars = [chord(60, 64, 67), chord(65, 69, 72), chord(67, 71, 74), chord(57, 60, 64)]
    returning, parted = np.concatenate(bars * 4), np.concatenate([*[bars[0]] * 6, *[chord(49, 82)] * 6])
    assert structure.repeats(returning) > 0.5
    assert structure.repeats(returning) > structure.repeats(structure.shuffled(returning)) + 0.1
    assert structure.sections(parted) > 0.3
    assert structure.sections(parted) > structure.sections(structure.shuffled(parted)) + 0.1


def test_a_last_chord_that_rings_alone_and_falls_away_is_an_end() -> None:
    faded = struck([*np.arange(0, 6, 0.5), 6.0], 8.0)
    faded[6 * RATE :] += np.linspace(1, 0, 2 * RATE, dtype=np.float32) ** 2 * chord(60, 64, 67)
    held = struck([*np.arange(0, 6, 0.5), 6.0], 8.0)
    held[6 * RATE :] += chord(60, 64, 67)
    assert structure.ends(faded)
    noisy = faded.copy()
    noisy[-3 * RATE // 10 :][: 3 * RATE // 20] += FAINT * np.random.default_rng(0).standard_normal(3 * RATE // 20)
    assert structure.ends(noisy)
    assert not structure.ends(held)
    assert not structure.ends(clicks(120))


def test_music_that_falls_silent_or_becomes_noise_has_collapsed() -> None:
    music = clicks(120, 30.0) + chord(60, 64, 67, seconds=30.0)
    silent, noise = music.copy(), music.copy()
    silent[20 * RATE :] = 0
    noise[20 * RATE :] = 0.2 * np.random.default_rng(0).standard_normal(10 * RATE)
    assert not structure.collapsed(music)
    assert structure.collapsed(silent)
    assert structure.collapsed(noise)


def test_the_longest_run_in_common_is_found_in_any_piece_and_not_across_two() -> None:
    random = np.random.default_rng(0)
    pieces = list(random.integers(0, 1024, (20, 300)).astype(np.uint16))
    copied, across, own = random.integers(0, 1024, (3, 100)).astype(np.uint16)
    copied[10:47] = pieces[7][200:237]
    across[:30], across[30:45] = pieces[3][-30:], pieces[4][:15]
    assert memory.longest_runs([copied, across, own], pieces).tolist() == [37, 30, 0]


def test_frechet_distance_of_normal_clouds_is_that_of_their_means_and_deviations() -> None:
    cloud = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    assert variety.frechet(cloud, cloud) == pytest.approx(0.0, abs=1e-6)
    assert variety.frechet(cloud, cloud + 2) == pytest.approx(12.0, abs=1e-3)
    assert variety.frechet(cloud, 3 * cloud) == pytest.approx(12.0, rel=0.1)  # (3 - 1)² for each of three
    assert variety.spread(3 * cloud[:99]) == pytest.approx(3 * variety.spread(cloud[:99]))


def test_music_that_repeats_itself_is_less_distinct() -> None:
    random = np.random.default_rng(0).integers(0, 1024, (2, 100)).astype(np.uint16)
    looped = np.tile(random[:, :10], 10)
    assert variety.distinct(list(random)) == 1
    assert variety.distinct(list(looped)) == pytest.approx(20 / 194)


def test_no_caption_has_the_unseen_words_and_each_has_a_neighbour_that_captions_have() -> None:
    rng = Random(0)
    said = " ".join(caption(describe(seed), rng) for seed in range(3000)).lower()
    tables = (words.GENRES, words.MOODS, words.TEMPOS, words.INSTRUMENTS, words.METRES)
    known = {word for table in tables for ways in table.values() for word in ways.training}
    others = " ".join([*known, *words.REQUESTS, *(use for use, _ in words.USES), *words.DRUMS.training])
    for unseen, neighbour in prompts.UNSEEN.items():
        assert neighbour in known
        for word in unseen.replace(" and ", " ").split():
            assert not re.search(rf"\b{word}\b", f"{said} {others}"), word


def test_prompts_for_an_instrument_alone_do_not_speak_of_drums() -> None:
    soli = prompts.solo_prompts(20)
    assert len(set(soli)) == 20
    assert soli == prompts.solo_prompts(20)
    assert not [prompt for prompt in soli if re.search("drum|beat|percuss", prompt)]


def test_a_word_is_alike_where_it_moves_as_its_neighbour_does_most() -> None:
    clips = {"sluggish": [clicks(60)], "slow": [clicks(60)], "hectic": [clicks(65)], "fast": [clicks(140)]}
    found = heeding.moved_alike(clips, {"sluggish": "slow", "hectic": "fast"})
    assert found["alike"] == 0.5
    assert [row["alike"] for row in found["words"].values()] == [True, False]


def test_a_quieter_copy_sounds_the_same_to_the_judge() -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    loud, quiet = spectrogram(noise).int(), spectrogram(noise / 2).int()
    assert (loud - quiet).abs().max() <= 1


def test_an_ear_learns_to_tell_slow_beats_from_fast_ones_and_tones_from_noise() -> None:
    rng = np.random.default_rng(0)

    def clip(fast: int, noisy: int) -> torch.Tensor:
        beats = clicks(rng.uniform(160, 200) if fast else rng.uniform(60, 80), 2.0)
        other = (
            rng.standard_normal(2 * RATE)
            if noisy
            else np.sin(2 * np.pi * rng.uniform(200, 800) * np.arange(2 * RATE) / RATE)
        )
        return spectrogram((beats + 0.02 * other).astype(np.float32))

    truths = torch.from_numpy(rng.integers(0, 2, (320, 2)))
    clips = torch.stack([clip(*truth) for truth in truths.tolist()])
    ear = learn(clips[:256], truths[:256], [2, 2])
    fast, noisy = torch.split(ear.hear(clips[256:]), [2, 2], dim=1)
    assert (fast.argmax(1) == truths[256:, 0]).float().mean() > 0.9
    assert (noisy.argmax(1) == truths[256:, 1]).float().mean() > 0.9


def test_adherence_counts_what_was_asked_for_and_what_other_prompts_would_give() -> None:
    heard: list[Truth] = [
        {"genre": "rock", "lead": "keys", "drums": drums, "tempo": "slow"} for drums in ("drums", "none") * 10
    ]
    asked = [truth_of_prompt(Expectation(drums=wanted)) for wanted in (True, False) * 10]
    found = heeding.adherence(heard, asked)
    assert found == {
        "drums": {"asked": 20, "heard": 1.0, "by_chance": 0.5, "of_each": {"drums": 1.0, "none": 1.0}},
    }


# --- with a bundle, tiny and untrained ---

TINY = evaluate.Evaluation(
    prompts=6, seconds=2.0, tempo_prompts=2, solo_prompts=2, word_clips=1, endings=2, long_clips=2, long_seconds=10.0,
    outputs=4, control_prompts=3, cfg_coefs=(1.0, 3.0), various_prompts=2, various_outputs=3, temperatures=(0.6, 1.0),
    codec_pieces=2, slots=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder)
    return folder


@pytest.mark.slow
def test_two_processes_play_what_one_does_and_the_codes_are_the_audio_s(bundle: Path) -> None:
    requests = [GenerationRequest(prompt=f"piano {n}", duration=1.0 + 0.2 * n, seed=n) for n in range(3)]
    alone = Musician(bundle, slots=2).play(requests)
    with Musicians(bundle, slots=2, workers=2) as musicians:
        together = musicians.play(requests)
    codec = bundled_codec(bundle)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.audio, other.audio)
        assert np.allclose(evaluate.decoded(codec, one.codes)[: len(one.audio)], one.audio, atol=1e-4)


def test_a_trial_finds_every_figure_of_the_card(bundle: Path, tmp_path: Path) -> None:
    codec = bundled_codec(bundle)
    rng = np.random.default_rng(0)
    pieces = [clicks(bpm, 10.0) + 0.01 * rng.standard_normal(10 * RATE).astype(np.float32) for bpm in range(90, 110)]
    codes = [codec.encode(torch.from_numpy(piece)[None, None])[0].numpy().astype(np.uint16) for piece in pieces]
    (tmp_path / "codes" / "train").mkdir(parents=True)
    np.save(tmp_path / "codes" / "train" / "codes_00000.npy", np.stack(codes))
    music = evaluate.HeldOut(pieces, codes, [100.0] * 20, [piece[: 2 * RATE] for piece in pieces])
    trial = evaluate.Trial(TINY, deaf_judge(), codec, Musician(bundle, 4), music, Place(tmp_path))
    found = {
        "version": "test", "before": None, "settings": TINY.__dict__, "judge_accuracy": dict.fromkeys(FIELDS, 0.5),
        "codec": evaluate.codec_figures(TINY, codec, [np.tile(piece, 2) for piece in pieces]),
        "codec_speed": evaluate.codec_speed(codec, codes[:2]),
        "loss": {"held_out_prompt": 2.0, "held_out_null": 3.0},
    }  # fmt: skip
    for part in trial.parts:
        found |= part()
    assert found["memory_long"]["held_out"]["longest_s"] == 10.0  # here it is what was trained on
    assert found["one_prompt"]["different"] == 4
    assert found["codec"]["music"]["log_mel"] == 0 < found["codec"]["opus_16"]["log_mel"]
    tables = card.tables(found)
    assert "nan" not in tables
    assert tables.count("|---|") > 8


def bundled_codec(bundle: Path) -> SpectralCodec:
    described = json.loads((bundle / "config.json").read_text())
    return SpectralCodec.from_state(described["codec"], load_file(bundle / "codec.safetensors"))


def deaf_judge() -> Judge:
    """One that learned nothing."""
    torch.manual_seed(0)
    names = {"genre": ["rock", "jazz"], "lead": ["keys"], "drums": ["drums", "none"], "tempo": ["slow", "fast"]}
    return Judge(Ear(7).eval(), names, {})


def test_the_card_remembers_the_version_before(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    assert card.before(path, "0.4") is None
    path.write_text('{"version": "0.3", "adherence": {"genre": {"heard": 0.2}}}')
    earlier = {"version": "0.3", "adherence.genre.heard": 0.2}
    assert card.before(path, "0.4") == earlier
    path.write_text(json.dumps({"version": "0.4", "before": earlier}))
    assert card.before(path, "0.4") == earlier  # measured again


def test_words_that_evaluations_ask_with_are_kept_out_of_the_readers_training() -> None:
    pieces = Bundle.read(BUNDLE).pieces
    kept = set(prompts.kept_for_evaluation(pieces))
    assert all(kept & set(pieces.ids(word)) for word in ("rapid", "speedy", "drummer", "rainy", *prompts.UNSEEN))
    assert all(kept.isdisjoint(pieces.ids(word)) for word in ("slow", "hip-hop", "disco", "keyboard", "drums"))
