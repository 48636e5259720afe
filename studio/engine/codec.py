"""Codes become audio, and audio codes: audiocraft's EnCodec and the bundled model's codec behind one interface. Knows
no prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from studio.engine.spectral_codec import SpectralCodec
from studio.engine.streaming import Chain, Interleaved, Recurrent, Stream, Windowed

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Frames to either side that EnCodec's convolutions see, those before its LSTM and those after.
FIRST_CONVOLUTION = (3, 3)
OTHER_CONVOLUTIONS = (3, 3)


class EnCodec:
    """An audiocraft compression model as a `Codec`."""

    level_db = None  # audiocraft encodes a prompt as loud as it comes

    def __init__(self, model: Any, device: torch.device) -> None:
        """`model`: an audiocraft.models.encodec.CompressionModel, stereo ones included."""
        self._model = _folded(model.to(device).eval().requires_grad_(False))
        self._device = device

    @property
    def sample_rate(self) -> int:
        return int(self._model.sample_rate)

    @property
    def channels(self) -> int:
        return int(self._model.channels)

    @property
    def frame_rate(self) -> float:
        return float(self._model.frame_rate)

    @property
    def codebooks(self) -> int:
        return int(self._model.num_codebooks)

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, C, T] to codes [B, K, F]."""
        assert audio.ndim == 3, audio.shape
        codes, scale = self._model.encode(audio.to(self._device))
        assert scale is None
        return codes  # type: ignore[no-any-return]

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, F] to audio [B, C, T]."""
        assert codes.ndim == 3, codes.shape
        assert codes.shape[1] == self.codebooks, codes.shape
        audio: Tensor = self._model.decode(codes.to(self._device), None)
        return audio.float()

    def stream(self) -> Stream:
        """Codes [K, F] as they come to audio [C, T]."""
        if self._stereo:
            return Interleaved(self._mono_stream(self._model.model), self._mono_stream(self._model.model))
        return self._mono_stream(self._model)

    @property
    def _stereo(self) -> bool:
        return hasattr(self._model, "get_left_right_codes")

    def _mono_stream(self, model: Any) -> Stream:
        """A convolution, an LSTM, and convolutions that also raise the rate (SEANetDecoder, EncodecDecoder)."""
        decoder = model.decoder.model if hasattr(model, "decoder") else model.model.decoder.layers
        first, recurrent, *others = decoder
        rest = nn.Sequential(*others)

        def latents(codes: Tensor, _first: int) -> Tensor:
            latent: Tensor = model.decode_latent(codes[None].to(self._device))
            y: Tensor = first(latent)
            return y[0]

        def sound(frames: Tensor, _first: int) -> Tensor:
            audio: Tensor = rest(frames[None])
            return audio[0].float()

        hop = round(self.sample_rate / self.frame_rate)
        return Chain(
            Windowed(latents, FIRST_CONVOLUTION, 1), Recurrent(recurrent.lstm), Windowed(sound, OTHER_CONVOLUTIONS, hop)
        )


def _folded(model: Any) -> Any:
    """The same with the weights that its weight norms give, which else are made anew for every chunk."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
        elif hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return model


class MiniCodec:
    """The bundled model's codec as a `Codec`."""

    level_db = -17.0  # assets/musicgen-mini/evaluation.json

    def __init__(self, model: SpectralCodec, device: torch.device) -> None:
        self._model = model.to(device)
        self._device = device

    @property
    def sample_rate(self) -> int:
        return self._model.config.sample_rate

    @property
    def channels(self) -> int:
        return self._model.config.channels

    @property
    def frame_rate(self) -> float:
        return float(self._model.config.frame_rate)

    @property
    def codebooks(self) -> int:
        return self._model.config.codebooks

    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, C, T] to codes [B, K, F]."""
        return self._model.encode(audio.to(self._device))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, F] to audio [B, C, T]."""
        return self._model.decode(codes.to(self._device))

    def stream(self) -> Stream:
        """Codes [K, F] as they come to audio [C, T]."""

        def sound(codes: Tensor, first: int) -> Tensor:
            return self._model.decode(codes[None].to(self._device), first)[0]

        return Windowed(sound, self._model.context_frames, self._model.config.frame_hop)


def exported_encodec(package: dict[str, Any], wrapping: DictConfig, device: torch.device) -> EnCodec:
    """The codec of a `compression_state_dict.bin` that holds its own weights (audiocraft.models.loaders)."""
    from audiocraft.models import builders
    from omegaconf import OmegaConf

    config = OmegaConf.create(package["xp.cfg"])
    config.device = "cpu"
    model = builders.get_compression_model(config)
    model.load_state_dict(package["best_state"])
    return EnCodec(builders.get_wrapped_compression_model(model, wrapping), device)


def pretrained_encodec(folder: str, wrapping: DictConfig, device: torch.device) -> EnCodec:
    """The codec of a `compression_state_dict.bin` that names an EnCodec on the hub, which lies in `folder`."""
    from audiocraft.models import builders
    from audiocraft.models.encodec import HFEncodecCompressionModel
    from transformers import EncodecModel

    model = HFEncodecCompressionModel(EncodecModel.from_pretrained(folder))
    return EnCodec(builders.get_wrapped_compression_model(model, wrapping), device)
