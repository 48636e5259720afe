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

ODD = ("5/4", "5/4", "7/8 2+2+3", "7/8 3+2+2")  # metres

GENRES: dict[str, Genre] = {
    genre.name: genre
    for genre in (
        Genre(
            name="lo-fi hip hop", bpm=(68, 94),
            moods=("calm", "melancholic", "nostalgic", "dreamy", "peaceful"), progressions=JAZZ,
            minor_progressions=JAZZ_MINOR, leads=("piano", "electric piano", "vibraphone", "jazz guitar"),
            comps=("electric piano", "piano", "jazz guitar"),
            comp_patterns=("lazy", "half", "late", "whole"), basses=("electric bass", "double bass"),
            bass_patterns=("syncopated", "half", "pop"), drums=("boom bap", "lazy", "lazy rim"),
            kits=("standard kit", "jazz kit"), drum_share=0.85, lead_density=("sparse", "medium"),
            solo_share=0.04, sevenths=True, swing=(0.55, 0.64), swing_steps=1, jitter_s=0.012, energy=0,
        ),
        Genre(
            name="ambient", bpm=(55, 92), moods=("dreamy", "peaceful", "calm", "mysterious", "dark"),
            progressions=CALM, minor_progressions=CALM_MINOR,
            leads=("synth pad", "piano", "harp", "celesta", "flute", "choir"),
            comps=("synth pad", "strings", "choir", "synth strings"),
            comp_patterns=("whole", "whole", "arp up"), basses=("synth bass",), bass_patterns=("whole",),
            drums=("pulse",), kits=("electronic kit",), drum_share=0.1,
            modes=("major", "lydian", "minor", "dorian"), pads=("synth pad", "choir"), pad_share=0.6,
            lead_density=("sparse",), solo_share=0.08, reverb=0.6, energy=0,
            metres=(*16 * ("4/4",), *ODD),
        ),
        Genre(
            name="house", bpm=(116, 130), moods=("happy", "groovy", "energetic", "uplifting"),
            progressions=LOOPS, minor_progressions=POP_MINOR,
            leads=("saw synth", "piano", "organ", "square synth"),
            comps=("piano", "saw synth", "electric piano", "organ"),
            comp_patterns=("house stabs", "stabs", "offbeat"), basses=("synth bass",),
            bass_patterns=("offbeat", "octaves", "syncopated"), drums=("four floor", "four floor busy"),
            kits=("electronic kit", "analog kit"), drum_share=0.85, pads=("synth pad", "synth strings"),
            lead_density=("medium", "riff"), solo_share=0.0, sevenths=True, jitter_s=0.001, energy=2,
        ),
        Genre(
            name="techno", bpm=(122, 142), moods=("dark", "energetic", "tense", "mysterious"),
            progressions=LOOPS, minor_progressions=LOOPS_MINOR,
            leads=("saw synth", "square synth", "synth pad"),
            comps=("saw synth", "square synth", "synth pad"),
            comp_patterns=("offbeat", "stabs", "arp sixteen"), basses=("synth bass",),
            bass_patterns=("rolling", "offbeat", "sixteenths"),
            drums=("techno", "techno ride", "four floor"), kits=("electronic kit", "analog kit"),
            drum_share=0.9, modes=("minor", "phrygian"), lead_density=("riff",), solo_share=0.0,
            jitter_s=0.0, energy=2,
        ),
        Genre(
            name="rock", bpm=(78, 168), moods=("energetic", "uplifting", "dark", "groovy"),
            progressions=(*POP, "1 4 5 5", "1 7 4 1"), minor_progressions=POP_MINOR,
            leads=("electric guitar", "overdriven guitar", "distorted guitar", "rock organ"),
            comps=("overdriven guitar", "distorted guitar", "electric guitar"),
            comp_patterns=("power", "eighths", "quarters", "pop strum"),
            bass_patterns=("eighths", "pop", "quarters"),
            drums=("rock", "rock drive", "rock ride", "half time"),
            kits=("power kit", "standard kit", "room kit"), drum_share=0.9,
            metres=(*12 * ("4/4",), *3 * ("6/8",), *ODD), modes=("major", "minor", "mixolydian"),
            solo_share=0.06, energy=2,
        ),
        Genre(
            name="metal", bpm=(90, 178), moods=("dark", "energetic", "tense", "epic"), progressions=LOOPS,
            minor_progressions=("1 1 6 7", "1 2 1 7", "1 6 7 5", "1 1 3 2"), leads=("distorted guitar",),
            comps=("distorted guitar",), comp_patterns=("chug", "power", "eighths"),
            bass_patterns=("eighths", "gallop", "sixteenths"),
            drums=("metal", "double kick", "thrash", "half time"), kits=("power kit",), drum_share=0.93,
            modes=("minor", "phrygian"), lead_density=("busy", "medium"), solo_share=0.04, reverb=0.15,
            energy=2,
            metres=(*12 * ("4/4",), *ODD),
        ),
        Genre(
            name="punk", bpm=(142, 180), moods=("energetic", "happy", "tense"),
            progressions=("1 4 5 4", "1 5 6 4", "1 4 1 5"), minor_progressions=POP_MINOR,
            leads=("overdriven guitar", "distorted guitar"),
            comps=("distorted guitar", "overdriven guitar"), comp_patterns=("eighths",),
            bass_patterns=("eighths",), drums=("punk", "rock drive", "thrash"),
            kits=("power kit", "room kit"), drum_share=0.93, solo_share=0.0, reverb=0.12, energy=2,
        ),
        Genre(
            name="jazz", bpm=(66, 180), moods=("groovy", "romantic", "nostalgic", "happy", "playful"),
            progressions=JAZZ, minor_progressions=JAZZ_MINOR,
            leads=("tenor saxophone", "trumpet", "piano", "jazz guitar", "vibraphone", "clarinet",
                "muted trumpet", "alto saxophone"),
            comps=("piano", "jazz guitar"), comp_patterns=("charleston", "comp", "half"),
            basses=("double bass",), bass_patterns=("walking",), drums=("swing", "swing light", "brushes"),
            kits=("jazz kit", "brush kit"), drum_share=0.7, metres=(*9 * ("4/4",), *3 * ("3/4",), *3 * ("5/4",)),
            modes=("major", "dorian", "minor"), lead_density=("medium", "busy"), sevenths=True,
            swing=(0.62, 0.68), jitter_s=0.01,
        ),
        Genre(
            name="bossa nova", bpm=(98, 144), moods=("romantic", "calm", "happy", "nostalgic"),
            progressions=JAZZ, minor_progressions=JAZZ_MINOR,
            leads=("flute", "classical guitar", "tenor saxophone", "piano"),
            comps=("classical guitar", "piano", "electric piano"), comp_patterns=("bossa",),
            basses=("double bass", "electric bass"), bass_patterns=("bossa",),
            drums=("bossa", "bossa shaker"), kits=("jazz kit", "standard kit"), drum_share=0.72,
            lead_density=("sparse", "medium"), sevenths=True, energy=0,
        ),
        Genre(
            name="blues", bpm=(62, 140), moods=("sad", "groovy", "melancholic", "playful"),
            progressions=BLUES, minor_progressions=BLUES,
            leads=("electric guitar", "harmonica", "piano", "overdriven guitar", "organ",
                "tenor saxophone"),
            comps=("piano", "electric guitar", "organ", "acoustic guitar"),
            comp_patterns=("shuffle", "quarters", "charleston"), basses=("electric bass", "double bass"),
            bass_patterns=("blues", "boogie", "quarters"), drums=("shuffle", "shuffle ride"),
            drum_share=0.72, modes=("mixolydian",), swing=(0.64, 0.68),
        ),
        Genre(
            name="funk", bpm=(92, 122), moods=("groovy", "energetic", "playful", "happy"),
            progressions=("1D 1D 4D 4D", "1D 1D 1D 1D", "2 5 2 5"), minor_progressions=LOOPS_MINOR,
            leads=("clavinet", "brass section", "electric guitar", "alto saxophone", "organ"),
            comps=("electric guitar", "clavinet", "electric piano", "muted guitar"),
            comp_patterns=("funk", "stabs", "offbeat"), basses=("slap bass", "electric bass"),
            bass_patterns=("funk", "funk low"), drums=("funk", "funk sixteenth"), drum_share=0.92,
            modes=("dorian", "mixolydian"), solo_share=0.02, sevenths=True, swing=(0.5, 0.55),
            swing_steps=1, energy=2,
        ),
        Genre(
            name="reggae", bpm=(64, 96), moods=("happy", "calm", "groovy", "peaceful"),
            progressions=("1 4 1 5", "1 5 6 4", "1 2 1 2"), minor_progressions=("1 4 1 4", "1 7 1 7"),
            leads=("organ", "electric guitar", "trumpet", "trombone", "harmonica"),
            comps=("electric guitar", "organ", "piano"), comp_patterns=("skank", "skank double", "oompah"),
            bass_patterns=("reggae", "dub", "syncopated"), drums=("one drop", "steppers"), drum_share=0.88,
            solo_share=0.02,
        ),
        Genre(
            name="classical", bpm=(58, 150),
            moods=("peaceful", "romantic", "playful", "sad", "happy", "tense"), progressions=CLASSIC,
            minor_progressions=CLASSIC_MINOR,
            leads=("piano", "piano", "violin", "cello", "flute", "clarinet", "oboe", "harpsichord",
                "strings"),
            comps=("piano", "harpsichord", "harp", "strings", "pizzicato strings"),
            comp_patterns=("alberti", "arp wave", "half", "quarters"), basses=("cello", "double bass"),
            bass_patterns=("half", "quarters"), drum_share=0.0,
            metres=(*12 * ("4/4",), *6 * ("3/4",), *6 * ("6/8",), *ODD),
            lead_density=("medium", "busy"), solo_share=0.4, jitter_s=0.012, reverb=0.35,
        ),
        Genre(
            name="cinematic", bpm=(60, 140),
            moods=("epic", "dark", "mysterious", "tense", "uplifting", "sad"),
            progressions=("1 5 6 4", "6 4 1 5", "4 1 5 6"),
            minor_progressions=("1 6 3 7", "1 6 4 5", "1 3 6 7"),
            leads=("strings", "french horn", "violin", "choir", "brass section", "piano", "cello"),
            comps=("strings", "choir", "synth strings"),
            comp_patterns=("eighths", "whole", "half", "arp up"), basses=("cello", "double bass"),
            bass_patterns=("whole", "quarters", "eighths"), drums=("epic", "epic slow"),
            kits=("power kit", "room kit"), drum_share=0.45, metres=(*8 * ("4/4",), *4 * ("6/8",), *ODD),
            pads=("choir", "brass section", "french horn"), pad_share=0.5,
            lead_density=("sparse", "medium"), solo_share=0.03, reverb=0.5,
        ),
        Genre(
            name="folk", bpm=(70, 134), moods=("nostalgic", "happy", "peaceful", "sad"),
            progressions=(*POP, "1 4 1 5"), minor_progressions=POP_MINOR,
            leads=("acoustic guitar", "fiddle", "harmonica", "flute", "accordion", "banjo"),
            comps=("acoustic guitar", "classical guitar", "banjo"),
            comp_patterns=("strum", "strum easy", "travis", "picking"), basses=("double bass",),
            bass_patterns=("root fifth", "half"), drums=("folk", "stomp"), drum_share=0.35,
            metres=(*8 * ("4/4",), *4 * ("3/4",), *4 * ("6/8",), *ODD), solo_share=0.25,
        ),
        Genre(
            name="country", bpm=(82, 150), moods=("happy", "nostalgic", "playful", "sad"),
            progressions=("1 4 5 1", "1 1 4 5", "1 5 4 1", "1 6 4 5"), minor_progressions=POP_MINOR,
            leads=("fiddle", "banjo", "electric guitar", "harmonica", "acoustic guitar"),
            comps=("acoustic guitar", "banjo", "piano"), comp_patterns=("train", "strum", "oompah"),
            basses=("electric bass", "double bass"), bass_patterns=("country", "root fifth"),
            drums=("train", "two beat"), drum_share=0.72, metres=("4/4", "4/4", "4/4", "3/4"),
        ),
        Genre(
            name="trap", bpm=(62, 82), moods=("dark", "tense", "mysterious", "energetic"),
            progressions=LOOPS, minor_progressions=("1 1 6 6", "1 6 1 5M", "1 7 6 6"),
            leads=("celesta", "piano", "square synth", "flute", "choir", "harp"),
            comps=("synth pad", "piano", "strings"), comp_patterns=("whole", "half"),
            basses=("synth bass",), bass_patterns=("trap", "trap slide"), drums=("trap", "trap sparse"),
            kits=("analog kit",), drum_share=0.93, modes=("minor", "phrygian", "minor"),
            lead_density=("medium", "riff"), solo_share=0.0, jitter_s=0.001,
        ),
        Genre(
            name="synthwave", bpm=(78, 124), moods=("nostalgic", "dreamy", "energetic", "dark"),
            progressions=POP, minor_progressions=POP_MINOR,
            leads=("saw synth", "square synth", "synth brass"),
            comps=("synth pad", "synth strings", "saw synth"),
            comp_patterns=("whole", "arp sixteen", "arp up"), basses=("synth bass",),
            bass_patterns=("eighths", "octaves", "sixteenths"), drums=("synth drive", "synth wide"),
            kits=("electronic kit", "power kit"), drum_share=0.85, pads=("synth pad", "synth strings"),
            pad_share=0.4, solo_share=0.0, jitter_s=0.001,
            metres=(*16 * ("4/4",), *ODD),
        ),
        Genre(
            name="pop", bpm=(72, 136), moods=("happy", "romantic", "uplifting", "sad", "energetic"),
            progressions=POP, minor_progressions=POP_MINOR,
            leads=("piano", "electric guitar", "saw synth", "acoustic guitar", "marimba", "strings"),
            comps=("piano", "acoustic guitar", "electric piano"),
            comp_patterns=("pop strum", "quarters", "arp wave", "half"),
            basses=("electric bass", "synth bass"), bass_patterns=("pop", "eighths", "whole"),
            drums=("pop", "pop clap"), kits=("standard kit", "electronic kit", "room kit"), drum_share=0.78,
            metres=("4/4", "4/4", "4/4", "4/4", "6/8"), jitter_s=0.005,
        ),
        Genre(
            name="disco", bpm=(108, 130), moods=("happy", "groovy", "uplifting", "energetic"),
            progressions=(*LOOPS, "2 5 1 6"), minor_progressions=("1 4 7 3", "1 7 6 7"),
            leads=("strings", "brass section", "electric guitar", "electric piano", "flute"),
            comps=("electric guitar", "electric piano", "clavinet", "piano"),
            comp_patterns=("funk", "offbeat", "house stabs"), basses=("electric bass", "slap bass"),
            bass_patterns=("octaves", "pop"), drums=("disco",), drum_share=0.93, pad_share=0.35,
            solo_share=0.0, sevenths=True, jitter_s=0.004, energy=2,
        ),
        Genre(
            name="drum and bass", bpm=(164, 180), moods=("energetic", "dark", "tense", "dreamy"),
            progressions=LOOPS, minor_progressions=LOOPS_MINOR,
            leads=("saw synth", "synth pad", "electric piano", "square synth", "piano"),
            comps=("synth pad", "electric piano", "synth strings"),
            comp_patterns=("whole", "lazy", "charleston"), basses=("synth bass",),
            bass_patterns=("syncopated", "trap", "half"), drums=("breakbeat", "breakbeat ghosts"),
            kits=("electronic kit", "standard kit"), drum_share=0.96, lead_density=("sparse", "medium"),
            solo_share=0.0, jitter_s=0.001, energy=2,
        ),
        Genre(
            name="chiptune", bpm=(104, 172), moods=("playful", "happy", "energetic", "tense"),
            progressions=(*POP, "1 7 6 5"), minor_progressions=POP_MINOR, leads=("square synth",),
            comps=("square synth",), comp_patterns=("arp fast", "arp sixteen", "arp up"),
            basses=("square synth", "synth bass"), bass_patterns=("octaves", "eighths"), drums=("chip",),
            kits=("analog kit", "electronic kit"), drum_share=0.65, lead_density=("busy", "medium", "riff"),
            solo_share=0.12, jitter_s=0.0, reverb=0.05,
            metres=(*16 * ("4/4",), *ODD),
        ),
        Genre(
            name="waltz", bpm=(84, 176), moods=("romantic", "playful", "nostalgic", "happy"),
            progressions=CLASSIC, minor_progressions=CLASSIC_MINOR,
            leads=("piano", "strings", "accordion", "violin", "clarinet"),
            comps=("piano", "strings", "accordion", "harp"), comp_patterns=("quarters",),
            basses=("double bass",), bass_patterns=("whole",), drums=("pulse",),
            kits=("brush kit",), drum_share=0.25, metres=("3/4",), solo_share=0.2,
        ),
        Genre(
            name="latin", bpm=(86, 132), moods=("energetic", "happy", "groovy", "romantic"),
            progressions=("1 4 5 4", "2 5 1 1", "1 6 2 5"),
            minor_progressions=("1 4 5M 5M", "1 7 6 5M", "1 4 7 3"),
            leads=("trumpet", "piano", "brass section", "flute", "classical guitar", "marimba"),
            comps=("piano", "classical guitar"), comp_patterns=("montuno", "stabs"),
            basses=("double bass", "electric bass"), bass_patterns=("tumbao", "tumbao low"),
            drums=("salsa", "mambo", "cumbia"), drum_share=0.9, solo_share=0.05, energy=2,
        ),
        Genre(
            name="celtic", bpm=(76, 136), moods=("playful", "happy", "nostalgic", "mysterious"),
            progressions=("1 7 1 5", "1 4 5 1", "1 5 4 5"),
            minor_progressions=("1 7 1 7", "1 7 6 7", "1 3 7 1"),
            leads=("fiddle", "tin whistle", "bagpipes", "flute", "harp", "accordion"),
            comps=("acoustic guitar", "harp"), comp_patterns=("strum easy", "picking", "quarters"),
            basses=("double bass",), bass_patterns=("half", "root fifth"), drums=("bodhran", "folk"),
            drum_share=0.5, metres=(*16 * ("6/8",), *8 * ("4/4",), *ODD), modes=("major", "dorian", "mixolydian"),
            lead_density=("busy",), solo_share=0.15,
        ),
        Genre(
            name="lullaby", bpm=(58, 88), moods=("peaceful", "calm", "dreamy", "nostalgic"),
            progressions=CALM, minor_progressions=CALM_MINOR,
            leads=("music box", "celesta", "harp", "piano", "glockenspiel", "kalimba"),
            comps=("harp", "piano", "strings", "music box"), comp_patterns=("arp up", "arp wave", "half"),
            basses=("cello",), bass_patterns=("whole",), drum_share=0.0, metres=("4/4", "3/4", "6/8"),
            modes=("major", "major", "lydian"), lead_density=("sparse", "medium"), solo_share=0.3,
            reverb=0.4, energy=0,
        ),
        Genre(
            name="march", bpm=(96, 132), moods=("epic", "happy", "energetic", "playful"),
            progressions=CLASSIC, minor_progressions=CLASSIC_MINOR,
            leads=("trumpet", "brass section", "piccolo", "trombone", "clarinet", "french horn"),
            comps=("brass section", "french horn"), comp_patterns=("march", "quarters"), basses=("tuba",),
            bass_patterns=("root fifth",), drums=("march", "march roll"),
            kits=("standard kit", "room kit"), drum_share=0.88, solo_share=0.02, energy=2,
        ),
        Genre(
            name="ragtime", bpm=(84, 128), moods=("playful", "happy", "nostalgic"),
            progressions=("1 4 1 5", "1 6M 2M 5", "1 5 1 5"), minor_progressions=CLASSIC_MINOR,
            leads=("piano", "clarinet", "banjo", "trumpet", "xylophone"), comps=("piano",),
            comp_patterns=("ragtime", "oompah"), basses=("tuba", "double bass"),
            bass_patterns=("root fifth",), drums=("two beat", "brushes"), drum_share=0.35, modes=("major",),
            lead_density=("busy",), solo_share=0.4, reverb=0.15,
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
