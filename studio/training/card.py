"""The bundle's card: text, and an evaluation's figures, the most telling first, each beside what to judge it by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD = "README.md"
MEASURED = "<!-- measured -->"  # the figures follow it

Figures = dict[str, Any]


@dataclass(frozen=True)
class Headline:
    """A figure, where it is in an evaluation, and what belongs beside it."""

    title: str
    at: str
    beside: str
    what: str  # is beside it
    form: str = ".0%"


CODECS = {"codec": "this codec, 2 kbit/s", "opus_12": "Opus, 12 kbit/s", "opus_16": "Opus, 16 kbit/s"}
HEADLINES = (
    Headline("genre as asked for", "adherence.genre.heard", "adherence.genre.by_chance", "by chance"),
    Headline("lead instrument's family", "adherence.lead.heard", "adherence.lead.by_chance", "by chance"),
    Headline("drums or none", "adherence.drums.heard", "adherence.drums.by_chance", "by chance"),
    Headline("slow, medium or fast", "adherence.tempo.heard", "adherence.tempo.by_chance", "by chance"),
    Headline("a solo has no drums", "solo.without_drums", "solo.by_chance", "where prompts do not say"),
    Headline("a named tempo within 6%", "named_tempo.generated.kept", "named_tempo.training_music.kept", "music"),
    Headline("an unseen word moves like its neighbour", "words.alike", "words.by_chance", "others' neighbours"),
    Headline("with an ending ends", "ends.asked", "ends.training_music", "music"),
    Headline("tempo drifts under 2%", "long.generated.steady", "long.training_music.steady", "music"),
    Headline("in a key", "long.generated.key", "long.training_music.key", "music", ".2f"),
    Headline("Fréchet distance", "frechet.generated", "frechet.held_out", "music", ".0f"),
    Headline("the codec's buzz", "codec.codec.buzz", "codec.music.buzz", "music", ".2f"),
    Headline("loss with prompts, nats a code", "loss.held_out_prompt", "loss.held_out_null", "without", ".3f"),
)


def write(assets: Path, text: str) -> None:
    """The card, with the measurements that it already holds."""
    path = assets / CARD
    measured = path.read_text("utf-8").partition(MEASURED)[2] if path.exists() else "\n\nNot measured yet.\n"
    path.write_text(f"{text}{MEASURED}{measured}", "utf-8")


def write_measurements(assets: Path, table: str) -> None:
    """Replace the card's measurements."""
    path = assets / CARD
    path.write_text(f"{path.read_text('utf-8').partition(MEASURED)[0]}{MEASURED}\n\n{table}", "utf-8")


def before(path: Path, version: str) -> Figures | None:
    """The headlines of the version before, from what its evaluation left in `path`."""
    if not path.exists():
        return None
    left = json.loads(path.read_text("utf-8"))
    if left.get("version") == version:
        earlier: Figures | None = left.get("before")
        return earlier
    known = {headline.at: _at(left, headline.at) for headline in HEADLINES}
    return {"version": left.get("version", "before")} | {at: value for at, value in known.items() if value is not None}


def tables(found: Figures) -> str:
    """What follows the card's description."""
    parts = (_headlines, _adherence, _music, _whole, _memory, _controls, _codec, _words)
    return "\n\n".join("\n".join(part(found)) for part in parts) + "\n"


def _headlines(found: Figures) -> Iterator[str]:
    earlier = found["before"] or {}
    yield from _head("", found["version"], earlier.get("version", "before"), "beside it")
    for each in HEADLINES:
        now, beside, then = _at(found, each.at), _at(found, each.beside), earlier.get(each.at)
        yield _row(
            each.title, f"{now:{each.form}}", "–" if then is None else f"{then:{each.form}}",
            f"{beside:{each.form}} {each.what}",
        )  # fmt: skip
    yield ""
    judged = "was judged by the same judge" if earlier.get("judged_again") else "has the figures of its own evaluation"
    yield f"The version before {judged}. What each means stands below."


def _adherence(found: Figures) -> Iterator[str]:
    settings = found["settings"]
    drums = ", ".join(f"{wish} {share:.0%}" for wish, share in found["adherence"]["drums"]["of_each"].items())
    yield (
        f"{settings['prompts']} prompts in wordings that no caption has, {settings['seeds']} clips of "
        f"{settings['seconds']:g} s each. The judge learned from other music than the model, rendered with two "
        f"soundfonts. By chance: clips of any prompts. Of clips asked for drums or none, so many are: {drums}."
    )
    yield ""
    yield from _head("asked for", "clips", "heard", "each seed", "by chance", "the judge, of music through the codec")
    for name, row in found["adherence"].items():
        seeds = ", ".join(f"{share:.0%}" for share in row["of_each_seed"])
        judge = f"{found['judge_accuracy'][name]:.0%}"
        yield _row(name, row["asked"], f"{row['heard']:.0%}", seeds, f"{row['by_chance']:.0%}", judge)
    kept = found["named_tempo"]
    yield ""
    yield (
        f"Of {settings['tempo_prompts']} clips whose prompts name a tempo, {kept['generated']['kept_or_octave']:.0%} "
        f"keep it if twice or half of it counts; of held-out music {kept['training_music']['kept_or_octave']:.0%}."
    )


def _music(found: Figures) -> Iterator[str]:
    distance = found["frechet"]
    yield "Pulse: the onsets' autocorrelation at the beat, 0.09 for noise. Key: correlation with the best of 24."
    yield ""
    yield from _head("", "level, dBFS", "flatness", "silent", "clipped", "pulse", "onsets a second", "key")
    for title, row in (("generated", found["outputs"]), ("training music", found["training_music"])):
        yield _row(
            title, f"{row['level_db']:.1f}", f"{row['flatness']:.4f}", f"{row['silent']:.1%}", f"{row['clipped']:.2%}",
            f"{row['pulse']:.2f}", f"{row['onsets']:.1f}", f"{row['key']:.2f}",
        )  # fmt: skip
    yield ""
    yield (
        f"Fréchet distance of the judge's hidden layer to half of the held-out music, {distance['clips']} clips on "
        f"each side: generated {distance['generated']:.0f}, the other half {distance['held_out']:.0f}, the other half "
        f"through the codec {distance['held_out_coded']:.0f}."
    )


def _whole(found: Figures) -> Iterator[str]:
    long, ends = found["long"], found["ends"]
    yield (
        f"{long['generated']['clips']} clips of {found['settings']['long_seconds']:g} s. Drift: of the tempo from the "
        "first to the last third. Repeats: how much more alike the music is to itself some bars later than at any "
        "distance. Sections: Foote's novelty. Both in brackets with its seconds shuffled. Collapsed: the last third "
        "silent, noise or nearly without onsets."
    )
    yield ""
    yield from _head("", "drifts under 2%", "median drift", "key", "repeats", "sections", "collapsed")
    for title, row in (("generated", long["generated"]), ("training music", long["training_music"])):
        yield _row(
            title, f"{row['steady']:.0%}", f"{row['median_drift']:.1%}", f"{row['key']:.2f}",
            f"{row['repeats']:.2f} ({row['repeats_shuffled']:.2f})",
            f"{row['sections']:.2f} ({row['sections_shuffled']:.2f})", f"{row['collapsed']:.0%}",
        )  # fmt: skip
    yield ""
    yield from _head("first third, last third", "silent", "flatness", "onsets a second")
    for title, row in (("generated", long["generated"]), ("training music", long["training_music"])):
        first, last = row["thirds"]["first"], row["thirds"]["last"]
        pairs = ((first[name], last[name], form) for name, form in THIRDS)
        yield _row(title, *(f"{begins:{form}}, {ended:{form}}" for begins, ended, form in pairs))
    yield ""
    yield (
        f"A last chord rings alone and falls away in {ends['asked']:.0%} of {found['settings']['endings']} clips asked "
        f"for with an ending, in {ends['not_asked']:.0%} of the same without; in {ends['training_music']:.0%} of whole "
        f"pieces and {ends['training_music_cut']:.0%} of pieces cut."
    )


THIRDS = (("silence", ".1%"), ("flatness", ".4f"), ("onsets", ".1f"))


def _memory(found: Figures) -> Iterator[str]:
    one, long, settings = found["memory"], found["memory_long"], found["settings"]
    prompt = found["one_prompt"]
    yield (
        f"{prompt['outputs']} outputs of “{settings['one_prompt']}”: {prompt['different']} are different, any two have "
        f"at most {prompt['among_themselves']['longest_s']:.2f} s in common, and their spread is "
        f"{prompt['spread']:.2f} of held-out music's. In common: the longest run of equal codes of the first codebook, "
        f"as the decoder wrote them. With any of {one['pieces']} training pieces:"
    )
    yield ""
    yield from _head("", "longest", "median", "held-out music, longest", "median")
    for title, row in ((f"{settings['seconds']:g} s of one prompt", one), (f"{settings['long_seconds']:g} s", long)):
        ours, others = row["generated"], row["held_out"]
        runs = (ours["longest_s"], ours["median_s"], others["longest_s"], others["median_s"])
        yield _row(f"{row['clips']} × {title}", *(f"{seconds:.2f} s" for seconds in runs))


def _controls(found: Figures) -> Iterator[str]:
    guided, various, settings = found["cfg_coef"], found["temperature"], found["settings"]
    yield f"{settings['control_prompts']} prompts at each `cfg_coef`, {settings['seeds']} clips of each:"
    yield ""
    names = [*found["adherence"], "all"]
    yield from _head("heard", *guided)
    for name in names:
        yield _row(name, *(f"{row[name]:.0%}" if name in row else "–" for row in guided.values()))
    yield ""
    yield (
        f"{settings['various_outputs']} outputs of one prompt, mean of {settings['various_prompts']} prompts. Spread: "
        "how far apart they lie in the judge's hidden layer, beside held-out music's as 1. Distinct: of all runs of "
        "four codes of the first codebook, the share of different ones."
    )
    yield ""
    yield from _head("temperature", *various)
    for name in ("spread", "distinct"):
        yield _row(name, *(f"{row[name]:.2f}" for row in various.values()))


def _codec(found: Figures) -> Iterator[str]:
    speed = found["codec_speed"]
    yield (
        f"The codec decodes {speed['times_real_time']:.0f} times faster than real time on {speed['cores']} CPU cores. "
        "Log-mel distance to held-out music, in nepers. Buzz: how far the loudness's modulation at the codec's frame "
        "rate stands out, 1 not at all."
    )
    yield ""
    yield from _head("", *(CODECS.get(name, name) for name in found["codec"]))
    yield _row("log-mel distance", *(f"{row['log_mel']:.3f}" for row in found["codec"].values()))
    yield _row("buzz", *(f"{row['buzz']:.2f}" for row in found["codec"].values()))


def _words(found: Figures) -> Iterator[str]:
    words = found["words"]
    yield (
        f"Words that no caption has, “{{word}} music”, {found['settings']['word_clips']} clips of each, beside a "
        "neighbour in meaning that captions have: how far each moves the measure in which the neighbour moves music "
        "most, in deviations of all these clips from their mean. Major: a major key's fit less a minor key's."
    )
    yield ""
    yield from _head("word", "neighbour", "measure", "neighbour's move", "word's move", "alike")
    for word, row in words["words"].items():
        near = row["neighbours_move"]
        strongest = max(range(len(near)), key=lambda n, near=near: abs(near[n]))  # type: ignore[misc]
        yield _row(
            word, row["neighbour"], words["measures"][strongest], f"{near[strongest]:+.1f}",
            f"{row['move'][strongest]:+.1f}", "yes" if row["alike"] else "no",
        )  # fmt: skip


def _head(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield "|" + "---|" * len(titles)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _at(found: Figures, path: str) -> float | None:
    """The figure at a path, where there is one."""
    value: Any = found
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    figure: float | None = value
    return figure
