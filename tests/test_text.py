"""Any prompt becomes conditions, whatever stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studio.engine.text import (
    RECENT_PROMPTS,
    WORD_PIECES_MAX,
    RecentPrompts,
    T5Encoder,
    TimeConditioner,
    WordPieceConditioner,
    WordPieceEncoder,
    WordPieces,
)
from tests.checkpoints import word_pieces

CPU = torch.device("cpu")


@pytest.fixture
def pieces() -> WordPieces:
    torch.manual_seed(0)
    return word_pieces()


@pytest.fixture
def encoder(pieces: WordPieces) -> WordPieceEncoder:
    time = TimeConditioner(32)
    for module in (time.clock, time.gist):
        torch.nn.init.normal_(module.weight)
    return WordPieceEncoder(pieces, WordPieceConditioner(16, 32), time, CPU)


@pytest.mark.parametrize("prompt", ["sad piano", "zyx", "日本の音楽", "🎹🎹🎹", "...", "\n\t", "x" * 500, "a b " * 125])
def test_no_prompt_is_unknown(prompt: str, encoder: WordPieceEncoder) -> None:
    conditions = encoder.encode(prompt, 20, 0)
    assert conditions.cross is not None
    assert conditions.prefix is None
    assert 1 <= conditions.cross.shape[0] <= WORD_PIECES_MAX
    assert conditions.cross.shape[1] == 32
    assert conditions.cross.isfinite().all()


def test_an_empty_text_is_one_unknown_piece(pieces: WordPieces) -> None:
    assert pieces.ids(" ") == [pieces.tokenizer.token_to_id("[UNK]")]


def test_a_prompt_does_not_depend_on_its_neighbours(pieces: WordPieces, encoder: WordPieceEncoder) -> None:
    conditioner = WordPieceConditioner(16, 32)
    embeddings, mask = pieces.embed(["sad", "slow sad piano and drums"])
    together = conditioner(embeddings, mask)
    alone = conditioner(*pieces.embed(["sad"]))
    torch.testing.assert_close(together[0, :1], alone[0])
    assert (together[0, 1:] == 0).all()


def test_word_order_matters(encoder: WordPieceEncoder) -> None:
    first, second = encoder.encode("sad piano", 20, 0).cross, encoder.encode("piano sad", 20, 0).cross
    assert first is not None
    assert second is not None
    assert not torch.allclose(first, second.flip(0))


def test_a_table_is_stored_in_eight_bits(pieces: WordPieces, tmp_path: Path) -> None:
    pieces.save(tmp_path)
    loaded = WordPieces.load(tmp_path)
    assert loaded.ids("sad piano, 80 bpm") == pieces.ids("sad piano, 80 bpm")
    error = (loaded.table - pieces.table).abs().amax(dim=1)
    assert (error <= pieces.table.abs().amax(dim=1) / 250).all()


def test_a_prompt_is_encoded_once() -> None:
    recent = RecentPrompts(T5Encoder(Letters()))
    first = recent.encode("sad piano", 20, 0)
    assert recent.encode("sad piano", 30, 1) is first
    for i in range(RECENT_PROMPTS):
        recent.encode(f"piano {i}", 20, 0)
    assert recent.encode("sad piano", 20, 0) is not first


class Letters:
    """A text conditioner that knows the alphabet."""

    def tokenize(self, prompts: list[str]) -> list[str]:
        return prompts

    def __call__(self, prompts: list[str]) -> tuple[torch.Tensor, None]:
        return torch.tensor([[[float(ord(letter))] for letter in prompt] for prompt in prompts]), None


@pytest.mark.parametrize(
    ("prompt", "beat"),
    [("lo-fi, 80 bpm", 38), ("125BPM", 24), ("150-bpm techno", 20), ("60 beats per minute", 50), ("999 bpm", 14)],
)
def test_a_named_tempo_is_kept(prompt: str, beat: int) -> None:
    assert all(TimeConditioner(32).metre(prompt, torch.zeros(32), seed).beat == beat for seed in range(5))


@pytest.mark.parametrize("prompt", ["0 bpm", "12345 bpm", "bpm", "80 drums"])
def test_what_names_no_tempo_leaves_it_open(prompt: str) -> None:
    beats = {TimeConditioner(32).metre(prompt, torch.zeros(32), seed).beat for seed in range(20)}
    assert len(beats) > 2


def test_a_seed_is_one_tempo(encoder: WordPieceEncoder) -> None:
    first, again, other = (encoder.encode("sad piano", 50, seed).summed for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_both_branches_of_guidance_hear_the_clock_and_one_the_prompt(encoder: WordPieceEncoder) -> None:
    sad, drums = (encoder.encode(f"{what}, 80 bpm in 4/4", 50, 0).summed for what in ("sad piano", "fast drums"))
    assert sad is not None
    assert drums is not None
    assert torch.equal(sad[1], drums[1])
    assert not torch.equal(sad[0], drums[0])
    assert not torch.equal(sad[1], torch.zeros_like(sad[1]))


def test_who_asks_for_an_ending_gets_one(encoder: WordPieceEncoder) -> None:
    open_, ended = (encoder.encode(text, 400, 0).summed for text in ("piano 80 bpm", "piano with an ending 80 bpm"))
    assert open_ is not None
    assert ended is not None
    torch.testing.assert_close(open_[1, :1], ended[1, :1], atol=0.1, rtol=0)
    assert (open_[1, -1] - ended[1, -1]).abs().max() > 0.2
