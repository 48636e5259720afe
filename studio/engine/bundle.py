"""The bundled model's files: weights in half precision under audiocraft's names, words, a codec, `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from studio.engine.codec import MiniCodec
from studio.engine.model import LoadedModel
from studio.engine.reader import AttributeConditioner, PromptEncoder, Reader, WordPieces, attribute_count
from studio.engine.spectral_codec import SpectralCodec
from studio.engine.transformer import DecoderConfig, check_shapes, decoder_shapes
from studio.errors import CheckpointError

FORMAT = 4
CONDITIONERS = "condition_provider.conditioners."  # the prefix of their tensors in audiocraft's state dict


@dataclass(frozen=True)
class Bundle:
    """A model as musicgen-mini is stored."""

    config: DecoderConfig
    lm: Mapping[str, Tensor]  # the decoder's tensors under audiocraft's names; others' are left out
    pieces: WordPieces
    reader: Reader
    conditioner: AttributeConditioner
    codec: SpectralCodec

    def write(self, folder: Path, version: str) -> None:
        """Write the files; `config.json` comes last and completes them."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: self.lm[name] for name in decoder_shapes(self.config)}
        for module, name in ((self.reader, "description"), (self.conditioner, "attributes")):
            tensors |= {f"{CONDITIONERS}{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        half = {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}
        save_file(half, folder / "lm.safetensors")
        save_file(self.codec.to_state(), folder / "codec.safetensors")
        self.pieces.save(folder)
        described = {
            "format": FORMAT,
            "version": version,
            "lm": asdict(self.config),
            "text": {"embedding_dim": self.pieces.table.shape[1], "attributes": self.reader.attributes},
            "codec": self.codec.config.to_json(),
        }
        (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Read what `write` wrote.

        Raises:
            CheckpointError: files are missing, damaged, or of another format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            described = json.loads((folder / "config.json").read_text())
            if described.get("format") != FORMAT:
                raise CheckpointError(f"{folder} has format {described.get('format')!r}; this studio reads {FORMAT}.")
            shape = described["lm"]
            tuples = {"delays": tuple(shape["delays"]), "guidance": tuple(shape.get("guidance", ()))}
            config = DecoderConfig(**shape | tuples)
            lm = load_file(folder / "lm.safetensors")
            check_shapes(folder.name, config, lm)
            codec = SpectralCodec.from_state(described["codec"], load_file(folder / "codec.safetensors"))
            reader = Reader(described["text"]["embedding_dim"], config.dim, described["text"]["attributes"])
            conditioner = AttributeConditioner(attribute_count(reader.attributes), config.dim)
            _fill(reader, "description", lm)
            _fill(conditioner, "attributes", lm)
            decoder = {name: lm[name] for name in decoder_shapes(config)}
            return cls(config, decoder, WordPieces.load(folder), reader, conditioner, codec)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"The model's files in {folder} are damaged or missing: {error}") from error

    def model(self, name: str, max_duration: float, device: torch.device) -> LoadedModel:
        """The same as the engine wants it; `max_duration` in seconds."""
        text = PromptEncoder(self.pieces, self.reader, self.conditioner, device)
        return LoadedModel(name, self.config, dict(self.lm), text, MiniCodec(self.codec, device), max_duration)


def _fill(module: nn.Module, name: str, lm: Mapping[str, Tensor]) -> None:
    module.load_state_dict({key: lm[f"{CONDITIONERS}{name}.{key}"] for key in module.state_dict()})
