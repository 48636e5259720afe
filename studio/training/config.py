"""The recipe: every number of how musicgen-mini is made, read from one TOML file (`mini.toml` beside this one)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from studio.errors import ConfigurationError
from studio.training.codec import CodecTraining
from studio.training.evaluate import Evaluation
from studio.training.lm import LmTraining
from studio.training.reading import ReaderTraining

MINI = Path(__file__).with_name("mini.toml")


@dataclass(frozen=True)
class Music:
    """How much to compose and render."""

    pieces: int = 4000  # of 30 s
    held_out: int = 128
    workers: int = 1  # processes that render
    soundfont: Path | None = None  # absent, Debian's MuseScore General


@dataclass(frozen=True)
class Text:
    """The distilled word pieces."""

    dim: int = 128


@dataclass(frozen=True)
class Bundle:
    """What is exported."""

    version: str = "0.1"


@dataclass(frozen=True)
class Recipe:
    """Everything."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    music: Music = field(default_factory=Music)
    text: Text = field(default_factory=Text)
    codec: CodecTraining = field(default_factory=CodecTraining)
    reader: ReaderTraining = field(default_factory=ReaderTraining)
    lm: LmTraining = field(default_factory=LmTraining)
    bundle: Bundle = field(default_factory=Bundle)
    evaluate: Evaluation = field(default_factory=Evaluation)


def read(path: Path = MINI) -> Recipe:
    """Read a recipe; what it does not name has the default in the code.

    Raises:
        ConfigurationError: the file is not there, not TOML, names something unknown, or contradicts itself.
    """
    try:
        described = tomllib.loads(path.read_text("utf-8"))
        _refuse_unknown(described, Recipe, str(path))
        recipe = TypeAdapter(Recipe).validate_python(described)
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if recipe.reader.dim != recipe.lm.dim:
        widths = f"reader.dim is {recipe.reader.dim}, lm.dim {recipe.lm.dim}"
        raise ConfigurationError(f"{path}: {widths}; the one reads what the other writes: they must be equal.")
    return recipe


def _refuse_unknown(described: dict[str, Any], kind: Any, where: str) -> None:
    """A misspelt number must not silently keep its default."""
    known = kind.__dataclass_fields__
    for name, value in described.items():
        if name not in known:
            raise ConfigurationError(f"{where}: unknown {name!r}; known are {', '.join(known)}.")
        default = known[name].default_factory
        if isinstance(value, dict) and isinstance(default, type):
            _refuse_unknown(value, default, f"{where}: {name}")
