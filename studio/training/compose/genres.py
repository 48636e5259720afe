"""The genres: what each sounds like, as choices among instruments, rhythms and harmonies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Genre:
    """Every tuple is a choice; repeat an entry to favour it."""

    name: str
    bpm: tuple[int, int]
    moods: tuple[str, ...]
    progressions: tuple[str, ...]
    minor_progressions: tuple[str, ...]
    leads: tuple[str, ...]
    comps: tuple[str, ...]
    comp_patterns: tuple[str, ...]
    basses: tuple[str, ...] = ("electric bass",)
    bass_patterns: tuple[str, ...] = ("half",)
    drums: tuple[str, ...] = ()
    kits: tuple[str, ...] = ("standard kit",)
    drum_share: float = 0.7
    metres: tuple[str, ...] = ("4/4",)
    modes: tuple[str, ...] = ()  # instead of the mood's major or minor
    pads: tuple[str, ...] = ("strings",)
    pad_share: float = 0.15
    lead_density: tuple[str, ...] = ("medium",)
    solo_share: float = 0.1
    sevenths: bool = False
    swing: tuple[float, float] = (0.5, 0.5)  # where the off-beat lies in its pair; 0.667 is a triplet
    swing_steps: int = 2  # 2 swings eighths, 1 sixteenths
    jitter_s: float = 0.008
    reverb: float = 0.25
    energy: int = 1  # 0 low, 1 medium, 2 high; the mood moves it


POP = ("1 5 6 4", "1 6 4 5", "6 4 1 5", "1 4 6 5", "1 4 5 4")
POP_MINOR = ("1 6 3 7", "1 7 6 7", "1 4 6 5M", "1 6 4 5M", "1 3 7 4")
JAZZ = ("2 5 1 1", "1 6 2 5", "3 6 2 5", "1 4 2 5")
JAZZ_MINOR = ("1 4 7 3", "1 6 4 5M", "4 7 3 6")
BLUES = ("1D 1D 1D 1D 4D 4D 1D 1D 5D 4D 1D 5D", "1D 4D 1D 5D", "1D 1D 4D 1D")
CALM = ("1 4 1 5", "1 3 4 1", "1 6 4 1", "4 1 5 1")
CALM_MINOR = ("1 6 1 7", "1 4 1 5M", "1 6 3 7")
LOOPS = ("1 1 4 4", "6 6 4 5", "1 5 4 4")
LOOPS_MINOR = ("1 1 6 7", "1 1 1 1", "1 1 4 4", "1 6 7 7")
CLASSIC = ("1 4 5 1", "1 5 6 3 4 1 4 5", "1 5 1 5", "1 2 5 1")
CLASSIC_MINOR = ("1 4 5M 1", "1 7 6 5M", "1 5M 1 5M", "1 6 4 5M")

GENRES: dict[str, Genre] = {
    genre.name: genre
    for genre in (
        Genre(
            "lo-fi hip hop", (68, 94), ("calm", "melancholic", "nostalgic", "dreamy", "peaceful"), JAZZ, JAZZ_MINOR,
            ("piano", "electric piano", "vibraphone", "jazz guitar"), ("electric piano", "piano", "jazz guitar"),
            ("lazy", "half", "late", "whole"), ("electric bass", "double bass"), ("syncopated", "half", "pop"),
            ("boom bap", "lazy", "lazy rim"), ("standard kit", "jazz kit"), 0.85, lead_density=("sparse", "medium"),
            sevenths=True, swing=(0.55, 0.64), swing_steps=1, jitter_s=0.012, energy=0, solo_share=0.04,
        ),
        Genre(
            "ambient", (55, 92), ("dreamy", "peaceful", "calm", "mysterious", "dark"), CALM, CALM_MINOR,
            ("synth pad", "piano", "harp", "celesta", "flute", "choir"), ("synth pad", "strings", "choir", "synth strings"),
            ("whole", "whole", "arp up"), ("synth bass",), ("whole",), ("pulse",), ("electronic kit",), 0.1,
            pads=("synth pad", "choir"), pad_share=0.6, lead_density=("sparse",), reverb=0.6, energy=0,
            modes=("major", "lydian", "minor", "dorian"), solo_share=0.08,
        ),
        Genre(
            "house", (116, 130), ("happy", "groovy", "energetic", "uplifting"), LOOPS, POP_MINOR,
            ("saw synth", "piano", "organ", "square synth"), ("piano", "saw synth", "electric piano", "organ"),
            ("house stabs", "stabs", "offbeat"), ("synth bass",), ("offbeat", "octaves", "syncopated"),
            ("four floor", "four floor busy"), ("electronic kit", "analog kit"), 0.85, sevenths=True,
            lead_density=("medium", "riff"), jitter_s=0.001, energy=2, solo_share=0.0, pads=("synth pad", "synth strings"),
        ),
        Genre(
            "techno", (122, 142), ("dark", "energetic", "tense", "mysterious"), LOOPS, LOOPS_MINOR,
            ("saw synth", "square synth", "synth pad"), ("saw synth", "square synth", "synth pad"),
            ("offbeat", "stabs", "arp sixteen"), ("synth bass",), ("rolling", "offbeat", "sixteenths"),
            ("techno", "techno ride", "four floor"), ("electronic kit", "analog kit"), 0.9,
            lead_density=("riff",), jitter_s=0.0, energy=2, modes=("minor", "phrygian"), solo_share=0.0,
        ),
        Genre(
            "rock", (78, 168), ("energetic", "uplifting", "dark", "groovy"), (*POP, "1 4 5 5", "1 7 4 1"), POP_MINOR,
            ("electric guitar", "overdriven guitar", "distorted guitar", "rock organ"),
            ("overdriven guitar", "distorted guitar", "electric guitar"), ("power", "eighths", "quarters", "pop strum"),
            bass_patterns=("eighths", "pop", "quarters"), drums=("rock", "rock drive", "rock ride", "half time"),
            kits=("power kit", "standard kit", "room kit"), drum_share=0.9, energy=2, solo_share=0.06,
            modes=("major", "minor", "mixolydian"), metres=("4/4", "4/4", "4/4", "4/4", "6/8"),
        ),
        Genre(
            "metal", (90, 178), ("dark", "energetic", "tense", "epic"), LOOPS, ("1 1 6 7", "1 2 1 7", "1 6 7 5", "1 1 3 2"),
            ("distorted guitar",), ("distorted guitar",), ("chug", "power", "eighths"),
            bass_patterns=("eighths", "gallop", "sixteenths"), drums=("metal", "double kick", "thrash", "half time"),
            kits=("power kit",), drum_share=0.93, modes=("minor", "phrygian"), energy=2, solo_share=0.04, reverb=0.15,
            lead_density=("busy", "medium"),
        ),
        Genre(
            "punk", (142, 180), ("energetic", "happy", "tense"), ("1 4 5 4", "1 5 6 4", "1 4 1 5"), POP_MINOR,
            ("overdriven guitar", "distorted guitar"), ("distorted guitar", "overdriven guitar"), ("eighths",),
            bass_patterns=("eighths",), drums=("punk", "rock drive", "thrash"), kits=("power kit", "room kit"),
            drum_share=0.93, energy=2, solo_share=0.0, reverb=0.12,
        ),
        Genre(
            "jazz", (66, 180), ("groovy", "romantic", "nostalgic", "happy", "playful"), JAZZ, JAZZ_MINOR,
            ("tenor saxophone", "trumpet", "piano", "jazz guitar", "vibraphone", "clarinet", "muted trumpet", "alto saxophone"),
            ("piano", "jazz guitar"), ("charleston", "comp", "half"), ("double bass",), ("walking",),
            ("swing", "swing light", "brushes"), ("jazz kit", "brush kit"), 0.7, ("4/4", "4/4", "4/4", "3/4"),
            sevenths=True, swing=(0.62, 0.68), jitter_s=0.01, lead_density=("medium", "busy"), modes=("major", "dorian", "minor"),
        ),
        Genre(
            "bossa nova", (98, 144), ("romantic", "calm", "happy", "nostalgic"), JAZZ, JAZZ_MINOR,
            ("flute", "classical guitar", "tenor saxophone", "piano"), ("classical guitar", "piano", "electric piano"),
            ("bossa",), ("double bass", "electric bass"), ("bossa",), ("bossa", "bossa shaker"), ("jazz kit", "standard kit"),
            0.72, sevenths=True, lead_density=("sparse", "medium"), energy=0,
        ),
        Genre(
            "blues", (62, 140), ("sad", "groovy", "melancholic", "playful"), BLUES, BLUES,
            ("electric guitar", "harmonica", "piano", "overdriven guitar", "organ", "tenor saxophone"),
            ("piano", "electric guitar", "organ", "acoustic guitar"), ("shuffle", "quarters", "charleston"),
            ("electric bass", "double bass"), ("blues", "boogie", "quarters"), ("shuffle", "shuffle ride"), drum_share=0.72,
            modes=("mixolydian",), swing=(0.64, 0.68),
        ),
        Genre(
            "funk", (92, 122), ("groovy", "energetic", "playful", "happy"), ("1D 1D 4D 4D", "1D 1D 1D 1D", "2 5 2 5"), LOOPS_MINOR,
            ("clavinet", "brass section", "electric guitar", "alto saxophone", "organ"),
            ("electric guitar", "clavinet", "electric piano", "muted guitar"), ("funk", "stabs", "offbeat"),
            ("slap bass", "electric bass"), ("funk", "funk low"), ("funk", "funk sixteenth"), drum_share=0.92,
            modes=("dorian", "mixolydian"), sevenths=True, swing=(0.5, 0.55), swing_steps=1, energy=2, solo_share=0.02,
        ),
        Genre(
            "reggae", (64, 96), ("happy", "calm", "groovy", "peaceful"), ("1 4 1 5", "1 5 6 4", "1 2 1 2"), ("1 4 1 4", "1 7 1 7"),
            ("organ", "electric guitar", "trumpet", "trombone", "harmonica"), ("electric guitar", "organ", "piano"),
            ("skank", "skank double", "oompah"), bass_patterns=("reggae", "dub", "syncopated"), drums=("one drop", "steppers"),
            drum_share=0.88, solo_share=0.02,
        ),
        Genre(
            "classical", (58, 150), ("peaceful", "romantic", "playful", "sad", "happy", "tense"), CLASSIC, CLASSIC_MINOR,
            ("piano", "piano", "violin", "cello", "flute", "clarinet", "oboe", "harpsichord", "strings"),
            ("piano", "harpsichord", "harp", "strings", "pizzicato strings"), ("alberti", "arp wave", "half", "quarters"),
            ("cello", "double bass"), ("half", "quarters"), drum_share=0.0, metres=("4/4", "4/4", "3/4", "6/8"),
            lead_density=("medium", "busy"), solo_share=0.4, jitter_s=0.012, reverb=0.35,
        ),
        Genre(
            "cinematic", (60, 140), ("epic", "dark", "mysterious", "tense", "uplifting", "sad"), ("1 5 6 4", "6 4 1 5", "4 1 5 6"),
            ("1 6 3 7", "1 6 4 5", "1 3 6 7"),
            ("strings", "french horn", "violin", "choir", "brass section", "piano", "cello"), ("strings", "choir", "synth strings"),
            ("eighths", "whole", "half", "arp up"), ("cello", "double bass"), ("whole", "quarters", "eighths"), ("epic", "epic slow"),
            ("orchestral kit", "power kit"), 0.45, ("4/4", "4/4", "6/8"), pads=("choir", "brass section", "french horn"), pad_share=0.5,
            lead_density=("sparse", "medium"), reverb=0.5, solo_share=0.03,
        ),
        Genre(
            "folk", (70, 134), ("nostalgic", "happy", "peaceful", "sad"), (*POP, "1 4 1 5"), POP_MINOR,
            ("acoustic guitar", "fiddle", "harmonica", "flute", "accordion", "banjo"), ("acoustic guitar", "classical guitar", "banjo"),
            ("strum", "strum easy", "travis", "picking"), ("double bass",), ("root fifth", "half"), ("folk", "stomp"),
            drum_share=0.35, metres=("4/4", "4/4", "3/4", "6/8"), solo_share=0.25,
        ),
        Genre(
            "country", (82, 150), ("happy", "nostalgic", "playful", "sad"), ("1 4 5 1", "1 1 4 5", "1 5 4 1", "1 6 4 5"), POP_MINOR,
            ("fiddle", "banjo", "electric guitar", "harmonica", "acoustic guitar"), ("acoustic guitar", "banjo", "piano"),
            ("train", "strum", "oompah"), ("electric bass", "double bass"), ("country", "root fifth"), ("train", "two beat"),
            drum_share=0.72, metres=("4/4", "4/4", "4/4", "3/4"),
        ),
        Genre(
            "trap", (62, 82), ("dark", "tense", "mysterious", "energetic"), LOOPS, ("1 1 6 6", "1 6 1 5M", "1 7 6 6"),
            ("celesta", "piano", "square synth", "flute", "choir", "harp"), ("synth pad", "piano", "strings"), ("whole", "half"),
            ("synth bass",), ("trap", "trap slide"), ("trap", "trap sparse"), ("analog kit",), 0.93, jitter_s=0.001,
            modes=("minor", "phrygian", "minor"), lead_density=("medium", "riff"), solo_share=0.0,
        ),
        Genre(
            "synthwave", (78, 124), ("nostalgic", "dreamy", "energetic", "dark"), POP, POP_MINOR,
            ("saw synth", "square synth", "synth brass"), ("synth pad", "synth strings", "saw synth"), ("whole", "arp sixteen", "arp up"),
            ("synth bass",), ("eighths", "octaves", "sixteenths"), ("synth drive", "synth wide"), ("electronic kit", "power kit"),
            0.85, pads=("synth pad", "synth strings"), pad_share=0.4, jitter_s=0.001, solo_share=0.0,
        ),
        Genre(
            "pop", (72, 136), ("happy", "romantic", "uplifting", "sad", "energetic"), POP, POP_MINOR,
            ("piano", "electric guitar", "saw synth", "acoustic guitar", "marimba", "strings"), ("piano", "acoustic guitar", "electric piano"),
            ("pop strum", "quarters", "arp wave", "half"), ("electric bass", "synth bass"), ("pop", "eighths", "whole"), ("pop", "pop clap"),
            ("standard kit", "electronic kit", "room kit"), 0.78, ("4/4", "4/4", "4/4", "4/4", "6/8"), jitter_s=0.005,
        ),
        Genre(
            "disco", (108, 130), ("happy", "groovy", "uplifting", "energetic"), (*LOOPS, "2 5 1 6"), ("1 4 7 3", "1 7 6 7"),
            ("strings", "brass section", "electric guitar", "electric piano", "flute"), ("electric guitar", "electric piano", "clavinet", "piano"),
            ("funk", "offbeat", "house stabs"), ("electric bass", "slap bass"), ("octaves", "pop"), ("disco",), drum_share=0.93,
            sevenths=True, energy=2, solo_share=0.0, pad_share=0.35, jitter_s=0.004,
        ),
        Genre(
            "drum and bass", (164, 180), ("energetic", "dark", "tense", "dreamy"), LOOPS, LOOPS_MINOR,
            ("saw synth", "synth pad", "electric piano", "square synth", "piano"), ("synth pad", "electric piano", "synth strings"),
            ("whole", "lazy", "charleston"), ("synth bass",), ("syncopated", "trap", "half"), ("breakbeat", "breakbeat ghosts"),
            ("electronic kit", "standard kit"), 0.96, lead_density=("sparse", "medium"), jitter_s=0.001, energy=2, solo_share=0.0,
        ),
        Genre(
            "chiptune", (104, 172), ("playful", "happy", "energetic", "tense"), (*POP, "1 7 6 5"), POP_MINOR, ("square synth",), ("square synth",),
            ("arp fast", "arp sixteen", "arp up"), ("square synth", "synth bass"), ("octaves", "eighths"), ("chip",), ("analog kit", "electronic kit"),
            0.65, lead_density=("busy", "medium", "riff"), jitter_s=0.0, reverb=0.05, solo_share=0.12,
        ),
        Genre(
            "waltz", (84, 176), ("romantic", "playful", "nostalgic", "happy"), CLASSIC, CLASSIC_MINOR,
            ("piano", "strings", "accordion", "violin", "clarinet"), ("piano", "strings", "accordion", "harp"), ("quarters",),
            ("double bass",), ("whole",), ("pulse",), ("brush kit", "orchestral kit"), 0.25, ("3/4",), solo_share=0.2,
        ),
        Genre(
            "latin", (86, 132), ("energetic", "happy", "groovy", "romantic"), ("1 4 5 4", "2 5 1 1", "1 6 2 5"), ("1 4 5M 5M", "1 7 6 5M", "1 4 7 3"),
            ("trumpet", "piano", "brass section", "flute", "classical guitar", "marimba"), ("piano", "classical guitar"), ("montuno", "stabs"),
            ("double bass", "electric bass"), ("tumbao", "tumbao low"), ("salsa", "mambo", "cumbia"), drum_share=0.9, energy=2, solo_share=0.05,
        ),
        Genre(
            "celtic", (76, 136), ("playful", "happy", "nostalgic", "mysterious"), ("1 7 1 5", "1 4 5 1", "1 5 4 5"), ("1 7 1 7", "1 7 6 7", "1 3 7 1"),
            ("fiddle", "tin whistle", "bagpipes", "flute", "harp", "accordion"), ("acoustic guitar", "harp"), ("strum easy", "picking", "quarters"),
            ("double bass",), ("half", "root fifth"), ("bodhran", "folk"), drum_share=0.5, metres=("6/8", "6/8", "4/4"),
            modes=("major", "dorian", "mixolydian"), lead_density=("busy",), solo_share=0.15,
        ),
        Genre(
            "lullaby", (58, 88), ("peaceful", "calm", "dreamy", "nostalgic"), CALM, CALM_MINOR,
            ("music box", "celesta", "harp", "piano", "glockenspiel", "kalimba"), ("harp", "piano", "strings", "music box"),
            ("arp up", "arp wave", "half"), ("cello",), ("whole",), drum_share=0.0, metres=("4/4", "3/4", "6/8"), modes=("major", "major", "lydian"),
            lead_density=("sparse", "medium"), energy=0, solo_share=0.3, reverb=0.4,
        ),
        Genre(
            "march", (96, 132), ("epic", "happy", "energetic", "playful"), CLASSIC, CLASSIC_MINOR,
            ("trumpet", "brass section", "piccolo", "trombone", "clarinet", "french horn"), ("brass section", "french horn"), ("march", "quarters"),
            ("tuba",), ("root fifth",), ("march", "march roll"), ("orchestral kit", "standard kit"), 0.88, energy=2, solo_share=0.02,
        ),
        Genre(
            "ragtime", (84, 128), ("playful", "happy", "nostalgic"), ("1 4 1 5", "1 6M 2M 5", "1 5 1 5"), CLASSIC_MINOR,
            ("piano", "clarinet", "banjo", "trumpet", "xylophone"), ("piano",), ("ragtime", "oompah"), ("tuba", "double bass"), ("root fifth",),
            ("two beat", "brushes"), drum_share=0.35, modes=("major",), lead_density=("busy",), solo_share=0.4, reverb=0.15,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Mood:
    """How a mood bends the music."""

    major: float  # share in major where the genre leaves it open
    energy: int  # added to the genre's
    tempo: float  # 0 draws from the slow end of the genre's range, 1 from the fast
    velocity: int  # added


MOODS: dict[str, Mood] = {
    "happy": Mood(1.0, 0, 0.65, 4),
    "uplifting": Mood(1.0, 0, 0.6, 5),
    "playful": Mood(0.9, 0, 0.65, 2),
    "groovy": Mood(0.5, 0, 0.5, 3),
    "energetic": Mood(0.5, 1, 0.85, 10),
    "epic": Mood(0.25, 1, 0.5, 10),
    "peaceful": Mood(1.0, -1, 0.25, -10),
    "calm": Mood(0.7, -1, 0.2, -10),
    "dreamy": Mood(0.7, -1, 0.35, -8),
    "romantic": Mood(0.7, 0, 0.35, -4),
    "nostalgic": Mood(0.6, 0, 0.4, -4),
    "melancholic": Mood(0.0, -1, 0.2, -8),
    "sad": Mood(0.0, -1, 0.1, -10),
    "dark": Mood(0.0, 0, 0.4, 2),
    "mysterious": Mood(0.0, 0, 0.35, -2),
    "tense": Mood(0.0, 1, 0.7, 6),
}
ENERGIES = ("low", "medium", "high")
