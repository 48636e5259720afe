"""A listener that names what it hears: genre, family of the lead instrument, drums or none, tempo class.

It learns from pieces that the training music does not have, one half rendered as the training music is and the other
with another soundfont, each as it is and through the codec: what it knows is how the music is made, and neither one
soundfont's sound nor the codec's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studio.engine.spectral_codec import SpectralCodec
from studio.training import ear
from studio.training.captions import Expectation
from studio.training.compose import INSTRUMENTS, Description, compose
from studio.training.render import SAMPLE_RATE, Renderer

log = logging.getLogger(__name__)

Audio = npt.NDArray[np.float32]
Truth = dict[str, str | None]  # field -> its name; None where it was not asked for
Heard = tuple[npt.NDArray[np.uint8], list[Truth]]  # each piece's clips and the same through the codec, and its truth

FIELDS = ("genre", "lead", "drums", "tempo")
FIRST_SEED = 3_000_000_000  # beyond all other pieces
CLIP_S, CLIPS = 8.0, 2  # cut from each piece
PART = 50  # pieces that a process hears at a time
HELD_OUT_SHARE = 1 / 6


def truth_of_piece(description: Description) -> Truth:
    lead = INSTRUMENTS[description.lead].family if description.instruments else "drums"
    drums = "drums" if description.has_drums else "none"
    return {"genre": description.genre, "lead": lead, "drums": drums, "tempo": description.tempo}


def truth_of_prompt(expected: Expectation) -> Truth:
    lead = INSTRUMENTS[expected.lead].family if expected.lead else None
    drums = None if expected.drums is None else ("drums" if expected.drums else "none")
    return {"genre": expected.genre, "lead": lead, "drums": drums, "tempo": expected.tempo}


class Listener(Protocol):
    """Says what a clip [T] at 32 kHz sounds like."""

    def hear(self, audio: Audio) -> Truth: ...


@dataclass
class Judge:
    """Trained, with how often it is right about held-out music of its own kind."""

    ear: ear.Ear
    names: dict[str, list[str]]
    accuracy: dict[str, float]

    @torch.no_grad()
    def hear(self, audio: Audio) -> Truth:
        """What a clip [T] sounds like."""
        scores = self._parted(self.ear.hear(ear.spectrogram(audio)[None]))
        return {
            field: names[int(part.argmax())] for (field, names), part in zip(self.names.items(), scores, strict=True)
        }

    @torch.no_grad()
    def embed(self, audio: Audio) -> Tensor:
        """The hidden layer [D] when it hears a clip [T]."""
        mel = ear.nepers(ear.spectrogram(audio)[None])
        return self.ear.embed(mel, ear.statistics(mel))[0]

    @classmethod
    def learn(
        cls, pieces: int, soundfonts: Sequence[Path], codec: SpectralCodec, cache: Path, workers: int = 1
    ) -> Judge:
        """Render, listen and learn; what was heard is kept in `cache` for these soundfonts, codec and pieces.

        Its accuracy is that of held-out music with the last soundfont, through the codec: what it would say of a
        model that makes no mistakes.
        """
        heard = _cached(pieces, soundfonts, codec, cache, workers)
        x, truths = heard["spectrograms"], [truth for truth in heard["truths"] for _ in range(2 * CLIPS)]
        names = {field: sorted({truth[field] for truth in truths}) for field in FIELDS}
        y = torch.tensor([[names[field].index(truth[field]) for field in FIELDS] for truth in truths])
        kept = round(pieces * (1 - HELD_OUT_SHARE)) * 2 * CLIPS  # all clips of a piece on one side
        judge = cls(ear.learn(x[:kept], y[:kept], [len(each) for each in names.values()]), names, {})
        clip = torch.arange(len(x))
        tested = clip[
            (clip >= kept)
            & (clip // (2 * CLIPS) % len(soundfonts) == len(soundfonts) - 1)
            & (clip % (2 * CLIPS) >= CLIPS)
        ]
        judge.accuracy = judge._right(x[tested], y[tested])
        log.info("the judge is right about held-out music: %s", judge.accuracy)
        return judge

    def _right(self, x: Tensor, y: Tensor) -> dict[str, float]:
        parts = enumerate(self._parted(self.ear.hear(x)))
        shares = [(part.argmax(1) == y[:, n]).float().mean().item() for n, part in parts]
        return dict(zip(FIELDS, (round(share, 3) for share in shares), strict=True))

    def _parted(self, scores: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, all] of each field [B, names]."""
        return torch.split(scores, [len(names) for names in self.names.values()], dim=1)


def _cached(pieces: int, soundfonts: Sequence[Path], codec: SpectralCodec, cache: Path, workers: int) -> dict[str, Any]:
    key = f"{pieces} {' '.join(font.name for font in soundfonts)} {_digest(codec)}"
    if cache.exists():
        stored: dict[str, Any] = torch.load(cache, weights_only=True)
        if stored["key"] == key:
            return stored
    parts = list(_listen(pieces, soundfonts, codec, workers))
    heard = {
        "key": key,
        "spectrograms": torch.cat([torch.from_numpy(clips) for clips, _ in parts]),
        "truths": [truth for _, truths in parts for truth in truths],
    }
    torch.save(heard, cache)
    return heard


def _listen(pieces: int, soundfonts: Sequence[Path], codec: SpectralCodec, workers: int) -> Iterator[Heard]:
    parts = [range(start, min(start + PART, pieces)) for start in range(0, pieces, PART)]
    with get_context("spawn").Pool(workers) as pool:
        for part, heard in zip(parts, pool.imap(partial(_hear, soundfonts, codec), parts), strict=True):
            log.info("the judge has heard %d of %d pieces", part.stop, pieces)
            yield heard


def _hear(soundfonts: Sequence[Path], codec: SpectralCodec, numbers: range) -> Heard:
    """Pieces, their soundfonts taking turns; in a process of its own, on one core."""
    torch.set_num_threads(1)
    renderers, length = [Renderer(font) for font in soundfonts], round(CLIP_S * SAMPLE_RATE)
    clips, truths = [], []
    for number in numbers:
        piece = compose(FIRST_SEED + number, CLIPS * CLIP_S)
        audio = renderers[number % len(renderers)].render(piece)[: CLIPS * length].reshape(CLIPS, length)
        coded = codec.decode(codec.encode(torch.from_numpy(audio)[:, None]))[:, 0, :length].numpy()
        clips += [ear.spectrogram(clip).numpy() for clip in (*audio, *coded)]
        truths.append(truth_of_piece(piece.description))
    return np.stack(clips), truths


def _digest(codec: SpectralCodec) -> str:
    """Of all its weights: the judge knows how music sounds through this decoder."""
    digest = hashlib.sha256()
    for tensor in codec.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
