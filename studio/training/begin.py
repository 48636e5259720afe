"""From a bundle back to checkpoints: training goes on from what ships, in a decoder that may have more layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studio.engine.bundle import Bundle
from studio.engine.reader import attribute_count
from studio.errors import ConfigurationError
from studio.training import codec, lm, reading
from studio.training.place import Place

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = "transformer.layers."
ADDING = ("out_proj.weight", "linear2.weight")  # a layer's tensors through which it adds to what passes


def begin(config: lm.LmTraining, codec_config: codec.CodecTraining, place: Place, folder: Path) -> None:
    """Lay the bundle in `folder` out as if it had been trained in `place`: codec, words, reader, language model.

    The codec's training goes on with its adversary's steps.

    Raises:
        ConfigurationError: a language model was begun there already, or the bundle's is of another width.
        CheckpointError: there is no bundle.
    """
    if (place.lm / lm.CHECKPOINT).exists():
        raise ConfigurationError(f"{place.lm} has a checkpoint already: name another folder.")
    bundle = Bundle.read(folder)
    state = lm.new_state(config, attribute_count(bundle.reader.attributes), torch.device("cpu"))
    for model in (state.model, state.average):
        grow(model, dict(bundle.lm) | {f"attributes.{k}": v for k, v in bundle.conditioner.state_dict().items()})
    for path in (place.text, place.lm):
        path.mkdir(parents=True, exist_ok=True)
    bundle.codec.save(place.codec_export)
    codec.begin(codec_config, bundle.codec, place.codec)
    bundle.pieces.save(place.text)
    reading.save(bundle.reader, place.text / reading.READER)
    lm.save(state, config, place.lm)


def grow(model: lm.LanguageModel, tensors: Mapping[str, Tensor]) -> None:
    """Fill a model with the tensors of one that has as many layers or fewer; it computes what that one does.

    Layers that are new stand between the others, and add nothing until they have learnt to.

    Raises:
        ConfigurationError: another shape, or more layers.
    """
    layers = 1 + max(layer for name in tensors if (layer := _layer(name)) is not None)
    if layers > model.config.layers:
        raise ConfigurationError(f"[lm] layers = {model.config.layers} is less than the {layers} it begins with.")
    places = [at * model.config.layers // layers for at in range(layers)]
    own = model.state_dict()
    for name, tensor in own.items():
        if (layer := _layer(name)) is not None and layer not in places and name.endswith(ADDING):
            tensor.zero_()
    for name, tensor in tensors.items():
        layer = _layer(name)
        placed = name if layer is None else name.replace(f"{LAYERS}{layer}.", f"{LAYERS}{places[layer]}.")
        if placed not in own or own[placed].shape != tensor.shape:
            raise ConfigurationError(f"[lm] describes another shape than it begins with: {name} is {[*tensor.shape]}.")
        own[placed] = tensor.float()
    model.load_state_dict(own)


def _layer(name: str) -> int | None:
    """Which layer a tensor belongs to, if to any."""
    return int(name.removeprefix(LAYERS).split(".")[0]) if name.startswith(LAYERS) else None
