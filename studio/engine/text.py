"""Prompts become conditions: what the decoder's cross-attention reads. Knows no codes and no audio.

musicgen-mini looks its word pieces up in a table that was distilled from a sentence model, so a word that no caption
used still lands near its meaning; a small convolution reads each piece among its neighbours. From the whole prompt
follow a tempo and a signature, which the decoder reads as a clock. Meta's models read T5, through audiocraft's
conditioner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from studio.engine.metre import BEATS, CLOCK, SIGNATURES, Metre, beat_frames
from studio.engine.model import Conditions

WORD_PIECES_MAX = 64  # a prompt is cut there
CONTEXT = 5  # word pieces that the convolution sees
RECENT_PROMPTS = 32  # retries, batches and variations repeat a prompt
NAMED_TEMPO = re.compile(r"\b(\d{2,3})\s*-?\s*(?:bpm|beats per minute)\b", re.IGNORECASE)
LAST_CHORD_S = 1.6  # s, at least, that the last chord rings
ENDS = re.compile(r"\b(?:an? (?:clear |final |proper )?ending|outro|coda|comes to an end|final chord)\b", re.IGNORECASE)


class WordPieces:
    """A tokenizer and the table of its word pieces' meanings: text to embeddings."""

    def __init__(self, tokenizer: Tokenizer, table: Tensor) -> None:
        assert table.ndim == 2, table.shape
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.table = table.float()  # [V, E]
        unknown = tokenizer.token_to_id("[UNK]")
        assert unknown is not None, "a word-piece tokenizer has [UNK]"
        self._unknown = unknown

    def ids(self, prompt: str) -> list[int]:
        """1 to 64 word pieces, without special tokens; a text without any is [UNK]."""
        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return ids[:WORD_PIECES_MAX] or [self._unknown]

    def embed(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, S, E] and their mask [B, S] (True where there is a word piece), padded on the right."""
        rows = [self.table[self.ids(prompt)] for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=self.table.device)
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(embeddings.shape[1], device=lengths.device) < lengths[:, None]
        return embeddings, mask

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `text.safetensors` (the table in int8 with a scale for each row)."""
        from safetensors.torch import save_file

        scale = self.table.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127  # [V, 1]
        quantised = (self.table / scale).round().to(torch.int8)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        save_file({"table": quantised.cpu(), "scale": scale.cpu()}, folder / "text.safetensors")

    @classmethod
    def load(cls, folder: Path) -> WordPieces:
        """Read what `save` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(folder / "text.safetensors")
        described = json.loads(
            (folder / "tokenizer.json").read_text()
        )  # of what is no JSON, tokenizers raises Exception
        tokenizer = Tokenizer.from_str(json.dumps(described))
        return cls(tokenizer, tensors["table"].float() * tensors["scale"].float())


class WordPieceConditioner(nn.Module):
    """Word-piece embeddings to the decoder's width; stored under the name that audiocraft gives a text conditioner."""

    def __init__(self, embedding_dim: int, dim: int) -> None:
        super().__init__()
        self.output_proj = nn.Linear(embedding_dim, dim)
        self.context = nn.Conv1d(embedding_dim, dim, CONTEXT, padding=CONTEXT // 2)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [B, S, E] and mask [B, S] to conditions [B, S, dim], zero where the mask is False.

        A row's conditions do not depend on how far it is padded.
        """
        assert embeddings.ndim == 3, embeddings.shape
        assert mask.shape == embeddings.shape[:2], (mask.shape, embeddings.shape)
        e = embeddings * mask[..., None]
        hidden: Tensor = self.output_proj(e) + F.gelu(self.context(e.mT).mT)
        return hidden * mask[..., None]


class TimeConditioner(nn.Module):
    """A prompt's gist, the mean of its conditions: the tempo and signature it asks for, and what all steps hear of it.

    Stored as a conditioner that audiocraft's fuser sums.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.beat = nn.Linear(dim, len(BEATS))
        self.signature = nn.Linear(dim, len(SIGNATURES))
        self.gist = nn.Linear(dim, dim, bias=False)
        self.clock = nn.Linear(CLOCK, dim, bias=False)
        for silent in (self.gist, self.clock):  # until something is learnt
            nn.init.zeros_(silent.weight)

    def forward(self, gist: Tensor, clock: Tensor) -> Tensor:
        """Gists [B, dim] and clocks [B, S, CLOCK] to what is added to the codes [B, S, dim]; zeros are no gist."""
        summed: Tensor = self.clock(clock) + self.gist(gist)[:, None]
        return summed

    def metre(self, prompt: str, gist: Tensor, seed: int) -> Metre:
        """The tempo that the prompt names, or one like its gist [dim]; a signature like it."""
        generator = torch.Generator().manual_seed(seed)
        named = NAMED_TEMPO.search(prompt)
        beat = beat_frames(float(named[1])) if named and int(named[1]) else BEATS[_drawn(self.beat(gist), generator)]
        return Metre(beat, list(SIGNATURES)[_drawn(self.signature(gist), generator)])


def gist(conditions: Tensor, mask: Tensor) -> Tensor:
    """The mean of conditions [B, S, dim] where their mask [B, S] is True [B, dim]; zeros where it never is."""
    return conditions.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _drawn(scores: Tensor, generator: torch.Generator) -> int:
    """One of the likely: the odds are squared, so that the unlikely stays out."""
    return int(torch.multinomial((2 * scores.float().cpu()).softmax(-1), 1, generator=generator))


class WordPieceEncoder:
    """musicgen-mini's `TextEncoder`."""

    def __init__(
        self, pieces: WordPieces, conditioner: WordPieceConditioner, time: TimeConditioner, device: torch.device
    ) -> None:
        self._pieces = pieces
        self._conditioner = conditioner.to(device).eval().requires_grad_(False)
        self._time = time.to(device).eval().requires_grad_(False)
        self._device = device

    @torch.inference_mode()
    def encode(self, prompt: str, steps: int, seed: int) -> Conditions:
        """The prompt at a tempo it allows; one that asks for an ending gets it."""
        cross, meant = self._read(prompt)
        metre = self._time.metre(prompt, meant[0], seed)
        if ENDS.search(prompt):
            metre = metre.ending_by(steps, LAST_CHORD_S)
        return self._conditions(cross, meant, metre, steps)

    @torch.inference_mode()
    def encode_at(self, prompt: str, metre: Metre, steps: int) -> Conditions:
        """The prompt in a metre that is known."""
        return self._conditions(*self._read(prompt), metre, steps)

    def _read(self, prompt: str) -> tuple[Tensor, Tensor]:
        """What cross-attention reads [S, dim], and the gist [1, dim]."""
        embeddings, mask = (tensor.to(self._device) for tensor in self._pieces.embed([prompt]))
        cross = self._conditioner(embeddings, mask)
        return cross[0], gist(cross, mask)

    def _conditions(self, cross: Tensor, meant: Tensor, metre: Metre, steps: int) -> Conditions:
        clock = torch.from_numpy(metre.clock(steps)).to(self._device)
        gists = torch.cat([meant, torch.zeros_like(meant)])  # prompted, null
        return Conditions(cross=cross, summed=self._time(gists, clock.expand(2, -1, -1)))


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

    def encode(self, prompt: str, steps: int, seed: int) -> Conditions:
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
