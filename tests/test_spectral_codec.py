"""The mini's codec: lengths, codes, windows; and that its training learns, stops and goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.engine.spectral_codec import (
    Decoder,
    Encoder,
    SpectralCodec,
    SpectralCodecConfig,
    fold,
    mel_filters,
    nearest,
)
from studio.training.codec import (
    CodecTraining,
    SpectralLoss,
    advance,
    begin,
    codec_of,
    encode_shards,
    export,
    learning_rate,
    log_mel_distance,
    new_state,
    train,
)

TINY = SpectralCodecConfig(
    cardinality=32,
    mels=40,
    long_bins=48,
    oscillators=72,
    oscillators_per_octave=12,
    dim=32,
    expansion=64,
    latent=8,
    encoder_coarse=1,
    decoder_coarse=1,
    decoder_fine=1,
)
TRAINING = CodecTraining(
    codec=TINY,
    code_steps=2,
    steps=4,
    batch=2,
    crop_frames=12,
    warmup=2,
    quantise_after=1,
    log_every=2,
    device="cpu",
    checkpoint_every_s=0.0,
)


@pytest.fixture
def codec() -> SpectralCodec:
    torch.manual_seed(0)
    codec = SpectralCodec(TINY)
    codec.codebooks.normal_()
    return codec.eval()


@pytest.fixture
def music_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "music"
    directory.mkdir()
    generator = np.random.default_rng(0)
    pieces = (generator.standard_normal((3, 32_000)) * 3000).astype(np.int16)
    np.save(directory / "shard_00000.npy", pieces)
    records = [json.dumps({"seed": n, "captions": ["noise"], "description": {}}) for n in range(3)]
    (directory / "shard_00000.jsonl").write_text("\n".join(records) + "\n")
    return directory


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 32_000])
def test_codes_cover_the_audio_and_no_more(codec: SpectralCodec, samples: int) -> None:
    codes = codec.encode(torch.randn(2, 1, samples) * 0.1)
    assert codes.shape == (2, 4, -(-samples // 640))
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < TINY.cardinality


@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_audio_has_exactly_the_length_of_its_codes(codec: SpectralCodec, frames: int) -> None:
    audio = codec.decode(torch.randint(0, TINY.cardinality, (2, 4, frames)))
    assert audio.shape == (2, 1, frames * 640)
    assert audio.isfinite().all()


def test_encoding_and_decoding_twice_gives_the_same_bytes(codec: SpectralCodec) -> None:
    audio = torch.randn(1, 1, 16_000) * 0.1
    codes = codec.encode(audio)
    assert torch.equal(codes, codec.encode(audio))
    assert torch.equal(codec.decode(codes), codec.decode(codes))


@pytest.mark.parametrize("config", [TINY, SpectralCodecConfig(dim=32, expansion=64, latent=8, decoder_fine=2)])
def test_a_window_with_its_context_decodes_like_the_whole(config: SpectralCodecConfig) -> None:
    torch.manual_seed(1)
    codec = SpectralCodec(config)
    codec.codebooks.normal_()
    codes = torch.randint(0, config.cardinality, (1, 4, 90))
    whole = codec.decode(codes)
    left, right = codec.context_frames
    start, end = 40, 50
    window = codec.decode(codes[..., start - left : end + right], first_frame=start - left)
    piece = window[..., left * 640 : (left + end - start) * 640]
    torch.testing.assert_close(piece, whole[..., start * 640 : end * 640], atol=1e-5, rtol=0)


def test_audio_depends_on_no_frame_beyond_the_stated_context(codec: SpectralCodec) -> None:
    codes = torch.randint(0, TINY.cardinality, (1, 4, 80))
    changed = codes.clone()
    changed[..., 40] = (changed[..., 40] + 1) % TINY.cardinality
    different = (codec.decode(codes) - codec.decode(changed))[0, 0].abs() > 1e-6
    touched = different.nonzero()[:, 0] // 640
    left, right = codec.context_frames
    assert 40 - right <= touched.min()
    assert touched.max() <= 40 + left


@pytest.mark.parametrize("half", [True, False])
def test_a_saved_codec_comes_back(codec: SpectralCodec, tmp_path: Path, half: bool) -> None:
    codec.save(tmp_path / "codec.safetensors", half=half)
    loaded = SpectralCodec.load(tmp_path / "codec.safetensors")
    assert loaded.config == codec.config
    assert {p.dtype for p in loaded.state_dict().values()} == {torch.float32}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec.json", "codec.safetensors"]
    again = SpectralCodec.from_state(loaded.config.to_json(), loaded.to_state(half))
    codes = torch.randint(0, TINY.cardinality, (1, 4, 9))
    assert torch.equal(loaded.decode(codes), again.decode(codes))
    torch.testing.assert_close(loaded.decode(codes), codec.decode(codes), atol=0.05, rtol=0.05)


def test_the_default_codec_keeps_to_its_budget() -> None:
    codec = SpectralCodec()
    stored = codec.to_state()
    assert sum(tensor.numel() for tensor in stored.values()) <= 3_800_000
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) <= 8_000_000
    assert SpectralCodecConfig.from_json(json.loads(json.dumps(codec.config.to_json()))) == codec.config


def test_the_decoders_inverse_stft_undoes_the_encoders_stft() -> None:
    encoder, decoder = Encoder(TINY), Decoder(TINY)
    audio = torch.randn(2, 6400)
    margin = (TINY.n_fft - TINY.hop) // 2
    frames = torch.nn.functional.pad(audio, (margin, margin)).unfold(1, TINY.n_fft, TINY.hop)
    spectrum = torch.fft.rfft(frames * encoder.window)
    torch.testing.assert_close(decoder.overlap_add(spectrum), audio, atol=1e-5, rtol=1e-4)


def test_fold_adds_where_frames_overlap() -> None:
    frames = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    assert fold(frames, hop=2).tolist() == [[1.0, 2.0, 13.0, 20.0, 30.0]]


def test_every_mel_band_hears_something() -> None:
    for n_fft, bands in [(256, 24), (1280, 128), (4096, 160)]:
        filters = mel_filters(32_000, n_fft, bands)
        torch.testing.assert_close(filters.sum(dim=0), torch.ones(bands))


def test_each_codebook_codes_what_the_ones_before_left_over(codec: SpectralCodec) -> None:
    latent = torch.randn(1, 20, TINY.latent)
    codes = codec.quantise(latent)
    residual = latent
    for k in range(TINY.codebooks):
        distance = torch.cdist(residual, codec.codebooks[k][None])
        assert torch.equal(distance.argmin(-1), codes[:, k])
        assert torch.equal(nearest(residual, codec.codebooks[k]), codes[:, k])
        residual = residual - codec.codebooks[k][codes[:, k]]
    torch.testing.assert_close(latent - codec.dequantise(codes), residual)


def test_the_log_mel_distance_of_audio_to_itself_at_half_the_level_is_that_level() -> None:
    time = torch.arange(64_000) / 32_000
    noise = torch.randn(64_000, generator=torch.Generator().manual_seed(0)) * 0.3 + 0 * time
    assert log_mel_distance(noise, noise) == 0
    assert log_mel_distance(noise, noise / 2) == pytest.approx(np.log(2), abs=0.02)


def sine(frames: int) -> Tensor:
    time = torch.arange(frames * 640) / 32_000
    return 0.3 * torch.sin(2 * torch.pi * 220 * time)


def test_a_tiny_codec_learns_one_sine() -> None:
    config = replace(TRAINING, code_steps=25, steps=50, learning_rate=5e-3, warmup=5, quantise_after=10)
    state = new_state(config, torch.device("cpu"))
    loss = SpectralLoss(TINY)
    audio = sine(18)
    crops = torch.stack([audio[offset : offset + 12 * 640] for offset in (0, 1000)])[:, None]
    lost = []
    for _ in range(config.steps):
        lost.append(advance(state, config, loss, crops)["mel"])
        state.step += 1
    assert lost[24] < 0.5 * lost[0]
    assert lost[-1] < 0.6 * lost[25]
    decoded = state.codec.decode(state.codec.encode(crops))
    assert log_mel_distance(crops[:, 0], decoded[:, 0]) < 1.5


def test_modulation_at_the_stfts_rate_is_lost_where_the_original_has_none() -> None:
    time, tone = torch.arange(32_000) / 32_000, sine(50)[None]
    loss = SpectralLoss(TINY)
    by_rate = {hertz: tone * (1 + 0.3 * torch.sin(2 * torch.pi * hertz * time)) for hertz in (0, 70, 100, 200)}
    added = {hertz: float(loss.modulation(tone, audio)) for hertz, audio in by_rate.items()}
    assert added[0] == pytest.approx(0, abs=1e-4)
    assert added[100] > 0.1
    assert added[200] > 0.1
    assert added[70] < 0.1 * added[100]
    assert float(loss.modulation(by_rate[100], tone)) < 1e-3  # what was there may go


def test_training_resumes_as_if_it_had_not_stopped(music_dir: Path, tmp_path: Path) -> None:
    """Stopped among the codes, and again while the discriminator takes part."""
    config = replace(TRAINING, code_steps=3, steps=6, adversarial_after=4, checkpoint_every_s=0.0)
    whole = train(config, music_dir, tmp_path / "whole")
    for stop in (2, 5):
        interrupted = replace(config, stop_after=stop)
        assert train(interrupted, music_dir, tmp_path / "run").name == f"checkpoint_000000{stop}.pt"
    resumed = train(config, music_dir, tmp_path / "run")
    assert whole.name == resumed.name == "checkpoint_0000006.pt"
    a, b = (torch.load(path, weights_only=True) for path in (whole, resumed))
    for part in ("codec", "averages", "discriminator", "feature_head"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part]), part
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_codes_stay_while_the_decoder_learns(music_dir: Path, tmp_path: Path) -> None:
    config = replace(TRAINING, code_steps=2, steps=5)
    before = train(replace(config, stop_after=2), music_dir, tmp_path / "run")
    codec = SpectralCodec.load(export(before, tmp_path / "before.safetensors"))
    after = train(config, music_dir, tmp_path / "run")
    learnt = SpectralCodec.load(export(after, tmp_path / "after.safetensors"))
    audio = torch.randn(1, 1, 16_000) * 0.1
    codes = codec.encode(audio)
    assert torch.equal(codes, learnt.encode(audio))
    assert not torch.equal(codec.decode(codes), learnt.decode(codes))


def test_shards_are_encoded_once_with_the_exported_codec(music_dir: Path, tmp_path: Path) -> None:
    path = export(train(TRAINING, music_dir, tmp_path / "run"), tmp_path / "codec.safetensors")
    assert encode_shards(path, music_dir, tmp_path / "codes") == 1
    assert encode_shards(path, music_dir, tmp_path / "codes") == 0
    codes = np.load(tmp_path / "codes" / "codes_00000.npy")
    assert codes.dtype == np.uint16
    assert codes.shape == (3, 4, 50)
    audio = torch.from_numpy(np.load(music_dir / "shard_00000.npy")[1] / np.float32(32768))[None, None]
    assert np.array_equal(codes[1], SpectralCodec.load(path).encode(audio)[0].numpy())
    assert (tmp_path / "codes" / "codes_00000.jsonl").read_text() == (music_dir / "shard_00000.jsonl").read_text()


def test_the_learning_rate_rises_and_falls() -> None:
    config = CodecTraining(code_steps=1000, steps=3000, warmup=100)
    rates = [learning_rate(step, config) for step in range(3000)]
    assert max(rates) == rates[100] == rates[1100] == config.learning_rate
    assert rates[999] == pytest.approx(config.final_learning_rate, rel=0.01)
    assert rates[2999] == pytest.approx(config.final_learning_rate, rel=0.01)


def test_the_adversary_goes_on_from_a_codec_that_ships(music_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = replace(TRAINING, steps=6, adversarial_after=4)
    shipped = SpectralCodec(config.codec)
    begun = begin(config, shipped, tmp_path / "run")
    assert begun.name == "checkpoint_0000004.pt"
    before = codec_of(begun)
    after = codec_of(train(config, music_dir, tmp_path / "run"))
    audio = torch.randn(1, 1, 16_000) * 0.1
    codes = before.encode(audio)
    assert torch.equal(codes, after.encode(audio))
    assert not torch.equal(before.decode(codes), after.decode(codes))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6]
    assert lines[0]["discriminator"] > 0
