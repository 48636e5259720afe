"""Any prompt becomes conditions, whatever stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studio.engine.text import (
    RECENT_PROMPTS,
    WORD_PIECES_MAX,
    RecentPrompts,
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
    return WordPieceEncoder(pieces, WordPieceConditioner(16, 32), CPU)


@pytest.mark.parametrize("prompt", ["sad piano", "zyx", "日本の音楽", "🎹🎹🎹", "...", "\n\t", "x" * 500, "a b " * 125])
def test_no_prompt_is_unknown(prompt: str, encoder: WordPieceEncoder) -> None:
    conditions = encoder.encode(prompt)
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
    first, second = encoder.encode("sad piano").cross, encoder.encode("piano sad").cross
    assert first is not None
    assert second is not None
    assert not torch.allclose(first, second.flip(0))


def test_a_table_is_stored_in_eight_bits(pieces: WordPieces, tmp_path: Path) -> None:
    pieces.save(tmp_path)
    loaded = WordPieces.load(tmp_path)
    assert loaded.ids("sad piano, 80 bpm") == pieces.ids("sad piano, 80 bpm")
    error = (loaded.table - pieces.table).abs().amax(dim=1)
    assert (error <= pieces.table.abs().amax(dim=1) / 250).all()


def test_a_prompt_is_encoded_once(encoder: WordPieceEncoder) -> None:
    recent = RecentPrompts(encoder)
    first = recent.encode("sad piano")
    assert recent.encode("sad piano") is first
    for i in range(RECENT_PROMPTS):
        recent.encode(f"piano {i}")
    assert recent.encode("sad piano") is not first
