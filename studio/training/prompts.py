"""What an evaluation asks for beside `captions.evaluation_prompts`: soli, endings, and words that no caption has."""

from __future__ import annotations

from random import Random

from studio.engine.reader import WordPieces
from studio.training import words
from studio.training.captions import EVALUATION_FIRST_SEED, Phrases
from studio.training.compose import describe

SOLI = ("nothing but {}", "unaccompanied {}", "{} by itself", "{} and nothing else", "{} playing to itself")
ENDING = "{}, with an ending"
WORD = "{} music"

# A word or two that no caption has: a word near to it in meaning that captions have.
UNSEEN = {
    "festive": "cheerful",
    "jolly": "happy",
    "merry": "joyful",
    "bouncy": "playful",
    "goofy": "funny",
    "victorious": "heroic",
    "knights and castles": "epic",
    "stormy": "dramatic",
    "spooky": "eerie",
    "creepy": "sinister",
    "ghostly": "mysterious",
    "grim": "dark",
    "funeral": "mournful",
    "dreary": "sad",
    "rainy afternoon": "melancholic",
    "lonely": "sorrowful",
    "sleepy": "peaceful",
    "cozy": "relaxing",
    "misty meadow": "serene",
    "delicate": "gentle",
    "celestial": "ethereal",
    "sluggish": "slow",
    "lethargic": "slow tempo",
    "frantic": "fast",
    "swift": "quick",
    "hurried": "fast-paced",
    "furious": "intense",
    "thunderous": "powerful",
    "candlelight dinner": "romantic",
    "car chase": "suspenseful",
}


def kept_for_evaluation(pieces: WordPieces) -> list[int]:
    """Word pieces of which evaluations ask for things and captions do not say any."""
    asked = {*UNSEEN, *SOLI, *words.HELD_OUT_USES, *(way for each in words.all_ways() for way in each.held_out)}
    of_asked, of_said = ({piece for way in ways for piece in pieces.ids(way)} for ways in (asked, words.said()))
    return sorted(of_asked - of_said)


def solo_prompts(n: int) -> list[str]:
    """Prompts for one instrument alone, none of which says that there are no drums; the same list every time."""
    found: dict[str, None] = {}
    seed = EVALUATION_FIRST_SEED
    while len(found) < n:
        description = describe(seed)
        if description.is_solo and description.instruments:
            phrases = Phrases(description, Random(seed), held_out=True)
            found[phrases.rng.choice(SOLI).format(phrases.lead())] = None
        seed += 1
    return list(found)
