"""The vocabulary of captions: many words for each thing, and those kept out of training for evaluation.

Each line of a table is `thing: training words | held-out words`, continued on indented lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """Ways to say one thing."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


def _split(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _parse(table: str) -> dict[str, Words]:
    words = {}
    for line in table.strip().replace("\n  ", " ").splitlines():
        thing, _, rest = line.partition(": ")
        training, _, held_out = rest.partition("|")
        assert "|" not in held_out, thing
        words[thing] = Words(_split(training), _split(held_out))
    return words


GENRES = _parse("""
lo-fi hip hop: lo-fi hip hop, lofi hip hop, lofi, lo-fi, chillhop, lo-fi hip hop beat, lofi beat,
  low-fi hip hop, lo-fi beats, dusty hip hop, mellow hip hop beat, tape-hiss beats, chill beats, study beats
  | chilled hip hop, low fidelity hip hop
ambient: ambient, ambient music, ambient soundscape, drone, atmospheric music,
  soundscape, drones, ambient pads, textural music, space music, new age | background textures, floating soundscape
house: house, house music, deep house, dance music, club music, EDM,
  house beat, disco house, progressive house, club tune, four-on-the-floor house
  | dance floor music, electronic dance tune
techno: techno, techno music, electronic music, minimal techno, rave,
  techno beat, detroit techno, acid techno, industrial techno, trance | underground techno, warehouse rave
rock: rock, rock music, rock song, rock and roll, rock band,
  classic rock, indie rock, alternative rock, stadium rock, rock tune | garage rock, rock anthem
metal: metal, heavy metal, metal song, metal music, hard rock,
  thrash metal, metalcore, doom metal, power metal, metal riffs | headbanging metal, crushing metal
punk: punk, punk rock, pop punk, punk song,
  two-chord punk, skate punk, street punk, hardcore punk, punk tune, power-chord punk | three-chord punk
jazz: jazz, jazz music, swing jazz, swing, jazz tune,
  bebop, cool jazz, big band jazz, jazz club music, jazz combo | smoky jazz, jazz standard
bossa nova: bossa nova, bossa, brazilian jazz, brazilian music,
  soft samba, samba, bossa nova tune, rio beach music | samba jazz
blues: blues, the blues, blues song, blues jam, blues music,
  chicago blues, twelve-bar blues, blues tune, blues shuffle | delta blues, juke joint blues
funk: funk, funk music, funky groove, funky music,
  funk jam, funk groove, soul funk, funk tune | get-down funk
reggae: reggae, reggae music, roots reggae, dub, jamaican music,
  reggae tune, island music, rocksteady, dancehall, reggae groove | caribbean reggae
classical: classical, classical music, classical piece, chamber music,
  concert music, baroque music, sonata, concerto, art music | recital music, classical masterpiece
cinematic: cinematic, cinematic music, film score, film music, movie soundtrack, soundtrack, trailer music,
  score, movie music, film soundtrack, cinema music, blockbuster score | motion picture score, movie theme
folk: folk, folk music, folk song, folk tune,
  roots folk, traditional folk, folk ballad, singer-songwriter music | campfire folk, americana
country: country, country music, country song, bluegrass,
  country tune, country ballad, western music, country and western | nashville country, honky-tonk
trap: trap, trap beat, hip hop, rap beat, trap music,
  trap instrumental, rap instrumental, drill beat, hip hop beat | 808 trap, hip-hop instrumental
synthwave: synthwave, retrowave, 80s synth music, synthpop, eighties electronic music,
  retro synth music, vaporwave, darkwave, eighties synth pop, new wave | outrun, neon eighties synths
pop: pop, pop music, pop song, pop tune,
  pop hit, mainstream pop, top 40 pop, commercial pop, pop single | chart pop, radio hit
disco: disco, disco music, 70s disco, funky disco,
  disco tune, disco hit, glitter ball disco | nu-disco, seventies dance floor
drum and bass: drum and bass, drum & bass, dnb, jungle,
  drum'n'bass, jungle beat, breakbeat, neurofunk | d&b, liquid drum and bass
chiptune: chiptune, 8-bit music, 8-bit, video game music, retro game music, chip music,
  nes music, pixel music, console game music, 8-bit tune, bleepy game music | game boy tune, 16-bit arcade tune
waltz: waltz, waltz music, waltz dance, a dance in three,
  viennese waltz, waltz tune, waltz in 3/4 | ballroom waltz
latin: latin, latin music, salsa, mambo, cuban music,
  merengue, cumbia, latin tune, tropical music, cha-cha, rumba | latin dance, havana night
celtic: celtic, celtic music, irish music, irish folk, scottish music,
  irish jig, reel, irish tune, highland music, celtic tune | gaelic tune, irish pub session
lullaby: lullaby, cradle song, music for a baby, children's lullaby,
  nursery song, goodnight song, nursery tune, song for a baby | bedtime song, baby sleep music
march: march, military march, parade music, marching music,
  military music, marching tune, processional, marching song | parade ground march
ragtime: ragtime, ragtime music, rag, saloon music,
  ragtime tune, rag time, old-time rag | scott joplin style
""")

MOODS = _parse("""
happy: happy, cheerful, joyful, sunny, bright, feel-good,
  happy, gleeful, jovial, delighted, smiling, glad, jubilant, carefree, good-humoured, sunshiny, upbeat
  | cheery, joyous
uplifting: uplifting, hopeful, inspiring, positive, optimistic,
  uplifting, encouraging, heartening, rousing, life-affirming, soaring, elevating, comforting, bright and hopeful
  | heart-lifting, motivational
playful: playful, fun, quirky, light-hearted, funny,
  playful, cheeky, silly, comical, humorous, impish, amusing, zany, cartoonish, bubbly, teasing, childlike
  | whimsical, mischievous
groovy: groovy, funky, laid-back groove, catchy, danceable,
  groovy, swinging, syncopated, head-nodding, infectious, hip-shaking, strutting, foot-stomping, slinky | toe-tapping
energetic: energetic, powerful, driving, intense, high-energy, exciting,
  energetic, dynamic, pumping, fiery, explosive, hard-hitting, pounding, electrifying, thrilling, wild, spirited,
  action-packed, raging, hyperactive | vigorous, adrenaline
epic: epic, heroic, grand, majestic, powerful, dramatic,
  epic, monumental, colossal, mighty, glorious, sweeping, legendary, noble, imposing, mythic, grandiose, regal,
  valiant
  | larger than life, triumphant
peaceful: peaceful, serene, tranquil, quiet, soothing, gentle,
  peaceful, still, hushed, pastoral, meditative, untroubled, harmonious, idyllic, lulling, lulled | restful, placid
calm: calm, relaxing, chill, mellow, soft, relaxed,
  calm, easy, unwinding, smooth, mild, low-key, sedate, subdued, snug, comfy, easy listening | easygoing, laid back
dreamy: dreamy, ethereal, floating, atmospheric, spacey,
  dreamy, trancelike, weightless, surreal, drifting, starry, gauzy, hypnotic, cosmic, angelic, heavenly, shimmering
  | otherworldly, hazy
romantic: romantic, tender, loving, warm, intimate,
  romantic, amorous, passionate, for lovers, heartfelt, sweet, love song, sensual, adoring, for valentine's day
  | lovey-dovey, affectionate
nostalgic: nostalgic, wistful, bittersweet, vintage, reflective,
  nostalgic, retro, homesick, yearning, old-time, remembering, faded, old-fashioned, childhood memories, yesteryear
  | longing for old days, sentimental
melancholic: melancholic, melancholy, sad, moody, gloomy,
  melancholic, downcast, pensive, forlorn, lonesome, somber, plaintive, autumnal, dejected, grey, weary
  | heavy-hearted, blue
sad: sad, sorrowful, melancholic, emotional, mournful,
  sad, crying, weeping, grieving, tragic, heartbreaking, unhappy, sombre, lamenting, elegiac, desolate, depressing
  | tearful, heartbroken
dark: dark, ominous, brooding, sinister, moody,
  dark, evil, bleak, haunted, doom-laden, black, gothic, malevolent, threatening, foreboding, nocturnal, demonic
  | menacing, shadowy
mysterious: mysterious, eerie, suspenseful, strange, enigmatic,
  mysterious, uncanny, secretive, haunting, puzzling, arcane, veiled, weird, occult, mystic, unsettling, foggy
  | spooky, cryptic
tense: tense, suspenseful, urgent, anxious, nervous,
  tense, jittery, stressful, uneasy, restless, gripping, alarming, ticking, panicky, high-stakes, agitated
  | nail-biting, edgy
""")

TEMPOS = _parse("""
slow: slow, slow tempo, relaxed tempo, laid-back tempo, downtempo, not fast, slow-paced, slowly, slow-moving, easy pace,
  gentle pace, relaxed pace, lazy, languid, unrushed, in no rush, dragging, casual pace, ballad tempo,
  slow, slow, slow tempo, slower, very slow, gradual, plodding, crawling, ponderous, taking its time, dawdling,
  lumbering, adagio, largo, lento, glacial, ambling, in slow motion, idling, inching along, drowsy, sedate tempo,
  patient, with plenty of time, not hurrying, without haste, not in a hurry, unpressed
  | unhurried, leisurely
medium: mid-tempo, medium tempo, moderate tempo, moderate, not too fast, not too slow, in between, moderately paced,
  average tempo, medium speed, not fast and not slow, between slow and fast, walking pace,
  neither rushed nor dragging,
  mid-tempo, medium tempo, moderato, mid-paced, middle tempo, comfortable tempo, normal speed, regular tempo,
  standard tempo, jogging pace, even-paced, midtempo, ordinary tempo, of middling speed, moderate speed
  | neither fast nor slow, medium pace
fast: fast, uptempo, up-tempo, quick, fast tempo, fast-paced, not slow, brisk, quickly, lively tempo, high speed,
  racing, rushing, high tempo,
  fast, fast, fast tempo, faster, very fast, quick, allegro, presto, vivace, zippy, hasty, breakneck, blazing,
  breathless,
  galloping, sprinting, whirlwind, double-time, at full speed, full throttle, accelerated, turbo, hectic, nippy, pacy,
  super quick, dashing, hurtling, lightning-quick, frenzied, express, with speed, flying along, urgent pace, in a
  hurry
  | rapid, speedy
""")

# A word said of any instrument of the family.
FAMILIES: dict[str, tuple[str, ...]] = {
    "brass": ("brass", "horns"),
    "woodwind": ("woodwinds", "wind instrument"),
    "mallets": ("mallets", "mallet percussion"),
    "guitar": ("guitar", "guitar", "guitars"),
    "strings": ("string instrument", "strings"),
    "synth": ("synth", "synthesizer", "synths"),
    "organ": ("organ",),
    "keys": ("keyboard", "keys"),
    "bass": ("bass",),
    "accordion": ("accordion", "squeezebox"),
    "voice": ("voices",),
    "plucked": ("plucked strings",),
}

INSTRUMENTS = _parse("""
piano: piano, piano, grand piano, acoustic piano | pianist, pianoforte
electric piano: electric piano, rhodes, e-piano, electric keys | fender rhodes, wurlitzer
harpsichord: harpsichord, cembalo | baroque keyboard
clavinet: clavinet, clav | funky clavi
vibraphone: vibraphone, vibes | vibraharp
music box: music box, musical box | wind-up music box
glockenspiel: glockenspiel, bells | orchestral bells
tubular bells: tubular bells, bells, chimes | church bells
organ: organ, hammond organ, electric organ | hammond b3
church organ: church organ, pipe organ | cathedral organ
harmonica: harmonica, blues harp, mouth organ | mouth harp
classical guitar: classical guitar, nylon guitar, spanish guitar, guitar, nylon-string guitar
  | flamenco guitar
acoustic guitar: acoustic guitar, steel-string guitar, guitar, folk guitar | acoustic six-string
jazz guitar: jazz guitar, guitar, hollow-body guitar | archtop guitar
electric guitar: electric guitar, clean electric guitar, guitar, clean guitar | telecaster
overdriven guitar: overdriven guitar, electric guitar, overdriven electric guitar, guitar | crunchy guitar
distorted guitar: distorted guitar, electric guitar, distortion guitar, heavy guitar, guitar
  | fuzz guitar, shredding guitar
double bass: double bass, upright bass, acoustic bass, bass | contrabass
electric bass: electric bass, bass guitar, bass | bass player
synth bass: synth bass, bass, electronic bass | bassline synth
violin: violin | violinist
cello: cello, violoncello | cellist
harp: harp, concert harp | harpist
pizzicato strings: pizzicato strings, pizzicato, plucked strings | strings played with fingers
strings: strings, string section, string orchestra, orchestra strings, string ensemble
  | violins and cellos, symphonic strings
synth strings: synth strings, string synth, string machine | solina strings
choir: choir, vocal choir, choir aahs, voices | chorus of singers, chanting
trumpet: trumpet | trumpeter
muted trumpet: muted trumpet, trumpet with mute, trumpet | harmon mute trumpet
french horn: french horn, horn | hunting horn
brass section: brass section, brass, horn section, horns | trumpets and trombones
synth brass: synth brass, brass synth | jump-style synth brass
soprano saxophone: soprano saxophone, soprano sax, saxophone, sax | straight sax
alto saxophone: alto saxophone, alto sax, saxophone, sax | saxophonist
tenor saxophone: tenor saxophone, tenor sax, saxophone, sax | sax player
flute: flute, concert flute | flautist, transverse flute
tin whistle: tin whistle, penny whistle, whistle | irish whistle
square synth: square synth, chip lead, synth lead, square wave, synth | beeping synth, pulse wave
saw synth: saw synth, synth lead, sawtooth synth, lead synth, synth, synthesizer | supersaw, buzzing synth
synth pad: synth pad, pad, warm pad, synth, soft synth | lush pads
fiddle: fiddle, folk violin, violin | fiddler
steel drums: steelpan, steel pan | calypso pan
kalimba: kalimba, thumb piano | mbira
bagpipes: bagpipes, bagpipe, pipes | highland pipes
accordion: accordion, squeezebox | concertina
""")

METRES = _parse("""
4/4: 4/4 time, 4/4, in 4/4, in four
3/4: 3/4 time, 3/4, in 3/4, in three, waltz time
6/8: 6/8 time, 6/8, in 6/8, 6/8 feel
5/4: 5/4 time, 5/4, in 5/4, in five, odd meter, odd metre, odd time signature
7/8: 7/8 time, 7/8, in 7/8, in seven, odd meter, odd metre, odd time signature
""")
ODD_METRES = ("5/4", "7/8")

DRUMS = Words(
    (
        "with drums",
        "drums",
        "drum beat",
        "with a drum beat",
        "with a beat",
        "with percussion",
        "drum groove",
        "drum kit",
        "drums and percussion",
        "live drums",
        "heavy drums",
        "punchy drums",
        "with a steady beat",
        "kick and snare",
        "a strong beat",
        "plus drums",
        "backed by drums",
    ),
    ("and a drummer", "driven by a drum set", "with rhythmic drumming"),
)
NO_DRUMS = Words(
    (
        "no drums",
        "without drums",
        "drumless",
        "no drum beat",
        "no percussion",
        "without percussion",
        "without a drum kit",
        "without any drums",
        "but no drums",
        "no beat",
        "without a beat",
        "minus the drums",
        "skip the drums",
        "take out the drums",
        "remove the drums",
        "don't use drums",
        "not a single drum",
        "zero drums",
        "percussion-free",
        "nothing percussive",
        "no kick or snare",
        "no beats",
        "free of drums",
        "lacking drums",
        "no rhythm section",
        "without rhythm section",
        "drums off",
    ),
    ("drum-free", "leave out the drums", "beatless"),
)

SOLO = (
    "solo {}", "{} solo", "just {}", "only {}", "{} alone", "a lone {}", "a single {}", "{} on its own",
    "{} with no other instruments", "{} without accompaniment", "one {} and no band", "{} all alone",
    "{} playing alone", "{} by herself", "{} on his own", "{} without a band", "no other instrument than {}",
)  # fmt: skip

ENERGY = {"low": "low energy", "medium": "balanced energy", "high": "high energy"}

# Textures that the instruments decide.
ORCHESTRAL = ("orchestral", "orchestra", "symphonic")
ACOUSTIC = ("acoustic", "unplugged", "acoustic instruments")
ELECTRONIC = ("electronic", "synthetic", "all synths")
DUOS = ("duet", "duo")
DRUMS_ONLY = ("drum solo", "only drums", "just drums", "drums only", "solo drums")
ELECTRIC_NAMES = frozenset(
    _split(
        "electric piano, clavinet, organ, rock organ, jazz guitar, electric guitar, muted guitar,"
        "overdriven guitar, distorted guitar, electric bass, fretless bass, slap bass, synth bass"
    )
)

# Uses suit moods and energies: (word, moods it suits).
USES: tuple[tuple[str, frozenset[str]], ...] = (
    ("to study to", frozenset({"calm", "peaceful", "dreamy", "nostalgic", "melancholic"})),
    ("to relax to", frozenset({"calm", "peaceful", "dreamy", "romantic"})),
    ("for sleep", frozenset({"calm", "peaceful", "dreamy"})),
    ("for meditation", frozenset({"calm", "peaceful", "dreamy"})),
    ("for a video game", frozenset({"playful", "epic", "tense", "energetic", "mysterious", "happy", "dark"})),
    ("for a film scene", frozenset({"epic", "sad", "tense", "mysterious", "romantic", "dark", "uplifting"})),
    ("for a horror game", frozenset({"dark", "mysterious"})),
    ("for a party", frozenset({"happy", "groovy", "energetic"})),
    ("to dance to", frozenset({"groovy", "energetic", "happy"})),
    ("for a workout", frozenset({"energetic"})),
    ("for a wedding", frozenset({"romantic"})),
    ("for a commercial", frozenset({"happy", "uplifting", "playful", "groovy"})),
    ("background music", frozenset({"calm", "peaceful", "happy", "romantic", "nostalgic", "groovy"})),
    ("for a podcast", frozenset({"calm", "groovy", "uplifting", "nostalgic"})),
)
HELD_OUT_USES = ("to read a book to", "for my travel vlog", "for a coffee shop")


# How a wish is put; the rest of the caption stands where the braces are.
REQUESTS = (
    "make {}", "create {}", "generate {}", "play {}", "play me {}", "produce {}", "{} please", "a track of {}",
    "I would like {}", "I'd love {}", "I need {}", "can you make {}?", "let me hear {}", "can I get {}", "{}, thanks",
    "make it {}", "how about {}", "we want {}", "a short clip of {}", "some {}", "my favourite: {}", "{} for me",
)  # fmt: skip


def instrument(name: str) -> Words:
    return INSTRUMENTS.get(name, Words((name,), ()))


def all_ways() -> Iterator[Words]:
    """Of all things that have held-out words."""
    for table in (GENRES, MOODS, TEMPOS, INSTRUMENTS, METRES):
        yield from table.values()
    yield from (DRUMS, NO_DRUMS)


def said() -> Iterator[str]:
    """All that captions say of music; how they put it is in `captions`."""
    for each in all_ways():
        yield from each.training
    for ways in (*FAMILIES.values(), SOLO, ORCHESTRAL, ACOUSTIC, ELECTRONIC, DUOS, DRUMS_ONLY, REQUESTS):
        yield from ways
    yield from ENERGY.values()
    yield from (use for use, _ in USES)
