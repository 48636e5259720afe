"""The orchestra: General MIDI programs by the names people use, with what each can play."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """A General MIDI voice."""

    name: str
    program: int  # 0-127
    family: str
    low: int  # MIDI pitch
    high: int
    sustained: bool  # holds a note as long as it is played
    polyphonic: bool  # can accompany itself
    weight: float  # how often it leads when any instrument may

    @property
    def centre(self) -> float:
        """Where its melodies lie."""
        return self.low + 0.58 * (self.high - self.low)


# name: program, family, lowest and highest pitch, s(ustained) p(olyphonic), weight as a lead
_TABLE = """
piano: 0, keys, 48, 86, p, 6
electric piano: 4, keys, 48, 84, p, 3
harpsichord: 6, keys, 48, 84, p, 2
clavinet: 7, keys, 45, 79, p, 1
celesta: 8, mallets, 60, 96, p, 1
glockenspiel: 9, mallets, 67, 98, p, 1.5
music box: 10, mallets, 60, 91, p, 2
vibraphone: 11, mallets, 55, 86, p, 2.5
marimba: 12, mallets, 48, 84, p, 2
xylophone: 13, mallets, 65, 94, p, 1.5
tubular bells: 14, mallets, 60, 77, p, 1
dulcimer: 15, mallets, 55, 84, p, 1
organ: 16, organ, 48, 82, sp, 2.5
rock organ: 18, organ, 48, 82, sp, 1
church organ: 19, organ, 48, 82, sp, 1.5
accordion: 21, accordion, 53, 86, sp, 2
harmonica: 22, woodwind, 60, 86, s, 2
classical guitar: 24, guitar, 43, 79, p, 3
acoustic guitar: 25, guitar, 43, 79, p, 3.5
jazz guitar: 26, guitar, 45, 79, p, 2
electric guitar: 27, guitar, 45, 80, p, 2.5
muted guitar: 28, guitar, 45, 72, p, 0.5
overdriven guitar: 29, guitar, 45, 82, sp, 1.5
distorted guitar: 30, guitar, 43, 80, sp, 2.5
double bass: 32, bass, 28, 55, p, 0.3
electric bass: 33, bass, 28, 55, p, 0.5
fretless bass: 35, bass, 28, 55, p, 0.3
slap bass: 36, bass, 28, 55, p, 0.4
synth bass: 38, bass, 28, 55, s, 0.5
violin: 40, strings, 57, 90, s, 4
viola: 41, strings, 50, 80, s, 1
cello: 42, strings, 40, 70, s, 3
pizzicato strings: 45, plucked, 48, 84, p, 1.5
harp: 46, plucked, 48, 88, p, 2.5
timpani: 47, percussion, 40, 55, p, 0
strings: 48, strings, 48, 86, sp, 3
synth strings: 50, synth, 48, 84, sp, 0.8
choir: 52, voice, 50, 79, sp, 2
trumpet: 56, brass, 56, 82, s, 3
trombone: 57, brass, 44, 70, s, 1.5
tuba: 58, brass, 30, 55, s, 0.4
muted trumpet: 59, brass, 56, 80, s, 1
french horn: 60, brass, 45, 74, s, 2
brass section: 61, brass, 48, 79, sp, 2
synth brass: 62, synth, 48, 79, sp, 1
soprano saxophone: 64, woodwind, 57, 84, s, 1
alto saxophone: 65, woodwind, 52, 79, s, 2
tenor saxophone: 66, woodwind, 46, 74, s, 2.5
oboe: 68, woodwind, 60, 86, s, 1.5
english horn: 69, woodwind, 53, 77, s, 0.6
bassoon: 70, woodwind, 38, 65, s, 0.8
clarinet: 71, woodwind, 52, 84, s, 2.5
piccolo: 72, woodwind, 74, 98, s, 0.8
flute: 73, woodwind, 60, 91, s, 4
recorder: 74, woodwind, 62, 88, s, 1
pan flute: 75, woodwind, 60, 86, s, 1.5
tin whistle: 78, woodwind, 67, 93, s, 1
ocarina: 79, woodwind, 62, 88, s, 0.8
square synth: 80, synth, 52, 86, s, 2.5
saw synth: 81, synth, 50, 84, s, 3
synth pad: 89, synth, 48, 80, sp, 2
sitar: 104, plucked, 48, 77, p, 1.5
banjo: 105, plucked, 48, 80, p, 1.5
koto: 107, plucked, 50, 82, p, 1
kalimba: 108, mallets, 57, 84, p, 1.5
bagpipes: 109, woodwind, 58, 79, s, 0.8
fiddle: 110, strings, 57, 88, s, 1.5
steel drums: 114, mallets, 57, 84, p, 1.5
"""


def _parse(line: str) -> Instrument:
    name, _, rest = line.partition(": ")
    program, family, low, high, flags, weight = rest.split(", ")
    return Instrument(name, int(program), family, int(low), int(high), "s" in flags, "p" in flags, float(weight))


INSTRUMENTS: dict[str, Instrument] = {
    instrument.name: instrument for instrument in map(_parse, _TABLE.strip().splitlines())
}

KITS: dict[str, int] = {
    "standard kit": 0,
    "room kit": 8,
    "power kit": 16,
    "electronic kit": 24,
    "analog kit": 25,
    "jazz kit": 32,
    "brush kit": 40,
}
