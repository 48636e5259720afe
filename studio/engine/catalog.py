"""The models that a request may name: what each is, weighs and may be used for. Knows no tensors and no network."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from studio.errors import ModelNotFound
from studio.settings import ENV_PREFIX, Settings

CC0 = "CC0 1.0"
CC_BY_NC = "CC-BY-NC 4.0"  # Meta's weights: no commercial use
MAX_DURATION_S = 30.0  # every model of the family was trained on 30 s

BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "musicgen-mini"
BUNDLE_FILES = ("config.json", "lm.safetensors", "text.safetensors", "tokenizer.json", "codec.safetensors")
EXPORT_FILES = ("state_dict.bin", "compression_state_dict.bin")  # as audiocraft.utils.export names them

_T5_MB, _ENCODEC_MB = 892, 236  # t5-base and EnCodec 32 kHz, which all of Meta's models come with


@dataclass(frozen=True)
class ModelInfo:
    """A model that the studio can load. One of `repository` and `folder` is set."""

    name: str
    title: str
    what: str
    licence: str
    download_bytes: int  # about; 0 when nothing is downloaded
    parameters: int  # of the decoder, about
    channels: int
    repository: str | None = None  # on the hub
    folder: Path | None = None  # on this disk
    max_duration: float = MAX_DURATION_S


def resolve(name: str, settings: Settings) -> ModelInfo:
    """The model called `name`: in the catalogue, or a fine-tune's folder.

    A folder is taken from outside only when it lies under `models` in the data dir: a request must not make the
    server open any other path. The operator's own MODEL_NAME may be any folder.

    Raises:
        ModelNotFound: with the names that there are.
    """
    if name in CATALOG:
        return CATALOG[name]
    folder = Path(name).expanduser() if name == settings.model_name else _within(models_dir(settings), name)
    if folder is None or not _is_folder(folder):
        raise ModelNotFound(_unknown(name, settings))
    if not any(_has(folder, files) for files in (EXPORT_FILES, BUNDLE_FILES)):
        raise ModelNotFound(
            f"The folder {name!r} is not a model: it needs {' and '.join(EXPORT_FILES)}, "
            "as audiocraft.utils.export writes them."
        )
    if folder.is_relative_to(models_dir(settings)):
        name = str(folder.relative_to(models_dir(settings)))  # by whatever path it was named, it is one model
    return ModelInfo(
        name=name, title=folder.name, what="A fine-tune on this machine.", licence="its owner's",
        download_bytes=0, parameters=0, channels=0, folder=folder.resolve(),
    )  # fmt: skip


def models_dir(settings: Settings) -> Path:
    """Where fine-tunes lie that requests may name."""
    return settings.data_dir.resolve() / "models"


def local_models(settings: Settings) -> list[str]:
    """The names of the fine-tunes in the data dir."""
    folder = models_dir(settings)
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _has(path, EXPORT_FILES) or _has(path, BUNDLE_FILES))
    return sorted(path.name for path in found)


def _within(root: Path, name: str) -> Path | None:
    path = Path(os.path.normpath(root / name))  # lexical: the operator may link a model from another disk
    return path if path != root and path.is_relative_to(root) else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file system takes
        return False


def _has(folder: Path, files: tuple[str, ...]) -> bool:
    return all((folder / file).is_file() for file in files)


def _unknown(name: str, settings: Settings) -> str:
    names = [*CATALOG, *local_models(settings)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"There is no model {name!r}.{guess} There are: {', '.join(names)}. A fine-tune must lie in a folder under "
        f"{models_dir(settings)}, or be named by {ENV_PREFIX}MODEL_NAME."
    )


def _meta(name: str, title: str, what: str, megabytes: int, parameters: float, channels: int = 1) -> ModelInfo:
    return ModelInfo(
        name=name, title=title, what=what, licence=CC_BY_NC, download_bytes=(megabytes + _T5_MB + _ENCODEC_MB) * 10**6,
        parameters=round(parameters * 1e6), channels=channels, repository=f"facebook/{name}",
    )  # fmt: skip


_MELODY = "Made for melodies too; here it follows the prompt."
_STYLE = "Made for an excerpt's style too; here it follows the prompt."
_MODELS = (
    ModelInfo(
        name="musicgen-mini", title="MusicGen mini", what="Comes with the studio: instant on a CPU, needs no network.",
        licence=CC0, download_bytes=0, parameters=10_000_000, channels=1, folder=BUNDLED,
    ),
    _meta("musicgen-small", "MusicGen small", "The smallest of Meta's models.", 841, 420),
    _meta("musicgen-medium", "MusicGen medium", "The middle of Meta's models.", 3680, 1840),
    _meta("musicgen-large", "MusicGen large", "The best of Meta's models, and the slowest.", 6510, 3260),
    _meta("musicgen-stereo-small", "MusicGen stereo small", "Small, in stereo.", 875, 437, 2),
    _meta("musicgen-stereo-medium", "MusicGen stereo medium", "Medium, in stereo.", 3730, 1860, 2),
    _meta("musicgen-stereo-large", "MusicGen stereo large", "Large, in stereo.", 6580, 3290, 2),
    _meta("musicgen-stereo-melody", "MusicGen stereo melody", f"Medium size, in stereo. {_MELODY}", 2820, 1410, 2),
    _meta("musicgen-stereo-melody-large", "MusicGen stereo melody large", f"Large, stereo. {_MELODY}", 4970, 2480, 2),
    _meta("musicgen-melody", "MusicGen melody", f"Medium size. {_MELODY}", 2770, 1380),
    _meta("musicgen-melody-large", "MusicGen melody large", f"Large. {_MELODY}", 4900, 2450),
    _meta("musicgen-style", "MusicGen style", f"Medium size. {_STYLE}", 2900, 1380),
)  # fmt: skip

CATALOG: Mapping[str, ModelInfo] = MappingProxyType({model.name: model for model in _MODELS})
