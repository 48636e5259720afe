"""From checkpoints to `assets/musicgen-mini`: weights in half precision, their configuration, and a card that says
how they were made and on what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.engine.bundle import Bundle
from studio.engine.reader import Reader, WordPieces
from studio.engine.spectral_codec import SpectralCodec
from studio.training import card, lm, reading
from studio.training.config import Recipe
from studio.training.place import Place

CURVE = "training.jsonl"  # the looks at held-out pieces while the language model was trained
COLUMNS = 8  # of the curve in the card
BUDGET_BYTES = 32_000_000


def export(recipe: Recipe, place: Place, assets: Path) -> int:
    """Write the bundle from the checkpoints in `place`; return its size in bytes."""
    model = lm.trained(place.lm / lm.CHECKPOINT)
    codec = SpectralCodec.load(place.codec_export)
    pieces, reader = WordPieces.load(place.text), reading.load(place.text / reading.READER)
    assert model.config.codebooks == codec.config.codebooks
    bundle = Bundle(model.config, model.state_dict(), pieces, reader, model.attributes, codec)
    bundle.write(assets, recipe.bundle.version)
    journal = _lines(place.lm / lm.JOURNAL)
    looks = [line for line in journal if "gap" in line]
    (assets / CURVE).write_text("".join(f"{json.dumps(line)}\n" for line in looks), "utf-8")
    for path in assets.iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in assets.glob("*.safetensors"))
    assert size <= BUDGET_BYTES, f"{size / 1e6:.1f} MB of weights"
    card.write(assets, describe(recipe, journal, model, reader, codec, size))
    return size


def describe(
    recipe: Recipe,
    journal: Sequence[dict[str, Any]],
    model: lm.LanguageModel,
    reader: Reader,
    codec: SpectralCodec,
    size: int,
) -> str:
    """The card without its measurements."""
    c, run = model.config, {name: value for line in journal for name, value in line.items()}  # the newest of each
    told = sum(p.numel() for module in (model.attributes, reader) for p in module.parameters())
    decoder = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("attributes."))
    return CARD_TEXT.format(
        version=recipe.bundle.version,
        megabytes=f"{size / 1e6:.1f}",
        dim=c.dim,
        layers=c.layers,
        millions=f"{decoder / 1e6:.1f}",
        told=f"{told / 1e6:.1f}",
        codec_millions=f"{sum(p.numel() for p in codec.parameters()) / 1e6:.1f}",
        pieces=run.get("pieces", 0),
        hours=f"{run.get('pieces', 0) * 30 / 3600:.0f}",
        steps=run.get("step", 0),
        minutes=f"{run.get('minutes', 0):.0f}",
        words=recipe.text.dim,
        curve=_curve(journal),
    )


def _lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines; where a run began anew, its minutes go on from those before it."""
    lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()] if journal.exists() else []
    before, last = 0.0, 0.0
    for line in lines:
        before += max(0.0, last - line["minutes"])
        last = line["minutes"]
        line["minutes"] = round(before + last, 2)
    return lines


def _curve(journal: Sequence[dict[str, Any]]) -> str:
    """A few looks at the held-out pieces, as columns of a table: minutes, loss with prompts, loss without."""
    looks = [line for line in journal if "gap" in line]
    few = [looks[at * (len(looks) - 1) // (COLUMNS - 1)] for at in range(COLUMNS)] if len(looks) >= COLUMNS else looks
    rows = (
        ("minutes", [f"{line['minutes']:.0f}" for line in few]),
        ("with prompts", [f"{line['held_out_prompt']:.3f}" for line in few]),
        ("without", [f"{line['held_out_null']:.3f}" for line in few]),
    )
    table = [f"| {title} | {' | '.join(cells)} |" for title, cells in rows]
    return "\n".join([table[0], "|" + "---|" * (1 + len(few)), *table[1:]])


CARD_TEXT = """\
# musicgen-mini {version}

A MusicGen in small that ships with the studio: text → cross-attention → delay-pattern transformer over four codebooks
→ neural codec. {megabytes} MB of weights in half precision, mono, 32 kHz, up to 30 s. Instant on a laptop, no network.

| file | what |
|---|---|
| `config.json` | shapes |
| `lm.safetensors` | {layers} layers of {dim} ({millions} M) and conditioners ({told} M), under audiocraft's names |
| `codec.safetensors` | the codec ({codec_millions} M parameters): 50 frames a second, 4 codebooks of 1024, 2 kbit/s |
| `text.safetensors`, `tokenizer.json` | word pieces and their meanings, {words} numbers each, int8 |

## How it was made
Everything is in `studio/training`; `python -m studio train all` makes it again, on a CPU or a GPU, and
`studio/training/mini.toml` has the numbers.

- **Music.** {pieces} pieces of 30 s ({hours} hours), each composed by `compose` (genres, keys, tempi, moods, song
  form, human timing) and rendered through MuseScore's General MIDI soundfont (MIT). No recording by anybody is in it.
- **Captions.** Written by `captions` from what is true of the piece; fresh ones at every step.
- **Words.** The table is distilled from all-MiniLM-L6-v2 (Apache-2.0): principal components of what the model makes of
  "<word> music" and of its raw embeddings. A word that no caption says is moved towards its synonyms that captions do
  say (Moby's thesaurus, in the public domain); 4000 that the sentence model spells in pieces have rows of their own so.
- **Reader.** A transformer of two layers that learned from captions alone which attributes they let expect: genre,
  mood, energy, number of players, lead, drums or none, instruments, key, tempo, metre. Every step of the language model
  is told what it expects of the prompt; its cross-attention reads the prompt's words as the reader sees them.
- **Time.** Every step reads where in the beat, the bar and the phrase it stands, and of a piece that ends how near its
  last chord is and how long that still rings (`studio/engine/metre.py`). The tempo is the one that the prompt names, or
  one that its words let expect; so is the metre. "With an ending" gets one, to which guidance leads as to all else that
  is asked for, and from the last chord on to nothing but the prompt's words. The studio fades its last half second, in
  case the chord still rings.
- **Guidance.** Beyond a `cfg_coef` of 3 half of it is taken, so 6 is 4.5, from where on prompts were heeded no better
  (81% of what was asked for, 80% at all of 6). The two finer codebooks take half of that: they say little of the
  prompt, and more led them astray.
- **Codec.** `studio/engine/spectral_codec.py`: ConvNeXt on STFT frames, residual vector quantiser, inverse STFT. Its
  decoder's last steps learned from a discriminator of spectra (`adversary`), and not to pulse at their rate.
- **Language model.** {minutes} minutes on two CPU cores, {steps} steps in the last of its runs; Muon and AdamW; a
  moving average of the weights. Of each piece's attributes some are told as they are, the others as a caption lets
  expect them. Its loss on held-out pieces, in nats a code (all looks are in `training.jsonl`):

{curve}

## What to expect
General MIDI instruments, no voices, no recordings' sound. It knows the genres, instruments, moods and tempi of its
composer. How well is measured below: drums or none, slow or fast, and an ending are as asked for nine times in ten, the
lead instrument and the genre seven times in ten, and most words that no caption has move the music as their neighbours
in meaning do. One in ten long pieces, mostly of sustained instruments, seems to lose its tempo. The loss was still
falling when training ended. How to make a better one is in `studio/training/mini.toml`.

## Licence
The weights are CC0 1.0: do what you like. The table of word meanings derives from all-MiniLM-L6-v2 (Apache-2.0).

## Measured
`python -m studio train evaluate` writes what follows.

"""
