"""Files of every released kind become a model whose parts say what audiocraft's say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from studio.clip import Clip, Piece
from studio.engine import weights
from studio.engine.base import Failed, Finished
from studio.engine.bundle import FORMAT
from studio.engine.catalog import CATALOG, ModelInfo, resolve
from studio.engine.loader import load_engine
from studio.engine.model import LoadedModel
from studio.engine.quiet import quiet
from studio.engine.transformer import decoder_shapes
from studio.errors import CheckpointError, DownloadError
from studio.schemas import GenerationRequest
from studio.settings import Settings
from tests.checkpoints import SMALL, Export, write_bundle, write_encodec_repository, write_export, write_t5
from tests.hub import Hub

CPU = torch.device("cpu")
ENCODEC = "facebook/encodec_32khz"
PROMPT = "sad piano with slow drums"
STEPS, SEED = 20, 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a hub would serve: tiny checkpoints under the names of the released ones."""
    root = tmp_path_factory.mktemp("published")
    write_export(root / "facebook/musicgen-small", Export())
    write_export(root / "facebook/musicgen-stereo-small", Export(stereo=True, encodec=ENCODEC))
    write_export(root / "facebook/musicgen-melody", Export("melody"))
    write_export(root / "facebook/musicgen-style", Export("style", encodec=ENCODEC))
    write_t5(root / "google-t5/t5-small")
    write_encodec_repository(root / ENCODEC)
    return root


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real models of whoever runs the tests stay out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(published, aliases={"t5-small": "google-t5/t5-small"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def load(info: ModelInfo | str, settings: Settings) -> LoadedModel:
    info = resolve(info, settings) if isinstance(info, str) else info
    return weights.load(info, settings, CPU, lambda fraction, what: None)


def reference(folder: Path, t5: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """audiocraft's MusicGen from the same files. It finds T5 by name: in the working directory."""
    with quiet():
        from audiocraft.models.musicgen import MusicGen
        from demucs import pretrained

    separation = torch.nn.Module()
    separation.sources = ["drums", "bass", "other", "vocals"]  # type: ignore[assignment]
    monkeypatch.setattr(
        pretrained, "get_model", lambda name: separation
    )  # 80 MB from the network, unused without audio
    monkeypatch.chdir(t5.parent)
    with quiet():
        return MusicGen.get_pretrained(str(folder), device="cpu")


def reference_conditions(model: Any, prompt: str) -> tuple[Tensor, Tensor | None]:
    """What audiocraft puts before the sequence and what it cross-attends, for the prompt and then the null branch."""
    with quiet():
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout

    attributes, _ = model._prepare_tokens_and_attributes([prompt], None)
    both = attributes + ClassifierFreeGuidanceDropout(p=1.0)(attributes)
    conditions = model.lm.condition_provider(model.lm.condition_provider.tokenize(both))
    nothing = torch.zeros(2, 0, model.lm.dim)
    prefix, cross = model.lm.fuser(nothing, conditions)
    return prefix, cross


def test_a_model_is_downloaded_and_loaded_with_progress(hub: Hub, settings: Settings) -> None:
    seen: list[tuple[float, str]] = []
    info = CATALOG["musicgen-stereo-small"]
    model = weights.load(info, settings, CPU, lambda fraction, what: seen.append((fraction, what)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    downloads = [what.split(",")[0] for _, what in seen if what.startswith("downloading")]
    assert [what.removeprefix("downloading ") for what, _ in groupby(downloads)] == [
        *weights.EXPORT_FILES,
        *weights.T5_FILES,
        *weights.ENCODEC_FILES,
    ]
    assert (model.name, model.max_duration) == ("musicgen-stereo-small", 30.0)
    assert (model.codec.channels, model.codec.codebooks) == (2, 8)


def test_a_model_that_was_downloaded_needs_no_hub(hub: Hub, settings: Settings) -> None:
    load("musicgen-small", settings)
    hub.stop()
    assert load("musicgen-small", settings).config.delays == (0, 1, 2, 3)


def test_offline_a_model_that_is_not_there_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"put state_dict\.bin and compression_state_dict\.bin of facebook/"):
        load("musicgen-small", settings)


@pytest.mark.parametrize("stereo", [False, True])
def test_the_decoder_is_audiocrafts(
    stereo: bool, published: Path, hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    write_export(folder, Export(stereo=stereo))
    oracle = reference(folder, published / "google-t5/t5-small", monkeypatch)
    model = load(ModelInfo("mine", "", "", "", 0, 0, 0, folder=folder), settings)
    theirs = {k: v for k, v in oracle.lm.state_dict().items() if not k.startswith("condition_provider.")}
    assert theirs.keys() == model.lm.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(model.lm[name].float(), tensor, rtol=0, atol=0)
    assert model.config == Export(stereo=stereo).config
    assert (model.codec.channels, model.codec.codebooks) == (1 + stereo, oracle.compression_model.num_codebooks)


def test_a_prompt_says_to_the_decoder_what_audiocraft_says(
    published: Path, hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = reference(published / "facebook/musicgen-small", published / "google-t5/t5-small", monkeypatch)
    conditions = load("musicgen-small", settings).text.encode(PROMPT, STEPS, SEED)
    _, cross = reference_conditions(oracle, PROMPT)
    assert cross is not None
    assert conditions.cross is not None
    assert conditions.prefix is None
    torch.testing.assert_close(conditions.cross, cross[0], rtol=0, atol=1e-5)  # theirs is a batch of two
    assert (cross[1] == 0).all()


@pytest.mark.slow  # audiocraft's melody conditioner imports and compiles for twenty seconds
def test_a_melody_model_reads_an_absent_melody_as_audiocraft_does(
    published: Path, hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = reference(published / "facebook/musicgen-melody", published / "google-t5/t5-small", monkeypatch)
    conditions = load("musicgen-melody", settings).text.encode(PROMPT, STEPS, SEED)
    prefix, cross = reference_conditions(oracle, PROMPT)
    assert cross is None
    assert conditions.cross is None
    assert conditions.prefix is not None
    assert conditions.null_prefix is not None
    torch.testing.assert_close(conditions.prefix, prefix[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(conditions.null_prefix, prefix[1], rtol=0, atol=1e-5)


def test_a_style_model_reads_an_absent_excerpt_as_nothing(hub: Hub, settings: Settings) -> None:
    conditions = load("musicgen-style", settings).text.encode(PROMPT, STEPS, SEED)
    assert conditions.prefix is not None
    assert conditions.null_prefix is not None
    assert (conditions.prefix[0] == 0).all()
    assert (conditions.prefix[1:].abs().sum(dim=1) > 0).all()
    assert (conditions.null_prefix == 0).all()
    assert conditions.null_prefix.shape == conditions.prefix.shape


def generate(name: str, settings: Settings, opening: Piece | None = None) -> Clip:
    """One second of music, from the files to the samples."""
    engine = load_engine(name, settings, lambda fraction, what: None)
    more = {"continue_from": "clip_x", "continue_seconds": 0.5} if opening else {}
    engine.admit("job", GenerationRequest(prompt=PROMPT, duration=1.0, seed=1, **more), opening)  # type: ignore[arg-type]
    for _ in range(100):
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                engine.close()
                return event.clip
    raise AssertionError("a second takes about fifty steps")


@pytest.mark.parametrize("name", ["musicgen-small", "musicgen-stereo-small", "musicgen-melody", "musicgen-style"])
def test_a_downloaded_model_makes_music(name: str, hub: Hub, settings: Settings) -> None:
    clip = generate(name, settings)
    assert clip.sample_rate == 32_000
    assert clip.samples.shape == (CATALOG[name].channels, 32_000)
    assert clip.samples.std() > 0


@pytest.mark.parametrize("name", ["musicgen-small", "musicgen-stereo-small", "musicgen-melody"])
def test_a_downloaded_model_goes_on_from_music(name: str, hub: Hub, settings: Settings) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
    clip = generate(name, settings, Piece(Clip(noise, 16_000)))
    assert clip.samples.shape == (CATALOG[name].channels, 32_000)
    kept = clip.samples[:, :14_000]
    expected = noise if len(kept) == 2 else noise.mean(0, keepdims=True)
    for own, given in zip(kept, expected, strict=True):
        assert np.corrcoef(own[::2], given[:7000])[0, 1] > 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_model_of_musicgen_smalls_true_shape_makes_music(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path / "facebook/musicgen-small", Export(shape=SMALL))
    write_t5(tmp_path / "google-t5/t5-base", SMALL)
    with Hub(tmp_path, aliases={"t5-base": "google-t5/t5-base"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        clip = generate("musicgen-small", settings.model_copy(update={"slots": 1}))
    assert clip.samples.shape == (1, 32_000)
    assert clip.samples.std() > 0


def test_a_fine_tune_in_the_data_dir_is_loaded(hub: Hub, settings: Settings) -> None:
    write_export(settings.data_dir / "models" / "my-jazz", Export())
    model = load("my-jazz", settings)
    assert model.name == "my-jazz"
    assert model.codec.decode(torch.zeros(1, 4, 5, dtype=torch.int64)).shape == (1, 1, 5 * 640)


@pytest.fixture
def export(settings: Settings) -> Path:
    folder = settings.data_dir / "models" / "mine"
    write_export(folder, Export())
    return folder


def rewrite(path: Path, change: Any) -> None:
    package = torch.load(path, weights_only=True)
    change(package)
    torch.save(package, path)


def test_a_checkpoint_that_would_run_code_is_refused(export: Path, settings: Settings) -> None:
    rewrite(export / "state_dict.bin", lambda package: package.update(best_state=SimpleNamespace()))
    with pytest.raises(CheckpointError, match="holds more than weights"):
        load("mine", settings)


def test_a_checkpoint_cut_short_is_damaged(export: Path, settings: Settings) -> None:
    path = export / "state_dict.bin"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load("mine", settings)


def test_something_else_is_no_checkpoint(export: Path, settings: Settings) -> None:
    torch.save({"weights": torch.zeros(3)}, export / "state_dict.bin")
    with pytest.raises(CheckpointError, match="not an export of audiocraft"):
        load("mine", settings)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("norm_first: true", "norm_first: false", r"transformer_lm\.norm_first is False"),
        ("bias_ff: false", "", r"transformer_lm\.bias_ff is True"),
        ("modeling: delay", "modeling: parallel", r"codebooks_pattern\.modeling is 'parallel'"),
        ("model: t5", "model: clap", r"conditioners\.description\.model is 'clap'"),
        ("num_layers: 2", "num_layers: 3", r"lack transformer\.layers\.2"),
        ("dim: 32", "dim: 64", r"has shape .*; its configuration says"),
    ],
)
def test_a_decoder_that_the_studio_has_not_is_said_so(
    before: str, after: str, said: str, export: Path, hub: Hub, settings: Settings
) -> None:
    def change(package: dict[str, Any]) -> None:
        assert before in package["xp.cfg"]
        package["xp.cfg"] = package["xp.cfg"].replace(before, after)

    rewrite(export / "state_dict.bin", change)
    with pytest.raises(CheckpointError, match=said):
        load("mine", settings)


def test_a_codec_with_other_codebooks_than_the_decoder_is_refused(export: Path, hub: Hub, settings: Settings) -> None:
    def change(package: dict[str, Any]) -> None:
        package["xp.cfg"] = package["xp.cfg"].replace("use: false", "use: true")

    rewrite(export / "state_dict.bin", change)
    with pytest.raises(CheckpointError, match="writes 4 codebooks and its codec reads 8"):
        load("mine", settings)


# The bundled model's format


@pytest.fixture
def bundle(settings: Settings) -> Path:
    folder = settings.data_dir / "models" / "mini"
    write_bundle(folder)
    return folder


def test_a_bundle_is_loaded(bundle: Path, settings: Settings) -> None:
    model = load("mini", settings)
    assert model.lm.keys() == decoder_shapes(model.config).keys()
    assert all(tensor.dtype == torch.float16 for tensor in model.lm.values())
    conditions = model.text.encode(PROMPT, STEPS, SEED)
    assert conditions.cross is not None
    assert conditions.cross.shape[1] == 32
    audio = model.codec.decode(torch.zeros(1, 4, 5, dtype=torch.int64))
    assert audio.shape == (1, 1, 5 * 640)


@pytest.mark.parametrize("file", ["lm.safetensors", "codec.safetensors", "text.safetensors", "tokenizer.json"])
def test_a_bundle_with_a_damaged_file_is_said_so(file: str, bundle: Path, settings: Settings) -> None:
    (bundle / file).write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match="damaged or missing"):
        load("mini", settings)


def test_a_bundle_from_another_studio_is_said_so(bundle: Path, settings: Settings) -> None:
    described = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**described, "format": 99}))
    with pytest.raises(CheckpointError, match=f"has format 99; this studio reads {FORMAT}"):
        load("mini", settings)


def test_a_bundle_that_is_not_installed_is_said_so(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="install the studio again"):
        load(replace(CATALOG["musicgen-mini"], folder=tmp_path / "nowhere"), settings)


def test_the_bundled_model_needs_neither_audiocraft_nor_transformers_nor_the_hub(bundle: Path) -> None:
    script = f"""
import sys, torch
from studio.engine import catalog, weights
from studio.settings import Settings
settings = Settings(data_dir={str(bundle.parent.parent)!r})
model = weights.load(catalog.resolve("mini", settings), settings, torch.device("cpu"), lambda *_: None)
model.text.encode("sad piano", 20, 0)
heavy = {{"audiocraft", "transformers", "huggingface_hub", "omegaconf", "httpx", "gradio", "xformers"}}
print(*sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


@pytest.mark.slow
def test_audiocraft_is_loaded_without_a_word(hub: Hub, export: Path, settings: Settings) -> None:
    script = f"""
import torch
from studio import log
log.configure("INFO", "text")
from studio.engine import catalog, weights
from studio.settings import Settings
settings = Settings(data_dir={str(settings.data_dir)!r})
model = weights.load(catalog.resolve("mine", settings), settings, torch.device("cpu"), lambda *_: None)
model.text.encode("sad piano", 20, 0)
model.codec.decode(torch.zeros(1, 4, 5, dtype=torch.int64))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
