"""Rhythms as strings, one character a sixteenth (16 a bar of 4/4, 12 of 3/4 and 6/8); short ones repeat.

Odd metres are made of two parts, and have the rhythms of 4/4, begun anew in each.

Chords: `x` the whole chord, a digit one of its tones, `r` the root an octave below, `-` holds, `.` rests.
Bass: 1 root, 3 third, 5 fifth, 8 octave, 7 seventh below the octave, 6 sixth, `-` holds, `.` rests.
Drums: lanes of `X` accent, `x` hit, `o` ghost.
"""

from __future__ import annotations

from collections.abc import Sequence

DRUM_KEYS = {
    "kick": 36, "rim": 37, "snare": 38, "clap": 39, "hat": 42, "pedal": 44, "open": 46, "crash": 49,
    "ride": 51, "bell": 53, "tambourine": 54, "cowbell": 56, "bongo": 60, "bongo low": 61, "conga slap": 62,
    "conga": 63, "conga low": 64, "timbale": 65, "maracas": 70, "claves": 75, "block": 76, "shaker": 82,
    "tom low": 43, "tom": 47, "tom high": 50,
}  # fmt: skip

DRUMS: dict[str, dict[str, str]] = {
    "boom bap": {"kick": "x.....x...x.....", "snare": "....X.......X...", "hat": "x.o.x.o."},
    "lazy": {"kick": "x.........x.....", "snare": "....X.......X..o", "hat": "x.x."},
    "lazy rim": {"kick": "x......x..x.....", "rim": "....X.......X...", "shaker": "x.o."},
    "four floor": {"kick": "X...", "clap": "....X...", "open": "..x.", "hat": "o.o."},
    "four floor busy": {"kick": "X...", "clap": "....X...", "open": "..x.", "shaker": "xoxo"},
    "techno": {"kick": "X...", "hat": "..x.", "rim": "...x..x....x..x."},
    "techno ride": {"kick": "X...", "clap": "....X...", "hat": "oox.", "ride": "..x."},
    "disco": {"kick": "X...", "snare": "....X...", "hat": "xo.o", "open": "..x."},
    "rock": {"kick": "X.......X.x.....", "snare": "....X...", "hat": "x.x."},
    "rock drive": {"kick": "X.....x.X.......", "snare": "....X...", "hat": "X.o."},
    "rock ride": {"kick": "X.......X.x.....", "snare": "....X...", "ride": "x.x."},
    "half time": {"kick": "X.........x.....", "snare": "........X.......", "hat": "x.x."},
    "metal": {"kick": "XxxxX.x.XxxxX.x.", "snare": "....X...", "crash": "x...", "hat": ""},
    "double kick": {"kick": "xxxx", "snare": "....X...", "ride": "x.x."},
    "thrash": {"kick": "X.x.", "snare": "..X.", "hat": "x.x."},
    "punk": {"kick": "X..xX...", "snare": "..X...X.", "hat": "X.x."},
    "swing": {"ride": "x...x.x.", "pedal": "....x...", "kick": "o...", "snare": "......o........."},
    "swing light": {"ride": "x...x.x.", "pedal": "....x..."},
    "brushes": {"snare": "o.o.x.o.", "pedal": "....x...", "kick": "x.......o......."},
    "bossa": {"kick": "x..xx..x", "rim": "x..x..x...x..x..", "hat": "x.x."},
    "bossa shaker": {"kick": "x..xx..x", "rim": "x..x..x...x..x..", "shaker": "xoxo"},
    "shuffle": {"kick": "X.....x.X.......", "snare": "....X...", "hat": "x.x."},
    "shuffle ride": {"kick": "X.......X.......", "snare": "....X...", "ride": "x.x."},
    "funk": {"kick": "X.x.......x..x..", "snare": "....X..o.o..X...", "hat": "x.x."},
    "funk sixteenth": {"kick": "X..x..x...x.....", "snare": "....X.......X..o", "hat": "xoxo"},
    "one drop": {"kick": "........X.......", "rim": "........X.......", "hat": "x.x."},
    "steppers": {"kick": "X...", "rim": "........X.......", "hat": "..x."},
    "train": {"kick": "X...", "snare": "o.x.", "hat": "..x."},
    "two beat": {"kick": "X.......", "snare": "....X...", "hat": "x.x."},
    "folk": {"kick": "x.......", "tambourine": "....x..."},
    "stomp": {"kick": "X...", "clap": "....X...", "tambourine": "..x."},
    "trap": {"kick": "X......x..x.....", "clap": "........X.......", "hat": "x.x.x.xxx.x.xxx."},
    "trap sparse": {"kick": "X.....x.........", "clap": "........X.......", "hat": "x.x."},
    "synth drive": {"kick": "X...", "snare": "....X...", "hat": "x.x."},
    "synth wide": {"kick": "X.......X.......", "snare": "....X...", "hat": "xoxo"},
    "pop": {"kick": "X......xX.......", "snare": "....X...", "hat": "x.x."},
    "pop clap": {"kick": "X.....x...x.....", "clap": "....X...", "shaker": "x.o."},
    "breakbeat": {"kick": "X.........x.....", "snare": "....X.......X...", "hat": "x.x."},
    "breakbeat ghosts": {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "ride": "x.x."},
    "chip": {"kick": "X.......X.......", "snare": "....X...", "hat": "x.x."},
    "salsa": {"conga": "..x.....", "conga low": "......xx", "cowbell": "X...x...", "claves": "x..x..x...x.x..."},
    "mambo": {"timbale": "x.xxx.xxx.xxx.xx", "kick": "...x..x.", "bongo": "x.x.", "cowbell": "X..."},
    "cumbia": {"kick": "X...", "shaker": "x.xx", "conga": "......xx"},
    "march": {"kick": "X.......", "snare": "x.x.x.xx"},
    "march roll": {"kick": "X...x...", "snare": "X.ooX.ooX.ooXooo", "crash": ""},
    "epic": {"tom low": "X..x..x.X..x..x.", "kick": "X.......X......."},
    "epic slow": {"tom low": "X.....xx........", "kick": "X.......", "snare": "............X..."},
    "bodhran": {"tom low": "X.o.x.o.", "tambourine": "....x..."},
    "pulse": {"kick": "x.......", "shaker": "..x."},
}

DRUMS_OF_TWELVE: dict[str, dict[str, dict[str, str]]] = {
    "3/4": {
        "waltz": {"kick": "X...........", "hat": "....x...x..."},
        "waltz snare": {"kick": "X...........", "snare": "....x...x...", "hat": "x.x."},
        "jazz waltz": {"ride": "x...x.x.x...", "pedal": "....x.......", "kick": "x..........."},
    },
    "6/8": {
        "ballad": {"kick": "X.......x...", "snare": "......X.....", "hat": "x."},
        "jig": {"kick": "X.....x.....", "tambourine": "..x.x."},
        "drive": {"kick": "X...x.......", "snare": "......X.....", "ride": "x."},
    },
}

BASS: dict[str, str] = {
    "whole": "1---------------",
    "half": "1-------5-------",
    "two": "1-------1---5---",
    "quarters": "1---",
    "eighths": "1-",
    "offbeat": "..1-",
    "octaves": "1-8-",
    "gallop": "1-11",
    "root fifth": "1---5---",
    "syncopated": "1-----1-----5---",
    "pop": "1-----1-1-----5-",
    "funk": "1--1..8.1-.7..8.",
    "funk low": "1.1...8...7-5-1.",
    "reggae": "1---..1-..3-5---",
    "dub": "....1-1-..5---1-",
    "bossa": "1-----5-5-----1-",
    "tumbao": "......5-----8---",
    "tumbao low": "1-....5-....8-..",
    "trap": "1---------1-....",
    "trap slide": "1-----......1---",
    "boogie": "1-3-5-6-8-6-5-3-",
    "blues": "1-1-5-5-6-6-5-5-",
    "country": "1-......5-......",
    "sixteenths": "1111",
    "rolling": ".111",
    "drone": "1---------------",
}
BASS_OF_TWELVE = {
    "3/4": ("1-----------", "1-------5---", "1-......"),
    "6/8": ("1-----5-----", "1-----------", "1---1-5---5-"),
}

CHORDS: dict[str, str] = {
    "whole": "x---------------",
    "half": "x-------x-------",
    "quarters": "x---",
    "eighths": "x-",
    "late": "..x---........x-",
    "lazy": "x-----x---------",
    "charleston": "x.....x.........",
    "comp": "..x.....x-....x.",
    "offbeat": "..x.",
    "skank": "....x...",
    "skank double": "....x.x.....x.x.",
    "stabs": "x..x..x...x..x..",
    "house stabs": "x..x..x.........",
    "bossa": "x..x..x...x.x...",
    "strum": "x---x-xx..x-x-x-",
    "strum easy": "x---..x---x-x---",
    "pop strum": "x---x---x-x-x-x-",
    "montuno": "0.12.12.0.12.12.",
    "alberti": "0-2-1-2-",
    "arp up": "0-1-2-3-",
    "arp wave": "0-1-2-1-3-2-1-2-",
    "arp fast": "0121",
    "arp sixteen": "01230123",
    "picking": "0---2-1-3-2-1-2-",
    "travis": "0-2-1-3-0-2-1-2-",
    "power": "x-------x-x-x---",
    "chug": "x.xxx.xxx.xxx.x.",
    "shuffle": "x-x-",
    "oompah": "..x...x.",
    "funk": "..xx..x...x..x..",
    "train": "..x-",
    "pulse": "x.x.",
    "march": "..x...x.",
    "ragtime": "....x...",
    "swell": "x-----------x---",
}
CHORDS_OF_TWELVE = {
    "3/4": ("....x...x...", "x-----------", "0-1-2-3-2-1-", "0---1---2---", "0...x...x..."),
    "6/8": ("0-1-2-3-2-1-", "x-----x-----", "x---x-x---x-", "0-2-1-0-2-1-"),
}

# What one player's other hand does.
SOLO: dict[str, tuple[str, ...]] = {
    "4/4": ("r-1-2-1-", "r-2-1-2-", "r---x---", "r-1-2-3-2-1-2-1-", "r-------x-------", "r-x-"),
    "3/4": ("r---x---x---", "r-1-2-3-2-1-", "r-----------"),
    "6/8": ("r-1-2-3-2-1-", "r-2-1-r-2-1-", "r-----x-----"),
}

LEADS: dict[str, dict[str, tuple[str, ...]]] = {
    "4/4": {
        "sparse": ("x-------x-------", "x-----------x---", "x-----x-x-------", "....x---x-------", "x---x-----------"),
        "medium": ("x---x---x-------", "x---x-x-x---x---", "x-----x-x---x---", "..x-x---x---x---", "x--x--x-x-------",
                   "x-x-x---x-x-x---", "x-----x-x-x-x---"),
        "busy": ("x-x-x-x-x---x---", "x-x---x-x-x-x---", "x-xxx-x-x-x-x---", "x--x--x-x-x-x-x-", "x-x-x-x-x-x-x-x-",
                 "xxx-x-x-xxx-x---"),
        "riff": ("x.x.x.x.x.x.x.x.", "x..x..x.x..x..x.", "x.xx.x.xx.xx.x..", "xxx.xxx.xxx.x.x.", "x..x..x..x..x.x."),
    },
    "3/4": {
        "sparse": ("x-----------", "x-------x---", "x---x-------"),
        "medium": ("x---x---x---", "x-------x-x-", "x-----x-x---", "x---x-x-x---"),
        "busy": ("x-x-x-x-x-x-", "x---x-x-x-x-", "x-x-x---x-x-"),
        "riff": ("x-x-x-x-x-x-", "x..x..x..x.."),
    },
    "6/8": {
        "sparse": ("x-----x-----", "x-----------", "x---x-x-----"),
        "medium": ("x---x-x-----", "x---x-x---x-", "x-----x-x-x-"),
        "busy": ("x-x-x-x-x-x-", "x-x-x-x---x-", "x---x-x-x-x-"),
        "riff": ("x-x-x-x-x-x-", "x--x--x--x--"),
    },
}  # fmt: skip


def tile(pattern: str, parts: Sequence[int]) -> str:
    """The pattern repeated through a bar whose parts have so many characters; an empty one rests."""
    return "".join(((pattern or ".") * steps)[:steps] for steps in parts)


def hits(pattern: str) -> list[tuple[int, int, str]]:
    """(step, length in steps, symbol) of every hit, holds joined to it."""
    found: list[tuple[int, int, str]] = []
    for step, symbol in enumerate(pattern):
        if symbol == "-" and found and found[-1][0] + found[-1][1] == step:
            start, length, first = found[-1]
            found[-1] = (start, length + 1, first)
        elif symbol not in ".-":
            found.append((step, 1, symbol))
    return found
