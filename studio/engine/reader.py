"""How musicgen-mini reads a prompt. Knows no codes and no audio.

Word pieces are looked up in a table that was distilled from a sentence model, so a word that no caption used still
lands near its meaning. A small transformer reads them: what each means among the others is what the decoder's
cross-attention reads; and which attributes the whole lets expect (genre, lead, drums or none, …) is told to every step,
with a clock of the tempo and metre that go with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from studio.engine.metre import BEATS, CLOCK, SIGNATURES, Metre, beat_frames
from studio.engine.model import Conditions

WORD_PIECES_MAX = 64  # a prompt is cut there
HEADS, LAYERS = 4, 2  # of the reader
SEVERAL = frozenset({"instruments"})  # attributes that may have several values at once
CLOCKED = frozenset({"beat", "metre"})  # attributes that the decoder hears as a clock
SHARPNESS = 4.0  # odds are raised to this power, so that the unlikely stays out
NAMED_TEMPO = re.compile(r"\b(\d{2,3})\s*-?\s*(?:bpm|beats per minute)\b", re.IGNORECASE)
NAMED_METRE = re.compile(rf"(?<![\d/])({'|'.join(SIGNATURES)})(?![\d/])")
LAST_CHORD_S = 1.6  # s, at least, that the last chord rings,
BREATH = 8  # and the frames that are left after it, codebooks' delays among them
ENDS = re.compile(r"\b(?:an? (?:clear |final |proper )?ending|outro|coda|comes to an end|final chord)\b", re.IGNORECASE)

Attributes = Mapping[str, Sequence[str]]  # name -> the values it may have


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
        return self.embed_ids([self.ids(prompt) for prompt in prompts])

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The same of word pieces."""
        rows = [self.table[list(row)] for row in ids]
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


class Reader(nn.Module):
    """A small bidirectional transformer; stored under the name that audiocraft gives a text conditioner."""

    def __init__(self, embedding_dim: int, dim: int, attributes: Attributes) -> None:
        super().__init__()
        self.attributes = {name: tuple(values) for name, values in attributes.items()}
        self.output_proj = nn.Linear(embedding_dim, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + WORD_PIECES_MAX, dim))  # the first is the whole prompt's
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, HEADS, 2 * dim, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(dim)
        self.expects = nn.ModuleDict({name: nn.Linear(dim, len(values)) for name, values in self.attributes.items()})

    def forward(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Embeddings [B, S, E] and mask [B, S] to conditions [B, S, dim], zero where the mask is False, and a score
        for each value of each attribute [B, values].

        A row's results do not depend on how far it is padded.
        """
        assert embeddings.ndim == 3, embeddings.shape
        assert mask.shape == embeddings.shape[:2], (mask.shape, embeddings.shape)
        pieces = self.output_proj(embeddings)
        x = torch.cat([torch.zeros_like(pieces[:, :1]), pieces], dim=1) + self.positions[: 1 + pieces.shape[1]]
        padding = nn.functional.pad(~mask, (1, 0))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        x = self.norm(x)
        return x[:, 1:] * mask[..., None], {name: head(x[:, 0]) for name, head in self.expects.items()}


def expected(scores: Mapping[str, Tensor], sharpness: float = 1.0) -> Tensor:
    """The probability of each value of each attribute that is not clocked [B, A], of scores [B, values]."""
    rows = [_odds(name, sharpness * each) for name, each in scores.items() if name not in CLOCKED]
    return torch.cat(rows, dim=-1)


def _odds(name: str, scores: Tensor) -> Tensor:
    """The probability of each value of one attribute, of its scores [..., values]."""
    return scores.sigmoid() if name in SEVERAL else scores.softmax(-1)


def attribute_count(attributes: Attributes) -> int:
    """How many numbers `expected` gives."""
    return sum(len(values) for name, values in attributes.items() if name not in CLOCKED)


class AttributeConditioner(nn.Module):
    """What every step of the decoder hears: the attributes, and where in the music it stands.

    Stored as a conditioner that audiocraft's fuser sums.
    """

    def __init__(self, attributes: int, dim: int) -> None:
        super().__init__()
        self.told = nn.Linear(attributes, dim, bias=False)
        self.clock = nn.Linear(CLOCK, dim, bias=False)
        nn.init.normal_(self.told.weight, std=2 * dim**-0.5)  # to be heard among the codes' embeddings

    def forward(self, attributes: Tensor, clock: Tensor) -> Tensor:
        """Attributes [B, A] and clocks [B, S, CLOCK] to what is added to the codes [B, S, dim]; zeros are no prompt."""
        summed: Tensor = self.clock(clock) + self.told(attributes)[:, None]
        return summed


class PromptEncoder:
    """musicgen-mini's `TextEncoder`."""

    def __init__(
        self, pieces: WordPieces, reader: Reader, conditioner: AttributeConditioner, device: torch.device
    ) -> None:
        self._pieces = pieces
        self._reader = reader.to(device).eval().requires_grad_(False)
        self._conditioner = conditioner.to(device).eval().requires_grad_(False)
        self._device = device

    @torch.inference_mode()
    def encode(self, prompt: str, steps: int, seed: int, metre: Metre | None = None, given: int = 0) -> Conditions:
        """The prompt in this metre, or at a tempo it allows; one that asks for an ending gets it, if there is room."""
        cross, scores = self._read(prompt)
        metre = metre or drawn_metre(prompt, scores, seed)
        if ENDS.search(prompt):
            ended = metre.ending_by(steps - BREATH, LAST_CHORD_S)
            metre = ended if ended.end is not None and ended.end >= given else metre
        return self._conditions(cross, scores, metre, steps)

    @torch.inference_mode()
    def encode_at(self, prompt: str, metre: Metre, steps: int) -> Conditions:
        """The prompt in a metre that is known."""
        return self._conditions(*self._read(prompt), metre, steps)

    @torch.inference_mode()
    def expectations(self, prompt: str) -> dict[str, dict[str, float]]:
        """How likely the prompt makes each value of each attribute."""
        _, scores = self._read(prompt)
        return {
            name: dict(zip(values, _odds(name, scores[name])[0].tolist(), strict=True))
            for name, values in self._reader.attributes.items()
        }

    def _read(self, prompt: str) -> tuple[Tensor, dict[str, Tensor]]:
        """What cross-attention reads [1, S, dim], and scores of attributes [1, values]."""
        embeddings, mask = (tensor.to(self._device) for tensor in self._pieces.embed([prompt]))
        read: tuple[Tensor, dict[str, Tensor]] = self._reader(embeddings, mask)
        return read

    def _conditions(self, cross: Tensor, scores: Mapping[str, Tensor], metre: Metre, steps: int) -> Conditions:
        """The null branch knows the time but no end, so that guidance leads to it as to all else that is asked for.
        From the last chord on it is told what the prompted one is: what rings has little of what was asked for, and
        guidance towards that would strike it again."""
        times = metre, replace(metre, end=None)  # prompted, null
        clock = torch.from_numpy(np.stack([time.clock(steps) for time in times])).to(self._device)
        prompted = expected(scores, SHARPNESS)
        summed = self._conditioner(torch.cat([prompted, torch.zeros_like(prompted)]), clock)
        if metre.end is not None:
            summed[1, metre.end :] = summed[0, metre.end :]
        return Conditions(cross=cross[0], summed=summed, metre=metre)


def drawn_metre(prompt: str, scores: Mapping[str, Tensor], seed: int) -> Metre:
    """The tempo that the prompt names, or one that its scores [1, values] let expect; the signature likewise."""
    generator = torch.Generator().manual_seed(seed)
    named = NAMED_TEMPO.search(prompt)
    beat = beat_frames(float(named[1])) if named and int(named[1]) else BEATS[_drawn(scores["beat"], generator)]
    said = NAMED_METRE.search(prompt)
    return Metre(beat, said[1] if said else list(SIGNATURES)[_drawn(scores["metre"], generator)])


def _drawn(scores: Tensor, generator: torch.Generator) -> int:
    """One of the likely, of scores [1, N]."""
    odds = (SHARPNESS * scores[0].float().cpu()).softmax(-1)
    return int(torch.multinomial(odds, 1, generator=generator))
