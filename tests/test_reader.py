"""Any prompt becomes musicgen-mini's conditions, whatever stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studio.engine.metre import SIGNATURES
from studio.engine.reader import (
    WORD_PIECES_MAX,
    AttributeConditioner,
    PromptEncoder,
    Reader,
    WordPieces,
    attribute_count,
    drawn_metre,
    expected,
)
from tests.checkpoints import ATTRIBUTES, word_pieces

CPU = torch.device("cpu")
UNSURE = {name: torch.zeros(1, len(values)) for name, values in ATTRIBUTES.items()}


@pytest.fixture
def pieces() -> WordPieces:
    torch.manual_seed(0)
    return word_pieces()


@pytest.fixture
def encoder(pieces: WordPieces) -> PromptEncoder:
    conditioner = AttributeConditioner(attribute_count(ATTRIBUTES), 32)
    return PromptEncoder(pieces, Reader(16, 32, ATTRIBUTES), conditioner, CPU)


@pytest.mark.parametrize("prompt", ["sad piano", "zyx", "日本の音楽", "🎹🎹🎹", "...", "\n\t", "x" * 500, "a b " * 125])
def test_no_prompt_is_unknown(prompt: str, encoder: PromptEncoder) -> None:
    conditions = encoder.encode(prompt, 20, 0)
    assert conditions.cross is not None
    assert conditions.prefix is None
    assert 1 <= conditions.cross.shape[0] <= WORD_PIECES_MAX
    assert conditions.cross.shape[1] == 32
    assert conditions.cross.isfinite().all()


def test_an_empty_text_is_one_unknown_piece(pieces: WordPieces) -> None:
    assert pieces.ids(" ") == [pieces.tokenizer.token_to_id("[UNK]")]


def test_a_prompt_does_not_depend_on_its_neighbours(pieces: WordPieces) -> None:
    reader = Reader(16, 32, ATTRIBUTES).eval()
    embeddings, mask = pieces.embed(["sad", "slow sad piano and drums"])
    together, scores_together = reader(embeddings, mask)
    alone, scores_alone = reader(*pieces.embed(["sad"]))
    torch.testing.assert_close(together[0, :1], alone[0])
    assert (together[0, 1:] == 0).all()
    torch.testing.assert_close({name: each[:1] for name, each in scores_together.items()}, scores_alone)


def test_word_order_matters(encoder: PromptEncoder) -> None:
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


@pytest.mark.parametrize(
    ("prompt", "beat"),
    [("lo-fi, 80 bpm", 38), ("125BPM", 24), ("150-bpm techno", 20), ("60 beats per minute", 50), ("999 bpm", 14)],
)
def test_a_named_tempo_is_kept(prompt: str, beat: int) -> None:
    assert all(drawn_metre(prompt, UNSURE, seed).beat == beat for seed in range(5))


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_named_metre_is_kept(signature: str) -> None:
    assert all(drawn_metre(f"jazz in {signature}, sad", UNSURE, seed).signature == signature for seed in range(5))


@pytest.mark.parametrize("prompt", ["9/4", "13/4", "3/45", "5 or 4 drums"])
def test_what_names_no_metre_leaves_it_open(prompt: str) -> None:
    assert len({drawn_metre(prompt, UNSURE, seed).signature for seed in range(20)}) > 2


@pytest.mark.parametrize("prompt", ["0 bpm", "12345 bpm", "bpm", "80 drums"])
def test_what_names_no_tempo_leaves_it_open(prompt: str) -> None:
    beats = {drawn_metre(prompt, UNSURE, seed).beat for seed in range(20)}
    assert len(beats) > 2


def test_a_seed_is_one_tempo(encoder: PromptEncoder) -> None:
    first, again, other = (encoder.encode("sad piano", 50, seed).summed for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_both_branches_of_guidance_hear_the_clock_and_one_the_prompt(encoder: PromptEncoder) -> None:
    sad, drums = (encoder.encode(f"{what}, 80 bpm in 4/4", 50, 0).summed for what in ("sad piano", "fast drums"))
    assert sad is not None
    assert drums is not None
    assert torch.equal(sad[1], drums[1])
    assert not torch.equal(sad[0], drums[0])
    assert not torch.equal(sad[1], torch.zeros_like(sad[1]))


def test_guidance_leads_to_an_ending_where_one_is_asked_for(encoder: PromptEncoder) -> None:
    prompts = ("piano 80 bpm in 4/4", "piano with an ending 80 bpm in 4/4")
    conditions = encoder.encode(prompts[1], 400, 0)
    open_, ended = encoder.encode(prompts[0], 400, 0).summed, conditions.summed
    assert open_ is not None
    assert ended is not None
    assert conditions.metre is not None
    end = conditions.metre.end
    assert end is not None
    assert torch.equal(open_[1, :end], ended[1, :end])  # the null branch knows of no end
    guidance = ended[0] - ended[1]
    assert (guidance[end - 1] - guidance[0]).abs().max() > 0.1
    assert torch.equal(ended[0, end:], ended[1, end:])  # what rings is guided by the prompt's words alone


@pytest.mark.parametrize(("given", "ends"), [(0, True), (288, True), (289, False)])
def test_what_is_given_is_not_ended(encoder: PromptEncoder, given: int, ends: bool) -> None:
    metre = encoder.encode("piano with an ending 120 bpm in 3/4", 400, 0, given=given).metre
    assert metre is not None
    assert (metre.end is not None) == ends


def test_an_attribute_has_one_value_or_several() -> None:
    scores = {
        "drums": torch.tensor([[0.0, 2.0]]),
        "instruments": torch.tensor([[3.0, 3.0, -3.0]]),
        "beat": torch.ones(1, 24),
    }
    found = expected(scores)
    assert found.shape == (1, 5)  # the beat is heard as a clock
    assert found[0, :2].sum().item() == pytest.approx(1)
    assert (found[0, 2:4] > 0.9).all()
    assert expected(scores, 2.0)[0, 1] > found[0, 1]


def test_what_a_prompt_lets_expect_can_be_seen(encoder: PromptEncoder) -> None:
    seen = encoder.expectations("sad piano")
    assert {name: set(odds) for name, odds in seen.items()} == {name: set(v) for name, v in ATTRIBUTES.items()}
    assert sum(seen["metre"].values()) == pytest.approx(1, abs=1e-5)
    assert all(0 < odds < 1 for odds in seen["instruments"].values())
