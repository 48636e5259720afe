"""Codes become the audio that the reference makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio.engine.codec import EnCodec, MiniCodec, exported_encodec, pretrained_encodec
from studio.engine.model import Codec
from studio.engine.quiet import quiet
from studio.engine.spectral_codec import SpectralCodec, SpectralCodecConfig
from tests.checkpoints import TINY, Export, write_compression, write_encodec_repository

CPU = torch.device("cpu")
FRAMES = 30


def random_codes(codebooks: int, batch: int = 2) -> Tensor:
    return torch.randint(TINY.cardinality, (batch, codebooks, FRAMES), generator=torch.Generator().manual_seed(1))


def load_exported(path: Path, stereo: bool) -> EnCodec:
    from omegaconf import OmegaConf

    write_compression(path, Export(stereo=stereo))
    wrapping = OmegaConf.create({"interleave_stereo_codebooks": {"use": stereo, "per_timestep": False}})
    with quiet():
        return exported_encodec(torch.load(path, weights_only=True), wrapping, CPU)


def reference(path: Path) -> torch.nn.Module:
    """audiocraft's own reading of the same file."""
    with quiet():
        from audiocraft.models.loaders import load_compression_model

        model: torch.nn.Module = load_compression_model(path)
    return model


@torch.inference_mode()
def test_a_mono_codec_decodes_as_audiocraft_does(tmp_path: Path) -> None:
    codec = load_exported(tmp_path / "codec.bin", stereo=False)
    codes = random_codes(codec.codebooks)
    audio = codec.decode(codes)
    assert (codec.sample_rate, codec.channels, codec.frame_rate, codec.codebooks) == (32_000, 1, 50.0, 4)
    assert audio.shape == (2, 1, FRAMES * 640)
    assert audio.std() > 0.01
    torch.testing.assert_close(audio, reference(tmp_path / "codec.bin").decode(codes), rtol=0, atol=0)


@pytest.mark.parametrize("stereo", [False, True])
@torch.inference_mode()
def test_a_codec_encodes_as_audiocraft_does(stereo: bool, tmp_path: Path) -> None:
    codec = load_exported(tmp_path / "codec.bin", stereo)
    audio = torch.randn(1, codec.channels, 12 * 640, generator=torch.Generator().manual_seed(2)) / 4
    codes, mono = codec.encode(audio), reference(tmp_path / "codec.bin")
    assert codes.shape == (1, codec.codebooks, 12)
    assert torch.equal(codes[:, 0 :: codec.channels], mono.encode(audio[:, :1])[0])
    assert torch.equal(codes[:, codec.channels - 1 :: codec.channels], mono.encode(audio[:, -1:])[0])


@torch.inference_mode()
def test_a_stereo_codec_takes_its_codebooks_from_left_and_right_in_turn(tmp_path: Path) -> None:
    codec = load_exported(tmp_path / "codec.bin", stereo=True)
    codes = random_codes(codec.codebooks)
    audio = codec.decode(codes)
    mono = reference(tmp_path / "codec.bin")
    assert (codec.channels, codec.codebooks) == (2, 8)
    assert audio.shape == (2, 2, FRAMES * 640)
    torch.testing.assert_close(audio[:, :1], mono.decode(codes[:, 0::2]), rtol=0, atol=0)
    torch.testing.assert_close(audio[:, 1:], mono.decode(codes[:, 1::2]), rtol=0, atol=0)


@pytest.mark.parametrize("stereo", [False, True])
@torch.inference_mode()
def test_a_codec_from_its_own_repository_decodes_as_transformers_does(stereo: bool, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    model = write_encodec_repository(tmp_path)
    wrapping = OmegaConf.create({"interleave_stereo_codebooks": {"use": stereo}})
    with quiet():
        codec = pretrained_encodec(str(tmp_path), wrapping, CPU)
    codes = random_codes(codec.codebooks)
    assert (codec.channels, codec.codebooks) == ((2, 8) if stereo else (1, 4))
    left = codes[:, 0::2] if stereo else codes
    torch.testing.assert_close(codec.decode(codes)[:, :1], model.decode(left[None], [None])[0], rtol=0, atol=0)
    torch.testing.assert_close(streamed(codec, codes[0], [4, 9, 17]), codec.decode(codes[:1])[0], rtol=0, atol=1e-5)


def bundled() -> tuple[SpectralCodec, MiniCodec]:
    torch.manual_seed(0)
    config = SpectralCodecConfig(cardinality=TINY.cardinality, dim=16, expansion=16, latent=8)
    model = SpectralCodec(config).eval()
    model.codebooks.normal_()
    return model, MiniCodec(model, CPU)


def streamed(codec: Codec, codes: Tensor, cuts: list[int]) -> Tensor:
    """Codes [K, F] pushed in pieces that end at the cuts."""
    stream, ends = codec.stream(), [*cuts, codes.shape[1]]
    pieces = [
        stream.push(codes[:, first:last], last == codes.shape[1]) for first, last in zip([0, *cuts], ends, strict=True)
    ]
    return torch.cat([piece for piece in pieces if piece.shape[1]], dim=1)


CUTS = [[], [1], [5, 6, 20, 29], [10, 20], list(range(1, FRAMES))]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@torch.inference_mode()
def test_the_bundled_codec_streams_what_it_decodes(cuts: list[int]) -> None:
    model, codec = bundled()
    codes = random_codes(codec.codebooks)
    torch.testing.assert_close(streamed(codec, codes[0], cuts), model.decode(codes[:1])[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stereo", [False, True])
@torch.inference_mode()
def test_an_exported_codec_streams_what_it_decodes(stereo: bool, tmp_path: Path) -> None:
    codec = load_exported(tmp_path / "codec.bin", stereo)
    codes = random_codes(codec.codebooks)
    whole = codec.decode(codes[:1])[0]
    for cuts in CUTS:
        torch.testing.assert_close(streamed(codec, codes[0], cuts), whole, rtol=0, atol=1e-5)


def test_the_bundled_codec_is_a_codec() -> None:
    model, codec = bundled()
    codes = random_codes(codec.codebooks)
    assert (codec.sample_rate, codec.channels, codec.frame_rate, codec.codebooks) == (32_000, 1, 50.0, 4)
    torch.testing.assert_close(codec.decode(codes), model.decode(codes), rtol=0, atol=0)
    audio = codec.decode(codes)
    assert torch.equal(codec.encode(audio), model.encode(audio))
