"""Teaches the reader: from captions alone, which attributes a piece has that is described so.

What a caption says shows in the music's codes only faintly, and a short training of the language model never gets to
it. So the reader learns before, from as many captions as it likes, and is then left as it is. It must cope with prompts
that no caption is like: some words are replaced by others of like meaning (never by those that an evaluation asks
with), some by anything, and some descriptions are mixed from two, for people ask for a lullaby with drums.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.engine.metre import BEATS, FRAME_S
from studio.engine.reader import SEVERAL, Reader, WordPieces
from studio.training.attributes import ATTRIBUTES, truth
from studio.training.captions import caption, evaluation_prompts
from studio.training.compose import Description, describe, tempo_class
from studio.training.prompts import kept_for_evaluation
from studio.training.words import TEMPOS

log = logging.getLogger(__name__)

READER = "reader.safetensors"
MIXED = ("mood", "bpm", "key", "instruments", "has_drums", "energy")  # what a description may take from another
NEIGHBOURS = 6  # words of like meaning
WARMUP = 100  # steps
LOG_EVERY = 250  # steps


@dataclass(frozen=True)
class ReaderTraining:
    """How to train."""

    dim: int = 256  # the language model's
    steps: int = 4000
    batch: int = 64
    descriptions: int = 30_000
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    mixed_share: float = 0.4  # of the descriptions are mixed from two
    near_share: float = 0.15  # of the word pieces are replaced by others of like meaning,
    any_share: float = 0.04  # by anything
    several_weight: float = 10.0  # of the attributes with several values beside the others
    seed: int = 0


def train(config: ReaderTraining, text_dir: Path) -> Path:
    """Train a reader for the word pieces in `text_dir` and write it there; one that is there is left as it is."""
    path = text_dir / READER
    if not path.exists():
        save(learn(config, WordPieces.load(text_dir)), path)
    return path


def learn(config: ReaderTraining, pieces: WordPieces) -> Reader:
    """A reader, trained."""
    torch.manual_seed(config.seed)
    reader = Reader(pieces.table.shape[1], config.dim, ATTRIBUTES)
    descriptions = _described(config)
    truths = truth(descriptions)
    near = _neighbours(pieces)
    optimiser = torch.optim.AdamW(
        reader.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    for step in range(config.steps):
        rng = Random(f"reading/{config.seed}/{step}")
        rows = [rng.randrange(len(descriptions)) for _ in range(config.batch)]
        ids = [_blurred(pieces.ids(caption(descriptions[row], rng)), near, config, rng) for row in rows]
        with torch.autocast("cpu", torch.bfloat16):
            _, scores = reader(*pieces.embed_ids(ids))
        losses = _losses(scores, {name: each[rows] for name, each in truths.items()})
        weights = [config.several_weight if name in SEVERAL else 1.0 for name in losses]
        loss = torch.stack([weight * each for weight, each in zip(weights, losses.values(), strict=True)]).sum()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min((step + 1) / WARMUP, 2 * (1 - step / config.steps), 1.0)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % LOG_EVERY == 0:
            found = ", ".join(f"{name} {each.item():.3f}" for name, each in losses.items())
            log.info("step %d of %d: %s", step + 1, config.steps, found)
    reader.eval().requires_grad_(False)
    log.info("of prompts in wordings that no caption has, the reader understands: %s", understood(reader, pieces))
    return reader


@torch.inference_mode()
def understood(reader: Reader, pieces: WordPieces, prompts: int = 400) -> dict[str, float]:
    """How often the reader expects most what an evaluation prompt asks for, by attribute."""
    asked = evaluation_prompts(prompts)
    _, scores = reader(*pieces.embed([prompt for prompt, _ in asked]))
    tempo = _tempo_scores(scores["beat"]).argmax(1)
    right: dict[str, list[bool]] = {}
    for row, (_, expectation) in enumerate(asked):
        found = {name: values[int(scores[name][row].argmax())] for name, values in reader.attributes.items()}
        found["tempo"] = list(TEMPOS)[int(tempo[row])]
        drums = None if expectation.drums is None else ("drums" if expectation.drums else "none")
        wanted = {"genre": expectation.genre, "lead": expectation.lead, "drums": drums, "tempo": expectation.tempo}
        for name, value in wanted.items():
            if value is not None:
                right.setdefault(name, []).append(found[name] == value)
    return {name: round(sum(each) / len(each), 3) for name, each in right.items()}


def _tempo_scores(beats: Tensor) -> Tensor:
    """A score for each of TEMPOS [B, 3], of scores of beats [B, BEATS]; of many slow ones none is likely by itself."""
    tempi = [tempo_class(60 / FRAME_S / beat) for beat in BEATS]
    places = [[at for at, each in enumerate(tempi) if each == tempo] for tempo in TEMPOS]
    return torch.stack([beats[:, each].logsumexp(-1) for each in places], dim=-1)


def save(reader: Reader, path: Path) -> None:
    """Write a reader and the names of its attributes, whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    save_file(reader.state_dict(), partial, {"attributes": json.dumps(reader.attributes)})
    partial.replace(path)


def load(path: Path) -> Reader:
    """Read what `save` wrote."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        attributes = json.loads(file.metadata()["attributes"])
    state = load_file(path)
    dim, embedding_dim = state["output_proj.weight"].shape
    reader = Reader(embedding_dim, dim, attributes)
    reader.load_state_dict(state)
    return reader.eval().requires_grad_(False)


def _described(config: ReaderTraining) -> list[Description]:
    """The first pieces' descriptions; some take a part of what they say from the next one."""
    rng = Random(config.seed)
    found = [describe(seed) for seed in range(config.descriptions)]
    for row, (one, other) in enumerate(pairwise(found)):
        if rng.random() < config.mixed_share:
            taken = {name: getattr(other, name) for name in MIXED if rng.random() < 0.5}
            mixed = replace(one, **taken)
            found[row] = replace(mixed, has_drums=mixed.has_drums or not mixed.instruments)
    return found


def _losses(scores: dict[str, Tensor], truths: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: F.binary_cross_entropy_with_logits(each.float(), truths[name])
        if name in SEVERAL
        else F.cross_entropy(each.float(), truths[name].argmax(1))
        for name, each in scores.items()
    }


def _neighbours(pieces: WordPieces) -> Tensor:
    """The rows of the table that mean nearly what each row means [V, NEIGHBOURS], but those kept for evaluation."""
    unit = F.normalize(pieces.table, dim=1)
    kept = torch.zeros(len(unit))
    kept[kept_for_evaluation(pieces)] = torch.inf
    found = []
    for own in torch.split(torch.arange(len(unit)), 1024):
        likeness = unit[own] @ unit.T - kept
        likeness[torch.arange(len(own)), own] = -torch.inf  # itself
        found.append(likeness.topk(NEIGHBOURS).indices)
    return torch.cat(found)


def _blurred(ids: Sequence[int], near: Tensor, config: ReaderTraining, rng: Random) -> list[int]:
    """Word pieces, some of them replaced."""
    found = []
    for piece in ids:
        chance = rng.random()
        if chance < config.any_share:
            found.append(rng.randrange(len(near)))
        elif chance < config.any_share + config.near_share:
            found.append(int(near[piece, rng.randrange(NEIGHBOURS)]))
        else:
            found.append(piece)
    return found
