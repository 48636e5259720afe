"""Files become a loaded model: audiocraft's released format; the bundled model's is `bundle`'s.

The decoder's tensors are handed on as they lie in the file, mapped into memory; text encoder and codec are built.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from studio.engine.base import LoadProgress
from studio.engine.bundle import CONDITIONERS, Bundle
from studio.engine.catalog import BUNDLE_FILES, EXPORT_FILES, ModelInfo
from studio.engine.codec import EnCodec, exported_encodec, pretrained_encodec
from studio.engine.model import LoadedModel
from studio.engine.text import RecentPrompts, T5Encoder, absent_melody, absent_style, t5_conditioner
from studio.engine.transformer import DecoderConfig, check_shapes, decoder_shapes
from studio.errors import CheckpointError
from studio.settings import Settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

T5_FILES = ("config.json", "tokenizer.json", "model.safetensors")
ENCODEC_FILES = ("config.json", "model.safetensors")

# What the studio's decoder is built for, which is what Meta released; and audiocraft's default, where a key is absent.
_ARCHITECTURE: Mapping[str, tuple[Any, Any]] = {
    "activation": ("gelu", "relu"),
    "norm": ("layer_norm", "layer_norm"),
    "norm_first": (True, False),
    "bias_proj": (False, True),
    "bias_ff": (False, True),
    "bias_attn": (False, True),
    "layer_scale": (None, None),
    "positional_embedding": ("sin", "sin"),
    "causal": (True, False),
    "past_context": (None, None),
    "qk_layer_norm": (False, False),
    "qk_layer_norm_cross": (False, False),
    "kv_repeat": (1, 1),
}


def load(info: ModelInfo, settings: Settings, device: torch.device, on_progress: LoadProgress) -> LoadedModel:
    """Load a model of the catalogue, downloading what is missing.

    Raises:
        CheckpointError: files are missing, damaged, or of an architecture that the decoder is not built for.
        ModelNotFound, DownloadError, DiskFull: from the download.
    """
    if info.folder and (info.folder / BUNDLE_FILES[0]).is_file():
        on_progress(0.5, "reading the weights")
        bundle = Bundle.read(info.folder)
        on_progress(1.0, "ready")
        return bundle.model(info.name, info.max_duration, device)
    if info.repository is None and not _has_export(info.folder):
        raise CheckpointError(f"The files of {info.name} are missing in {info.folder}: install the studio again.")
    return _load_export(info, settings, device, on_progress)


# audiocraft's format


class _Package(NamedTuple):
    """The decoder's half of an export."""

    config: DictConfig  # xp.cfg, as audiocraft trained it
    state: dict[str, Tensor]


def _load_export(info: ModelInfo, settings: Settings, device: torch.device, on_progress: LoadProgress) -> LoadedModel:
    from studio.engine import hub  # the bundled model needs no network library

    def fetch(repository: str, files: tuple[str, ...], start: float, end: float) -> Path:
        return hub.fetch(repository, files, settings.weights_dir, _between(on_progress, start, end))

    folder = info.folder or fetch(info.repository or "", EXPORT_FILES, 0.0, 0.6)
    package = _read_decoder(folder / EXPORT_FILES[0])
    config = _decoder_config(package)
    check_shapes(info.name, config, package.state)
    t5_folder = fetch(_t5_name(package.config), T5_FILES, 0.6, 0.85)
    compression = _read(folder / EXPORT_FILES[1])
    encodec_folder = fetch(name, ENCODEC_FILES, 0.85, 0.9) if (name := compression.get("pretrained")) else None
    on_progress(0.9, "importing audiocraft")
    text = _text_encoder(package, t5_folder, device)
    on_progress(0.95, "reading the codec")
    codec = _codec(compression, encodec_folder, package.config, device)
    _check_codec(info.name, config, codec)
    on_progress(1.0, "ready")
    duration = float(package.config.dataset.segment_duration or info.max_duration)
    decoder = {name: package.state[name] for name in decoder_shapes(config)}
    return LoadedModel(info.name, config, decoder, RecentPrompts(text), codec, duration)


def _has_export(folder: Path | None) -> bool:
    return folder is not None and all((folder / name).is_file() for name in EXPORT_FILES)


def _between(on_progress: LoadProgress, start: float, end: float) -> LoadProgress:
    return lambda fraction, what: on_progress(start + fraction * (end - start), what)


def _read(path: Path) -> dict[str, Any]:
    """A file of an export; only tensors and plain values are unpickled."""
    try:
        package = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than weights, or is damaged: it must be as audiocraft.utils.export writes it ({error})."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: delete it and try again ({error}).") from error
    if not isinstance(package, dict) or not ("pretrained" in package or {"best_state", "xp.cfg"} <= package.keys()):
        raise CheckpointError(f"{path} is not an export of audiocraft: it lacks best_state and xp.cfg.")
    return package


def _read_decoder(path: Path) -> _Package:
    from omegaconf import OmegaConf

    package = _read(path)
    state = {name.replace(".mha.", "."): tensor for name, tensor in package["best_state"].items()}
    return _Package(OmegaConf.create(package["xp.cfg"]), state)


def _decoder_config(package: _Package) -> DecoderConfig:
    """The decoder's shape from xp.cfg. Raises CheckpointError where the decoder is not built for it."""
    config = package.config
    lm = config.transformer_lm
    for key, (built_for, default) in _ARCHITECTURE.items():
        _require(f"transformer_lm.{key}", lm.get(key, default), built_for)
    _require("lm_model", config.lm_model, "transformer_lm")
    pattern = config.codebooks_pattern
    _require("codebooks_pattern.modeling", pattern.modeling or lm.get("q_modeling"), "delay")
    delay = pattern.get("delay") or {}
    _require("codebooks_pattern.delay.flatten_first", delay.get("flatten_first", 0), 0)
    _require("codebooks_pattern.delay.empty_initial", delay.get("empty_initial", 0), 0)
    return DecoderConfig(
        dim=lm.dim,
        heads=lm.num_heads,
        layers=lm.num_layers,
        ffn=int(lm.hidden_scale * lm.dim),
        delays=tuple(delay.get("delays") or range(lm.n_q)),
        cardinality=lm.card,
        cross_attention=_fuses_by_cross_attention(config),
    )


def _fuses_by_cross_attention(config: DictConfig) -> bool:
    """Whether the prompt goes through cross-attention, or is prepended with what stands for the absent audio."""
    fuser, known = config.fuser, set(config.conditioners) - {"args"}
    _require("fuser.sum", list(fuser.sum), [])
    _require("fuser.input_interpolate", list(fuser.input_interpolate), [])
    _require("fuser.cross_attention_pos_emb", fuser.get("cross_attention_pos_emb", False), False)
    if list(fuser.cross) == ["description"] and not fuser.prepend and known == {"description"}:
        return True
    _require("fuser.cross", list(fuser.cross), [])
    _require("fuser.prepend", list(fuser.prepend), ["self_wav", "description"])
    _require("conditioners", sorted(known), ["description", "self_wav"])
    return False


def _require(key: str, value: Any, built_for: Any) -> None:
    if value != built_for:
        raise CheckpointError(f"xp.cfg says {key} is {value!r}; the studio's decoder is built for {built_for!r}.")


def _check_codec(name: str, config: DecoderConfig, codec: EnCodec) -> None:
    if codec.codebooks != config.codebooks:
        raise CheckpointError(
            f"The decoder of {name} writes {config.codebooks} codebooks and its codec reads {codec.codebooks}."
        )


def _t5_name(config: DictConfig) -> str:
    _require("conditioners.description.model", config.conditioners.description.model, "t5")
    return str(config.conditioners.description.t5.name)


def _text_encoder(package: _Package, t5_folder: Path, device: torch.device) -> T5Encoder:
    from studio.engine.quiet import quiet

    settings = _plain(package.config.conditioners.description.t5)
    with quiet():
        conditioner = t5_conditioner(t5_folder, settings, _conditioner_state(package, "description"), device)
    wav = _absent_audio(package) if "self_wav" in package.config.conditioners else None
    return T5Encoder(conditioner, None if wav is None else wav.to(device))


def _absent_audio(package: _Package) -> Tensor:
    conditioner, state = package.config.conditioners.self_wav, _conditioner_state(package, "self_wav")
    if conditioner.model == "style":
        return absent_style(state)
    _require("conditioners.self_wav.model", conditioner.model, "chroma_stem")
    return absent_melody(_plain(conditioner.chroma_stem), state, package.config.dataset.segment_duration)


def _conditioner_state(package: _Package, name: str) -> dict[str, Tensor]:
    prefix = f"{CONDITIONERS}{name}."
    return {key.removeprefix(prefix): t for key, t in package.state.items() if key.startswith(prefix)}


def _plain(config: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain


def _codec(compression: dict[str, Any], folder: Path | None, config: DictConfig, device: torch.device) -> EnCodec:
    from studio.engine.quiet import quiet

    with quiet():
        if folder is not None:
            return pretrained_encodec(str(folder), config, device)
        return exported_encodec(compression, config, device)
