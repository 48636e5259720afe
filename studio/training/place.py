"""Where the things lie that training makes, in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A folder of training."""

    folder: Path

    @property
    def music(self) -> Path:
        """`train/` and `heldout/` with shards of audio and their records."""
        return self.folder / "music"

    @property
    def codec(self) -> Path:
        """The codec's checkpoints and log."""
        return self.folder / "codec"

    @property
    def codec_export(self) -> Path:
        """The codec as the studio reads it."""
        return self.folder / "codec.safetensors"

    @property
    def codes(self) -> Path:
        """`train/` and `heldout/` with the music's codes and records."""
        return self.folder / "codes"

    @property
    def text(self) -> Path:
        """The tokenizer and its table."""
        return self.folder / "text"

    @property
    def lm(self) -> Path:
        """The language model's checkpoint and log."""
        return self.folder / "lm"
