"""The command line, as a person uses it: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from studio.cli import app


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGX_MUSIC_DATA_DIR", str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALLOWED_HOSTS", "music.example.org", "must be JSON"),
        ("ALLOWED_HOSTS", '["music.example.org:7860"]', "'music.example.org:7860' must be a host name alone"),
        ("SLOTS", "many", "Input should be a valid integer"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DGX_MUSIC_{name}", value)
    said = CliRunner().invoke(app, ["worker"])
    assert (said.exit_code, said.output.count("\n")) == (1, 1)
    assert said.output.startswith(f"DGX_MUSIC_{name}: {words}")


def test_a_track_is_made_copied_and_named_as_it_is_called(tmp_path: Path) -> None:
    output = tmp_path / ("a long name " * 8 + "[take 1].wav")
    said = CliRunner().invoke(app, ["generate", "sad piano", "--duration", "1", "--seed", "7", "--output", str(output)])
    assert said.exit_code == 0, said.output
    assert f"{output}  (1 s, seed 7, " in said.output
    assert soundfile.info(output).duration == 1.0


def test_a_file_is_continued_and_how_it_cannot_be_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mine.flac", np.random.default_rng(0).normal(0, 0.1, 3 * 16_000), 16_000)
    given = ["generate", "sad piano", "--duration", "3", "--continue-from", str(tmp_path / "mine.flac")]
    said = CliRunner().invoke(app, given)
    assert (said.exit_code, said.output.startswith("duration: must be more than the 3 s")) == (1, True)
    said = CliRunner().invoke(app, [*given, "--continue-seconds", "1.5", "--output", str(tmp_path / "out.wav")])
    assert said.exit_code == 0, said.output
    mine, out = (soundfile.read(tmp_path / name)[0] for name in ("mine.flac", "out.wav"))
    assert np.corrcoef(mine[:20_000], out[:40_000:2])[0, 1] > 0.8
    said = CliRunner().invoke(app, ["generate", "sad piano", "--continue-from", "nowhere.flac"])
    assert (said.exit_code, said.output) == (1, "continue_from: There is no job 'nowhere.flac'.\n")


@pytest.mark.parametrize(("suffix", "kind"), [("flac", "FLAC"), ("MP3", "MP3"), ("ogg", "OGG")])
def test_generate_writes_the_format_that_is_named(tmp_path: Path, suffix: str, kind: str) -> None:
    output = tmp_path / f"take.{suffix}"
    said = CliRunner().invoke(app, ["generate", "sad piano", "--duration", "2", "--seed", "7", "--output", str(output)])
    assert said.exit_code == 0, said.output
    with soundfile.SoundFile(output) as file:
        assert (file.format, file.frames / file.samplerate) == (kind, pytest.approx(2, abs=0.1))
        assert json.loads(file.comment)["seed"] == 7


def test_generate_refuses_a_format_before_it_makes_anything(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["generate", "sad piano", "--output", str(tmp_path / "take.xyz")])
    assert (said.exit_code, said.output) == (1, "output: take.xyz must end in .wav, .flac, .mp3, .ogg.\n")
    assert not list(tmp_path.rglob("*.wav"))


def test_training_says_errors_in_a_sentence(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["train", "lm", "--recipe", str(tmp_path / "nowhere.toml")])
    assert (said.exit_code, said.output.count("\n")) == (1, 1)
    assert "nowhere.toml" in said.output


def test_a_copy_that_cannot_be_written_says_where_the_track_is(tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "a.wav"
    said = CliRunner().invoke(app, ["generate", "sad piano", "--duration", "1", "--output", str(output)])
    assert said.exit_code == 1
    assert f"Cannot write {output} (No such file or directory). The track is {tmp_path}/data/audio/gen_" in said.output


def test_a_request_that_is_not_valid_names_its_field() -> None:
    said = CliRunner().invoke(app, ["generate", "sad piano", "--model", "musicgen-tiny"])
    assert said.exit_code == 1
    assert said.output.startswith("model: There is no model 'musicgen-tiny'")
