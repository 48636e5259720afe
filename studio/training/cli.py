"""`python -m studio train …`: the steps by which musicgen-mini is made, each resumable, all from one recipe.

Importing this imports no torch; each command imports what it runs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from studio.training.config import Recipe
    from studio.training.place import Place

app = typer.Typer(no_args_is_help=True)

RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="TOML; absent, studio/training/mini.toml.")]
Folder = Annotated[Path, typer.Option("--folder", help="Holds music, codes and checkpoints.")]
Assets = Annotated[Path, typer.Option("--assets", help="Where the bundled model is written.")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Of training in all; prolongs a run that ended.")]

WORK = Path("data/training")
BUNDLE = Path("assets/musicgen-mini")


@app.command(name="from")
def from_bundle(
    bundle: Annotated[Path, typer.Argument(help="A bundled model.")] = BUNDLE,
    folder: Folder = WORK,
    recipe: RecipeFile = None,
) -> None:
    """Begin with a bundled model's weights instead of with none: its codec, reader and language model."""
    from studio.training.begin import begin

    numbers, place = _begin(folder, recipe)
    begin(numbers.lm, numbers.codec, place, bundle)


@app.command()
def data(folder: Folder = WORK, recipe: RecipeFile = None) -> None:
    """Compose, caption and render the training music and the held-out music."""
    from studio.training import data as music

    numbers, place = _begin(folder, recipe)
    m = numbers.music
    music.build(place.music / "train", m.pieces, music.TRAINING_FIRST_SEED, m.soundfont, m.workers)
    music.build(place.music / "heldout", m.held_out, music.HELD_OUT_FIRST_SEED, m.soundfont, m.workers)


@app.command()
def codec(folder: Folder = WORK, recipe: RecipeFile = None) -> None:
    """Train the neural codec on the music, and export it."""
    from studio.training import codec as training

    numbers, place = _begin(folder, recipe)
    checkpoint = training.train(numbers.codec, place.music / "train", place.codec)
    training.export(checkpoint, place.codec_export)


@app.command()
def codes(folder: Folder = WORK, recipe: RecipeFile = None) -> None:
    """Encode the music with the exported codec: what the language model learns."""
    from studio.training import codec as training

    _, place = _begin(folder, recipe)
    for part in ("train", "heldout"):
        training.encode_shards(place.codec_export, place.music / part, place.codes / part)


@app.command()
def text(folder: Folder = WORK, recipe: RecipeFile = None) -> None:
    """Distil the meanings of word pieces from a sentence model and a thesaurus."""
    from studio.training import thesaurus
    from studio.training.text import distil, teacher_folder

    numbers, place = _begin(folder, recipe)
    place.text.mkdir(parents=True, exist_ok=True)
    distil(teacher_folder(), thesaurus.moby(), numbers.text.dim).save(place.text)


@app.command()
def read(folder: Folder = WORK, recipe: RecipeFile = None) -> None:
    """Teach the reader what captions let expect."""
    from studio.training import reading

    numbers, place = _begin(folder, recipe)
    reading.train(numbers.reader, place.text)


@app.command()
def lm(folder: Folder = WORK, recipe: RecipeFile = None, minutes: Minutes = None) -> None:
    """Train the language model on the codes."""
    from dataclasses import replace

    from studio.training import lm as training

    numbers, place = _begin(folder, recipe)
    config = numbers.lm if minutes is None else replace(numbers.lm, minutes=minutes)
    training.train(config, place.codes, place.text, place.lm)


@app.command()
def export(folder: Folder = WORK, assets: Assets = BUNDLE, recipe: RecipeFile = None) -> None:
    """Write the bundled model: weights in half precision, their configuration and the card."""
    from studio.training.export import export as write

    numbers, place = _begin(folder, recipe)
    write(numbers, place, assets)


@app.command()
def evaluate(folder: Folder = WORK, assets: Assets = BUNDLE, recipe: RecipeFile = None) -> None:
    """Measure the bundled model and write the figures into its card."""
    from studio.training.evaluate import evaluate as measure

    numbers, place = _begin(folder, recipe)
    measure(numbers.evaluate, place, assets)


@app.command()
def showcase(assets: Assets = BUNDLE) -> None:
    """Play ten prompts into `showcase/` beside the bundled model, as MP3s."""
    from studio.training.showcase import write

    write(assets, assets.parent / "showcase")


@app.command(name="all")
def everything(folder: Folder = WORK, assets: Assets = BUNDLE, recipe: RecipeFile = None) -> None:
    """All of it in order; what is finished is not done again."""
    data(folder, recipe)
    codec(folder, recipe)
    codes(folder, recipe)
    text(folder, recipe)
    read(folder, recipe)
    lm(folder, recipe)
    export(folder, assets, recipe)
    evaluate(folder, assets, recipe)
    showcase(assets)


def _begin(folder: Path, recipe: Path | None) -> tuple[Recipe, Place]:
    from studio.training.config import MINI
    from studio.training.config import read as read_recipe
    from studio.training.place import Place

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return read_recipe(recipe or MINI), Place(folder)
