"""musicgen-mini's language model: what it learns is what audiocraft's and the studio's decoder read."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from studio.engine.bundle import Bundle
from studio.engine.metre import Metre
from studio.engine.reader import WordPieces, attribute_count
from studio.engine.spectral_codec import SpectralCodec
from studio.engine.transformer import DecoderConfig
from studio.errors import CheckpointError, ConfigurationError
from studio.training import begin, lm, reading, text
from studio.training.attributes import ATTRIBUTES, truth, values
from studio.training.captions import caption, captions
from studio.training.codec import CodecTraining
from studio.training.compose import compose
from studio.training.config import MINI, read
from studio.training.place import Place

BUNDLE = Path(__file__).parents[1] / "assets" / "musicgen-mini"

SMALL = DecoderConfig(dim=32, heads=2, layers=2, ffn=64, cardinality=16, summed=True)
TINY = lm.LmTraining(
    dim=32, heads=2, layers=2, ffn=64, minutes=0.02, warmup_minutes=0.001, shapes=((40, 4, 0.7), (60, 2, 0.3)),
    held_out_pieces=4, held_out_frames=60, held_out_every_minutes=0.01, log_every=2,
    device="cpu",
)  # fmt: skip
READER = reading.ReaderTraining(dim=32, steps=200, batch=16, descriptions=16, learning_rate=4e-3, mixed_share=0.0)


def test_audiocraft_computes_the_same_logits_from_the_same_weights() -> None:
    model = lm.LanguageModel(SMALL, attributes=8).eval()
    reference = audiocraft_model(SMALL)
    state = {name: t for name, t in model.state_dict().items() if not name.startswith("attributes.")}
    reference.load_state_dict(state, strict=True)
    codes = torch.randint(0, 16, (2, 4, 30))
    condition, summed = torch.randn(2, 5, 32), torch.randn(2, 31, 32)
    tensors = {"description": (condition, torch.ones(2, 5)), "time": (summed, torch.ones(2, 31))}
    read_codes, predicted = lm.delayed(codes, SMALL)
    with torch.no_grad():
        ours = model(read_codes, condition, torch.ones(2, 5, dtype=torch.bool), summed[:, :30])
        theirs = reference.compute_predictions(codes, [], tensors)
    assert torch.equal(predicted != -100, delay_mask(30))
    for k in range(4):
        aligned = ours[:, k:, k]  # step s predicts frame s - k
        assert torch.allclose(aligned, theirs.logits[:, k, : 30 - k], atol=1e-4)


def test_the_delay_pattern_reads_only_the_past() -> None:
    codes = torch.arange(1, 7).expand(1, 4, 6)
    read_codes, predicted = lm.delayed(codes, SMALL)
    assert read_codes[0].tolist() == [
        [16, 1, 2, 3, 4, 5], [16, 16, 1, 2, 3, 4], [16, 16, 16, 1, 2, 3], [16, 16, 16, 16, 1, 2],
    ]  # fmt: skip
    assert predicted[0, 2].tolist() == [-100, -100, 1, 2, 3, 4]


def test_a_dropped_prompt_is_the_null_condition_of_guidance() -> None:
    """The studio's null branch reads zeros instead of conditions, whatever the prompt was."""
    model = lm.LanguageModel(SMALL, attributes=8).eval()
    codes, condition, attributes = torch.randint(0, 16, (1, 4, 10)), torch.randn(1, 3, 32), torch.rand(1, 8)
    mask, clock = torch.ones(1, 3, dtype=torch.bool), torch.from_numpy(Metre(24, "4/4").clock(10))[None]
    batch = lm.Batch(codes, codes, condition, mask, attributes, clock)
    with torch.no_grad():
        dropped = lm.predict(model, batch.without_prompts(), SMALL)
        read_codes, predicted = lm.delayed(codes, SMALL)
        heard = model(read_codes, torch.zeros(1, 7, 32), torch.ones(1, 7).bool(), model.attributes.clock(clock))
        zeros = lm.codebook_losses(heard, predicted)
    assert torch.allclose(dropped, zeros, atol=1e-6)


def test_training_learns_which_codes_a_piece_has(coded_music: Path) -> None:
    music = heard_music(coded_music)
    config = replace(TINY, minutes=60)
    state = lm.new_state(config, attribute_count(ATTRIBUTES), torch.device("cpu"))
    losses = [lm.advance(state, state.model, config, music.batch(step, 40, 4, TINY)).mean() for step in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_reader_learns_what_captions_let_expect(coded_music: Path) -> None:
    """Of the pieces that it may have seen, in captions that it has not."""
    pieces = WordPieces.load(coded_music / "text")
    reader = reading.load(coded_music / "text" / reading.READER)
    music = heard_music(coded_music)
    rng = Random(1)
    _, scores = reader(*pieces.embed([caption(described, rng) for described in music.descriptions * 8]))
    wanted = truth(music.descriptions * 8)
    right = (scores["genre"].argmax(1) == wanted["genre"].argmax(1)).float().mean().item()
    assert right > 0.2  # an eighth is the commonest's


def test_what_is_true_of_a_piece_has_its_place_among_the_attributes() -> None:
    described = compose(3).description
    found = truth([described])
    for name, true in values(described).items():
        assert {value for value, is_true in zip(ATTRIBUTES[name], found[name][0], strict=True) if is_true} == true


def test_a_run_writes_its_losses_with_and_without_prompts(coded_music: Path, tmp_path: Path) -> None:
    lm.train(TINY, coded_music, coded_music / "text", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / lm.JOURNAL).read_text().splitlines()]
    assert lines[-1]["gap"] == pytest.approx(lines[-1]["held_out_null"] - lines[-1]["held_out_prompt"], abs=1e-3)
    assert lines[-1]["minutes"] >= TINY.minutes


def test_a_resumed_run_goes_on_where_it_stopped(coded_music: Path, tmp_path: Path) -> None:
    first = lm.train(TINY, coded_music, coded_music / "text", tmp_path)
    before = torch.load(first, weights_only=True)
    more = before["seconds"] / 60 + 0.001
    lm.train(replace(TINY, minutes=more), coded_music, coded_music / "text", tmp_path)
    stored = torch.load(first, weights_only=True)
    assert stored["step"] > before["step"]
    assert stored["seconds"] >= 60 * more
    assert lm.trained(first).config == TINY.decoder


def test_the_same_step_draws_the_same_batch(coded_music: Path) -> None:
    music = heard_music(coded_music)
    a, b, c = (music.batch(step, 40, 4, TINY) for step in (7, 7, 8))
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.condition, b.condition)
    assert torch.equal(a.attributes, b.attributes)
    assert not torch.equal(a.codes, c.codes)


def test_a_dropped_prompt_is_dropped_whole(coded_music: Path) -> None:
    batch = heard_music(coded_music).batch(0, 40, 64, replace(TINY, null_share=0.5))
    silent = ~batch.mask.any(dim=1)
    assert 10 < silent.sum() < 54
    assert (batch.attributes[silent] == 0).all()
    assert (batch.condition[silent] == 0).all()
    assert (batch.attributes[~silent].sum(dim=1) > 5).all()


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    config = lm.LmTraining(minutes=100, warmup_minutes=1, decay_share=0.3)
    rates = [lm.schedule(minutes, config) for minutes in (0, 1, 50, 70, 85, 100)]
    assert rates[0] < 0.1
    assert rates[1:4] == [1, 1, 1]
    assert rates[4] == pytest.approx(0.5)
    assert rates[5] == 0


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_a_decoder_that_grew_computes_what_it_did(layers: int) -> None:
    model, grown = (lm.LanguageModel(replace(SMALL, layers=n), attributes=8).eval() for n in (2, layers))
    begin.grow(grown, model.state_dict())
    codes = torch.randint(0, 16, (2, 4, 30))
    read = codes, torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 30, 32)
    with torch.no_grad():
        assert torch.allclose(grown(*read), model(*read), atol=1e-6)


def test_a_decoder_does_not_grow_into_another_shape() -> None:
    model = lm.LanguageModel(SMALL, attributes=8)
    with pytest.raises(ConfigurationError, match="layers = 1"):
        begin.grow(lm.LanguageModel(replace(SMALL, layers=1), attributes=8), model.state_dict())
    with pytest.raises(ConfigurationError, match="another shape"):
        begin.grow(lm.LanguageModel(replace(SMALL, dim=64), attributes=8), model.state_dict())


def test_training_begins_with_the_model_that_ships(tmp_path: Path) -> None:
    shipped = Bundle.read(BUNDLE)
    config = read(MINI).lm
    place = Place(tmp_path)
    begin.begin(config, CodecTraining(), place, BUNDLE)
    model = lm.trained(place.lm / lm.CHECKPOINT)
    assert model.config == config.decoder
    assert all(torch.equal(model.state_dict()[name], tensor.float()) for name, tensor in shipped.lm.items())
    assert reading.load(place.text / reading.READER).attributes == shipped.reader.attributes
    assert torch.equal(SpectralCodec.load(place.codec_export).codebooks, shipped.codec.codebooks)
    with pytest.raises(ConfigurationError, match="checkpoint"):
        begin.begin(config, CodecTraining(), place, BUNDLE)


def test_another_sentence_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="sha256"):
        text.distil(tmp_path, tmp_path, 8)


def test_the_recipe_that_ships_is_read_and_a_misspelt_number_is_not(tmp_path: Path) -> None:
    assert read(MINI).lm.decoder.dim % 64 == 0
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[lm]\nlayer = 3\n")
    with pytest.raises(ConfigurationError, match="layer"):
        read(wrong)


def test_a_recipe_whose_reader_is_not_as_wide_as_its_language_model_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[lm]\ndim = 128\nheads = 2\n")
    with pytest.raises(ConfigurationError, match=r"reader\.dim is 256, lm\.dim 128"):
        read(wrong)


@pytest.fixture(scope="module")
def coded_music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen described pieces whose codes hang on their genre, and words for them."""
    folder = tmp_path_factory.mktemp("coded")
    (folder / "text").mkdir()
    pieces = [compose(seed) for seed in range(16)]
    said = [word for piece in pieces for text in captions(piece.description, Random(0), 20) for word in text.split()]
    word_pieces([word.lower().strip(",.") for word in said]).save(folder / "text")
    reading.train(READER, folder / "text")
    (folder / "train").mkdir()
    generator = np.random.default_rng(0)
    codes = [generator.integers(0, 16, (4, 1)) + np.zeros((4, 60), int) for _ in pieces]
    np.save(folder / "train" / "codes_00000.npy", np.stack(codes).astype(np.uint16))
    records = [json.dumps({"seed": p.seed, "description": asdict(p.description)}) for p in pieces]
    (folder / "train" / "codes_00000.jsonl").write_text("\n".join(records) + "\n")
    shutil.copytree(folder / "train", folder / "heldout")
    return folder


def heard_music(folder: Path) -> lm.CodedMusic:
    pieces, reader = WordPieces.load(folder / "text"), reading.load(folder / "text" / reading.READER)
    return lm.CodedMusic(folder / "train", pieces, reader)


def word_pieces(words: list[str]) -> WordPieces:
    vocabulary = {word: row for row, word in enumerate(["[UNK]", *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return WordPieces(tokenizer, torch.randn(len(vocabulary), 8, generator=torch.Generator().manual_seed(0)))


def delay_mask(length: int) -> Tensor:
    steps = torch.arange(length)
    return torch.stack([steps >= k for k in range(4)]).expand(2, 4, length)


def audiocraft_model(c: DecoderConfig) -> torch.nn.Module:
    from audiocraft.models.lm import LMModel
    from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
    from audiocraft.modules.conditioners import ConditionFuser, ConditioningProvider

    return LMModel(
        DelayedPatternProvider(c.codebooks), ConditioningProvider({}),
        ConditionFuser({"sum": ["time"], "prepend": [], "cross": ["description"], "input_interpolate": []}),
        n_q=c.codebooks, card=c.cardinality, dim=c.dim, num_heads=c.heads, hidden_scale=c.ffn // c.dim,
        norm_first=True, bias_proj=False, num_layers=c.layers, bias_ff=False, bias_attn=False, causal=True,
        custom=True, memory_efficient=False, cross_attention=True, activation="gelu", dropout=0.0,
    ).eval()  # fmt: skip


def test_the_frames_of_an_ending_count_more_and_so_do_the_first() -> None:
    clock = torch.from_numpy(Metre(24, "4/4", end=96, over=120).clock(120))[None]
    ending = lm.frame_weights(clock, replace(TINY, start_weight=1.0, ending_weight=3.0))
    assert ending[0].tolist() == [1.0] * 96 + [3.0] * 24
    beginning = lm.frame_weights(clock, replace(TINY, start_weight=6.0, ending_weight=1.0))[0]
    assert beginning[0] == 6.0
    assert (beginning.diff() < 0).all()
