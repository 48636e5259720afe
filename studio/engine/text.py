"""Prompts become conditions: what the decoder's cross-attention reads. Knows no codes and no audio.

musicgen-mini looks its word pieces up in a table that was distilled from a sentence model, so a word that no caption
used still lands near its meaning; a small convolution reads each piece among its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

WORD_PIECES_MAX = 64  # a prompt is cut there
CONTEXT = 5  # word pieces that the convolution sees


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
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
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
