"""Descriptions in people's words: from one word to a sentence, and never untrue.

    captions(piece.description, Random(seed), n=6)

What may be said comes from `words`; here is how it is put. `evaluation_prompts` speaks only in wordings kept out of
training: held-out words, held-out sentences, or both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from studio.training import words
from studio.training.compose import INSTRUMENTS, Description, compose
from studio.training.words import Words

FAMILY_SHARE = 0.1
REQUEST_SHARE = 0.2  # of the captions are put as a wish
EVALUATION_FIRST_SEED = 2_000_000_000  # beyond the training and the held-out pieces
_REPEATED = re.compile(r"\b([a-z]+) \1\b")  # "pop tune tune"
HELD_OUT_WORDS = 0.6  # of an evaluation prompt's words; its sentence is always a held-out one


def captions(description: Description, rng: Random, n: int = 6) -> list[str]:
    """`n` different captions of one piece."""
    found: dict[str, None] = {}
    while len(found) < n:
        found[caption(description, rng)] = None
    return list(found)


def caption(description: Description, rng: Random) -> str:
    """One caption: a word, a pair, tags, a phrase or a sentence."""
    styles: tuple[Callable[[Phrases], str], ...] = (_word, _pair, _tags, _phrase, _sentence)
    style = rng.choices(styles, (1, 3, 3, 4, 3))[0]
    text = _REPEATED.sub(r"\1", style(Phrases(description, rng)))
    if rng.random() < REQUEST_SHARE:
        text = rng.choice(words.REQUESTS).format(text)
    return text[:1].upper() + text[1:] if rng.random() < 0.12 else text


class Phrases:
    """Draws wordings of one description."""

    def __init__(self, description: Description, rng: Random, held_out: bool = False) -> None:
        self.of = description
        self.rng = rng
        self.held_out = held_out

    def say(self, ways: Words) -> str:
        unseen = self.held_out and ways.held_out and self.rng.random() < HELD_OUT_WORDS
        return self.rng.choice(ways.held_out if unseen else ways.training)

    def genre(self) -> str:
        return self.say(words.GENRES[self.of.genre])

    def mood(self) -> str:
        return self.say(words.MOODS[self.of.mood])

    def tempo(self) -> str:
        return self.say(words.TEMPOS[self.of.tempo])

    def bpm(self) -> str:
        return self.rng.choice(
            (f"{self.of.bpm} bpm", f"{self.of.bpm} BPM", f"at {self.of.bpm} bpm", f"{self.of.bpm}bpm")
        )

    def key(self) -> str:
        return self.rng.choice((f"in {self.of.key}", f"key of {self.of.key}", self.of.key))

    def metre(self) -> str:
        return self.say(words.METRES[self.of.metre])

    def instrument(self, name: str) -> str:
        ways = words.instrument(name)
        if self.held_out:  # "guitar" names four instruments: an evaluation must say which
            return self.say(Words((name,), ways.held_out))
        if self.rng.random() < FAMILY_SHARE:
            return self.rng.choice(words.FAMILIES[INSTRUMENTS[name].family])
        return self.say(ways)

    def lead(self) -> str:
        return self.instrument(self.of.lead) if self.of.instruments else "drums"

    def other(self) -> str:
        """Another instrument than the lead, or drums, or nothing."""
        others = [self.instrument(name) for name in self.of.instruments[1:]]
        return self.rng.choice([*others, "drums"] if self.of.has_drums else others or [""])

    def drums(self) -> str:
        """With or without."""
        if self.of.has_drums:
            return self.say(words.DRUMS)
        word = self.say(words.NO_DRUMS)
        struck = any(INSTRUMENTS[name].family == "mallets" for name in self.of.instruments)
        return "no drums" if struck and "percussi" in word else word

    def solo(self) -> str:
        lead = self.lead()
        return self.rng.choice(words.SOLO).format(lead)

    def energy(self) -> str:
        return words.ENERGY[self.of.energy]

    def texture(self) -> str:
        """A word for the whole ensemble, if one fits."""
        names = set(self.of.instruments)
        synths = all(INSTRUMENTS[name].family == "synth" or name == "synth bass" for name in names)
        if not names:
            return self.rng.choice(words.DRUMS_ONLY)
        if synths:
            return self.rng.choice(words.ELECTRONIC)
        if names & {"strings", "brass section", "french horn"} and self.of.genre in ("cinematic", "classical", "waltz"):
            return self.rng.choice(words.ORCHESTRAL)
        if len(names) == 2 and not self.of.has_drums:
            return self.rng.choice(words.DUOS)
        electric = names & words.ELECTRIC_NAMES or any(INSTRUMENTS[name].family == "synth" for name in names)
        return "" if electric or self.of.has_drums else self.rng.choice(words.ACOUSTIC)

    def use(self) -> str:
        uses = [use for use, moods in words.USES if self.of.mood in moods]
        return self.rng.choice(uses) if uses else ""


def _word(p: Phrases) -> str:
    said = [p.genre, p.genre, p.lead, p.lead, p.mood, p.tempo]
    if p.of.has_drums:
        said.append(lambda: p.rng.choice(("drums", "beat", "drum beat", "percussion")))
    return p.rng.choice(said)()


def _pair(p: Phrases) -> str:
    if p.of.is_solo and p.rng.random() < 0.5:
        return p.rng.choice((p.solo(), f"{p.mood()} {p.solo()}", f"{p.solo()}, {p.tempo()}"))
    return p.rng.choice(
        (
            lambda: f"{p.mood()} {p.genre()}",
            lambda: f"{p.mood()} {p.lead()}",
            lambda: f"{p.tempo()} {p.genre()}",
            lambda: f"{p.tempo()} {p.lead()}",
            lambda: f"{p.genre()} {p.lead()}",
            lambda: f"{p.genre()} {p.drums()}" if p.of.has_drums else f"{p.genre()}, {p.drums()}",
            lambda: f"{p.lead()}, {p.drums()}",
            lambda: f"{p.texture()} {p.genre()}".strip(),
        )
    )()


def _tags(p: Phrases) -> str:
    """Two to six of what is true, in any order, with commas."""
    said = [p.genre(), p.lead()]
    optional = (p.mood, p.tempo, p.other, p.drums, p.bpm, p.key, p.use, p.metre, p.texture, p.energy)
    metre = 0.6 if p.of.metre in words.ODD_METRES else 0.08
    weights = (0.6, 0.55, 0.5, 0.5, 0.3, 0.15, 0.2, metre, 0.25, 0.1)
    said += [say() for say, weight in zip(optional, weights, strict=True) if p.rng.random() < weight]
    if p.of.is_solo and p.rng.random() < 0.4:
        said[1] = p.solo()
    if p.rng.random() < 0.2:
        said.pop(p.rng.randrange(2))
    p.rng.shuffle(said)
    return ", ".join(dict.fromkeys(tag for tag in said if tag))


def _phrase(p: Phrases) -> str:
    """Mood, tempo, genre, then who plays, then what else is to be said."""
    before = [say() for say in (p.mood, p.tempo) if p.rng.random() < 0.5]
    text = " ".join([*before, p.genre()])
    if p.rng.random() < 0.7:
        text += f" {p.rng.choice(('with', 'featuring', 'on', 'for'))} {p.lead()}"
        other = p.other()
        if other and p.rng.random() < 0.5:
            text += f" and {other}"
    if p.rng.random() < 0.4:
        drums = p.drums()
        text += f" {drums}" if drums.startswith("with") else f", {drums}"
    if p.rng.random() < 0.25:
        text += f", {p.bpm()}"
    if p.of.metre in words.ODD_METRES and p.rng.random() < 0.4:
        text += f", {p.metre()}"
    use = p.use()
    return f"{text} {use}" if use and p.rng.random() < 0.25 else text


def _sentence(p: Phrases) -> str:
    lead, mood, genre, tempo = p.lead(), p.mood(), p.genre(), p.tempo()
    other, drums = p.other(), p.drums()
    company = f" accompanied by {other}" if other and other != lead else ""
    return p.rng.choice(
        (
            f"{_a(mood)} {genre} track with {lead}{company}",
            f"{_a(tempo)} {genre} piece with {_a(lead)} melody, {drums}",
            f"{lead} plays {_a(mood)} melody{company}, {genre}, {drums}",
            f"{_a(mood)}, {tempo} {genre} instrumental with {lead}, {drums}",
            f"instrumental {genre} music, {mood} and {tempo}, {lead}{company}",
            f"{genre} tune {p.key()} at {p.of.bpm} bpm with {lead}",
            f"{mood} music with {lead}{company}, {drums}",
            f"a piece of {genre} that feels {mood}, {tempo}, {drums}",
            f"{_a(lead)} melody over {_a(mood)} {genre} {'beat' if p.of.has_drums else 'backing'}",
        )
    )


def _a(word: str) -> str:
    article = "an" if word[:1].lower() in "aeio8" or word.startswith(("up", "ur")) else "a"
    return word if word.startswith(("a ", "the ")) else f"{article} {word}"


@dataclass(frozen=True)
class Expectation:
    """What a prompt asks for; None where it does not say."""

    genre: str | None = None
    lead: str | None = None
    drums: bool | None = None
    tempo: str | None = None


def evaluation_prompts(n: int = 200) -> list[tuple[str, Expectation]]:
    """Prompts in wordings that no caption uses, each with what it asks for; the same list every time."""
    found: dict[str, Expectation] = {}
    seed = EVALUATION_FIRST_SEED
    while len(found) < n:
        description = compose(seed).description
        if description.instruments:
            prompt, expectation = _held_out_prompt(Phrases(description, Random(seed), held_out=True))
            found[prompt] = expectation
        seed += 1
    return list(found.items())


def tempo_prompts(n: int) -> list[tuple[str, int]]:
    """Prompts that name a tempo and what it is, in beats a minute; the same list every time."""
    found: dict[str, int] = {}
    seed = EVALUATION_FIRST_SEED
    while len(found) < n:
        description = compose(seed).description
        genre = Phrases(description, Random(seed), held_out=True).genre()
        found[f"{genre}, {description.bpm} bpm"] = description.bpm
        seed += 1
    return list(found.items())


def _held_out_prompt(p: Phrases) -> tuple[str, Expectation]:
    of = p.of
    genre, lead, mood, tempo, drums = p.genre(), p.lead(), p.mood(), p.tempo(), p.drums()
    use = p.rng.choice(words.HELD_OUT_USES)
    return p.rng.choice(
        (
            (f"please make me some {genre}", Expectation(genre=of.genre)),
            (f"I want to hear {lead}, {drums}", Expectation(lead=of.lead, drums=of.has_drums)),
            (f"give me {genre} where the {lead} comes first", Expectation(genre=of.genre, lead=of.lead)),
            (f"{tempo} and {mood}: {genre}", Expectation(genre=of.genre, tempo=of.tempo)),
            (f"compose {genre} that is {tempo}, {drums}", Expectation(of.genre, None, of.has_drums, of.tempo)),
            (f"something {mood} {use}, mostly {lead}, {tempo}", Expectation(lead=of.lead, tempo=of.tempo)),
            (f"write a {genre} number, {lead} up front, {drums}", Expectation(of.genre, of.lead, of.has_drums)),
            (f"the sound of {lead}, {tempo}, {drums}", Expectation(None, of.lead, of.has_drums, of.tempo)),
        )
    )
