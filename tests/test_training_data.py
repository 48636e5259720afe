"""The composer, its captions, its renderer and the shards."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest

from studio.engine.metre import FRAME_S, SIGNATURES
from studio.training import words
from studio.training.captions import captions, evaluation_prompts
from studio.training.compose import INSTRUMENTS, KITS, PIECE_S, Description, Note, Piece, Track, compose
from studio.training.compose.form import LAST_CHORD_S
from studio.training.compose.genres import GENRES
from studio.training.compose.instruments import Instrument
from studio.training.compose.theory import KEYS, MODES
from studio.training.data import build, read_shards
from studio.training.render import PEAK, Renderer, SoundfontMissingError, find_soundfont
from studio.training.words import Words
from tests.conftest import missing, require_package

SEEDS = range(400)


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return [compose(seed) for seed in SEEDS]


def test_the_same_seed_gives_the_same_piece() -> None:
    assert compose(11) == compose(11)
    assert compose(11).tracks != compose(12).tracks


def test_every_genre_and_forty_instruments_occur(pieces: list[Piece]) -> None:
    assert len(GENRES) >= 24
    assert {piece.description.genre for piece in pieces} == set(GENRES)
    assert len({name for piece in pieces for name in piece.description.instruments}) >= 40
    assert {piece.description.key.split()[0] for piece in pieces} == set(KEYS)
    assert {piece.description.tempo for piece in pieces} == {"slow", "medium", "fast"}
    assert {piece.description.metre for piece in pieces} == set(SIGNATURES)


def test_a_third_or_so_of_the_pieces_have_no_drums(pieces: list[Piece]) -> None:
    drumless = sum(not piece.description.has_drums for piece in pieces) / len(pieces)
    assert 0.3 < drumless < 0.45


def test_leads_are_spread_over_genres(pieces: list[Piece]) -> None:
    for genre in GENRES:
        leads = {piece.description.lead for piece in pieces if piece.description.genre == genre}
        assert len(leads) >= 4, genre


def test_notes_lie_inside_the_piece_and_the_keyboard(pieces: list[Piece]) -> None:
    for piece in pieces:
        for note in (note for track in piece.tracks for note in track.notes):
            assert 0 <= note.start < note.start + note.duration <= piece.seconds
            assert 21 <= note.pitch <= 108
            assert 1 <= note.velocity <= 127


def test_the_description_names_what_plays(pieces: list[Piece]) -> None:
    for piece in pieces:
        played = {track.instrument for track in piece.tracks if not track.is_drums}
        assert played == set(piece.description.instruments)
        assert piece.description.has_drums == any(track.is_drums for track in piece.tracks)
        assert all(track.notes for track in piece.tracks)
        assert all(track.program == KITS[track.instrument] for track in piece.tracks if track.is_drums)


def test_the_lead_and_the_drums_are_heard_within_four_seconds(pieces: list[Piece]) -> None:
    named = [track for piece in pieces for track in piece.tracks if track.role in ("lead", "drums")]
    early = sum(track.notes[0].start < 4 for track in named)
    assert early / len(named) > 0.97


def test_notes_begin_on_frames_and_bars_repeat_to_the_frame(pieces: list[Piece]) -> None:
    for piece in pieces:
        bar = piece.description.time.bar
        assert all(
            (note.start / FRAME_S) == pytest.approx(round(note.start / FRAME_S)) for note in piece.tracks[0].notes
        )
        drums = [track for track in piece.tracks if track.is_drums]
        hits = {round(note.start / FRAME_S) for track in drums for note in track.notes}
        again = [hit + bar in hits for hit in hits if bar <= hit < 25 / FRAME_S - bar]
        assert not again or sum(again) / len(again) > 0.55, piece.seed  # but for fills and breaks


def test_a_steady_player_has_one_frame_for_each_step_of_the_bar(pieces: list[Piece]) -> None:
    steady = [piece for piece in pieces if piece.description.genre in ("techno", "chiptune")]
    assert {piece.description.metre for piece in steady} >= {"4/4", "5/4", "7/8"}
    for piece in steady:
        bar = piece.description.time.bar
        for track in (track for track in piece.tracks if track.role != "comp"):  # who strums
            places = {round(note.start / FRAME_S) % bar for note in track.notes}
            assert not any((place + 1) % bar in places for place in places), (piece.seed, track.role)


def test_nothing_begins_after_the_last_chord(pieces: list[Piece]) -> None:
    for piece in pieces:
        end = piece.description.time.ending_by(round(PIECE_S / FRAME_S), LAST_CHORD_S).end
        assert end
        for track in piece.tracks:
            last = round(max(note.start for note in track.notes) / FRAME_S)
            assert last <= end + 4, (piece.seed, track.role)  # a player's lateness and a strum's


def test_odd_metres_are_some_of_several_genres(pieces: list[Piece]) -> None:
    for metre in words.ODD_METRES:
        genres = {piece.description.genre for piece in pieces if piece.description.metre == metre}
        assert len(genres) >= 4, metre
    odd = sum(piece.description.metre in words.ODD_METRES for piece in pieces)
    assert 0.04 < odd / len(pieces) < 0.12


def test_most_notes_are_in_the_key(pieces: list[Piece]) -> None:
    for piece in pieces:
        if piece.description.genre == "blues":
            continue  # its sevenths are its own
        tonic, mode = piece.description.key.split()
        scale = {(KEYS.index(tonic) + step) % 12 for step in MODES[mode]}
        pitches = [note.pitch % 12 for track in piece.tracks if not track.is_drums for note in track.notes]
        inside = sum(pitch in scale for pitch in pitches)
        assert inside >= 0.75 * len(pitches), piece.description


def test_a_short_piece_still_ends() -> None:
    piece = compose(3, seconds=4.0)
    assert max(note.start + note.duration for track in piece.tracks for note in track.notes) <= 4.0


# --- captions ---


def _descriptions(pieces: list[Piece]) -> list[tuple[Description, list[str]]]:
    return [(piece.description, captions(piece.description, Random(piece.seed))) for piece in pieces]


def test_captions_differ_and_repeat_with_their_seed(pieces: list[Piece]) -> None:
    for piece in pieces:
        first = captions(piece.description, Random(piece.seed), 6)
        assert len(set(first)) == 6
        assert first == captions(piece.description, Random(piece.seed), 6)


def test_captions_tell_the_truth_about_drums(pieces: list[Piece]) -> None:
    ways = sorted(words.NO_DRUMS.training, key=len, reverse=True)
    negated = re.compile(rf"\b({'|'.join(map(re.escape, ways))})\b", re.I)
    said = 0
    for description, texts in _descriptions(pieces):
        for text in texts:
            if description.has_drums:
                assert not negated.search(text), (text, description)
            else:
                bare = negated.sub("", text).lower().replace("mallet percussion", "").replace("drum and bass", "")
                bare = bare.replace("drum & bass", "").replace("steel drums", "")
                assert not re.search(r"\bdrum|percussion\b", bare), (text, description)
                said += bool(negated.search(text))
    assert said > 100


def test_captions_tell_the_truth_about_metre(pieces: list[Piece]) -> None:
    said: set[str] = set()
    for description, texts in _descriptions(pieces):
        for text in texts:
            named = set(re.findall(r"\b[34567]/[48]\b", text))
            assert named <= {description.metre}, (text, description)
            said |= named
            if "odd m" in text.lower():
                assert description.metre in words.ODD_METRES, (text, description)
    assert said >= set(words.ODD_METRES)


def test_captions_tell_the_truth_about_tempo(pieces: list[Piece]) -> None:
    for description, texts in _descriptions(pieces):
        others = [word for tempo, ways in words.TEMPOS.items() if tempo != description.tempo for word in ways.training]
        own = sorted(words.TEMPOS[description.tempo].training, key=len, reverse=True)
        for text in texts:
            bare = re.sub(rf"\b({'|'.join(own)})\b", "", text.lower())  # "not too fast"
            assert not re.search(rf"\b({'|'.join(others)})\b", bare), (text, description)
            assert all(int(bpm) == description.bpm for bpm in re.findall(r"(\d+) ?bpm", text.lower()))


def test_captions_name_only_instruments_that_play(pieces: list[Piece]) -> None:
    unmistakable = ("piano", "violin", "flute", "trumpet", "cello", "accordion", "banjo", "clarinet", "sitar", "choir")
    for description, texts in _descriptions(pieces):
        heard = " ".join(_said_of(INSTRUMENTS[name]) for name in description.instruments)
        for text in texts:
            for word in unmistakable:
                assert word not in text.lower() or word in heard, (text, description)


def _said_of(instrument: Instrument) -> str:
    ways = words.instrument(instrument.name).training
    return " ".join((instrument.name, *ways, *words.FAMILIES[instrument.family]))


def test_evaluation_prompts_use_wordings_that_training_does_not(pieces: list[Piece]) -> None:
    prompts = evaluation_prompts(50)
    assert prompts == evaluation_prompts(50)
    seen = {text.lower() for _, texts in _descriptions(pieces) for text in texts}
    assert not seen & {prompt.lower() for prompt, _ in prompts}
    for table in (words.GENRES, words.MOODS, words.TEMPOS, words.INSTRUMENTS):
        for ways in (*table.values(), words.DRUMS, words.NO_DRUMS):
            assert not _overlap(ways), ways


def _overlap(ways: Words) -> set[str]:
    return set(ways.training) & set(ways.held_out)


# --- audio ---


@pytest.fixture(scope="module")
def soundfont() -> Path:
    require_package("tinysoundfont")
    try:
        return find_soundfont()
    except SoundfontMissingError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def renderer(soundfont: Path) -> Renderer:
    return Renderer(soundfont)


def test_shards_hold_music_and_are_not_made_twice(soundfont: Path, tmp_path: Path) -> None:
    build(tmp_path, 2, soundfont=soundfont)
    (shard,) = read_shards(tmp_path)
    assert shard.audio.shape == (2, 960_000)
    assert shard.audio.dtype == np.int16
    assert [record["seed"] for record in shard.records] == [0, 1]
    assert shard.records[0]["description"]["genre"] == compose(0).description.genre
    level = np.sqrt(np.mean((shard.audio / 32768.0) ** 2, axis=1))
    assert ((level > 0.1) & (level < 0.2)).all()
    written = shard.path.stat().st_mtime_ns
    build(tmp_path, 2, soundfont=soundfont)
    assert shard.path.stat().st_mtime_ns == written
    assert not list(tmp_path.glob("*.part*"))
    build(tmp_path, 3, soundfont=soundfont)
    assert [record["seed"] for record in read_shards(tmp_path)[0].records] == [0, 1, 2]


def test_rendering_does_not_depend_on_what_was_rendered_before(renderer: Renderer) -> None:
    first = renderer.render(compose(4, 6.0))
    renderer.render(compose(9, 6.0))
    again = renderer.render(compose(4, 6.0))
    assert first.shape == (192_000,)
    assert np.abs(first).max() <= PEAK
    np.testing.assert_array_equal(first, again)


def test_the_piano_is_louder_when_struck_harder(renderer: Renderer) -> None:
    """tinysoundfont leaves MuseScore's piano behind a closed filter, where harder is softer."""

    def level(velocity: int) -> float:
        note = Note(0.0, 0.4, 64, velocity)
        track = Track("lead", "piano", 0, False, 0.0, 0.0, 0.0, (note,))
        return float(np.sqrt(np.mean(renderer.play(track, 16_000) ** 2)))

    assert level(50) < level(75) < level(95) < level(115)


def test_a_missing_soundfont_says_what_to_install() -> None:
    with pytest.raises(SoundfontMissingError, match="musescore-general-soundfont-small"):
        find_soundfont(Path("/nowhere.sf3"))
