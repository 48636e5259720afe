"""How Meta's models read a prompt: T5, through audiocraft's conditioner. Knows no codes and no audio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.engine.metre import Metre
from studio.engine.model import Conditions

RECENT_PROMPTS = 32  # retries, batches and variations repeat a prompt


class T5Encoder:
    """What audiocraft's models read: T5 and a projection.

    A model that was trained with audio conditions as well gets the embedding of an absent one, `wav` [P, dim]: its
    conditions are prepended to the sequence (audiocraft/modules/conditioners.py, ConditionFuser).
    """

    def __init__(self, conditioner: Any, wav: Tensor | None = None) -> None:
        """`conditioner`: an audiocraft.modules.conditioners.T5Conditioner."""
        self._conditioner = conditioner
        self._wav = wav

    @torch.inference_mode()
    def encode(self, prompt: str) -> Conditions:
        embeddings, _ = self._conditioner(self._conditioner.tokenize([prompt]))
        text: Tensor = embeddings[0]  # [S, dim]
        if self._wav is None:
            return Conditions(cross=text)
        return Conditions(
            prefix=torch.cat([self._wav, text]), null_prefix=torch.cat([self._wav, torch.zeros_like(text)])
        )


class RecentPrompts:
    """The `TextEncoder` of a T5Encoder, that remembers what it encoded last."""

    def __init__(self, encoder: T5Encoder) -> None:
        self._encode = lru_cache(RECENT_PROMPTS)(encoder.encode)

    def encode(self, prompt: str, steps: int, seed: int, metre: Metre | None = None, given: int = 0) -> Conditions:
        """The prompt's conditions, the same for any number of steps and any seed."""
        return self._encode(prompt)


def t5_conditioner(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor], device: torch.device) -> Any:
    """audiocraft's T5Conditioner, its T5 read from `folder` and its projection from `state`.

    audiocraft 1.3.0 knows T5 by name only and would download it to a place of its own; a subclass knows the folder.
    Autocast is off: T5's weights are fp32, and torch warns about an fp32 autocast.
    """
    from audiocraft.modules.conditioners import T5Conditioner

    width = json.loads((folder / "config.json").read_text())["d_model"]
    local = type("LocalT5Conditioner", (T5Conditioner,), {"MODELS": [str(folder)], "MODELS_DIMS": {str(folder): width}})
    known = {**settings, "name": str(folder), "autocast_dtype": None}
    conditioner = local(output_dim=state["output_proj.weight"].shape[0], device=str(device), **known)
    conditioner.load_state_dict(state)
    return conditioner.to(device).eval().requires_grad_(False)


def absent_melody(settings: Mapping[str, Any], state: Mapping[str, Tensor], duration: float) -> Tensor:
    """What a melody model reads where no melody is given, [P, dim]: the chroma of silence for `duration` seconds.

    As audiocraft's ChromaStemConditioner for a null wav, with `match_len_on_eval` set as MusicGen.get_pretrained does
    (modules/conditioners.py, modules/chroma.py), which would load a source separation network first.
    """
    hop = settings.get("winhop") or (settings.get("winlen") or 2 ** settings["radix2_exp"]) // 4
    chroma = torch.zeros(1 + int(settings["sample_rate"] * duration) // hop, settings["n_chroma"])
    if settings.get("argmax"):
        chroma[:, 0] = 1.0  # of equal values, the first
    return F.linear(chroma, state["output_proj.weight"].float(), state["output_proj.bias"].float())


def absent_style(state: Mapping[str, Tensor]) -> Tensor:
    """What a style model reads where no excerpt is given, [1, dim] (audiocraft 1.4.0a2, StyleConditioner: masked)."""
    return torch.zeros(1, state["output_proj.weight"].shape[0])
