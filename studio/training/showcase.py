"""Ten prompts that show what the bundled model does, as small MP3s for the README and the notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from studio.audio.loudness import normalise
from studio.clip import Clip
from studio.schemas import GenerationRequest
from studio.training.measures import SAMPLE_RATE
from studio.training.takes import Musician

KBITS = 64
SECONDS = 12.0
SEED = 1
PROMPTS = {
    "lofi": "lo-fi hip hop beat to study to, 80 bpm",
    "piano": "sad solo piano, slow, no drums",
    "techno": "dark driving techno, 130 bpm, drums",
    "orchestra": "epic cinematic orchestra with french horn",
    "bossa": "relaxed bossa nova with classical guitar and brushes",
    "metal": "fast heavy metal with distorted guitar and double kick drums",
    "celtic": "happy celtic tune with tin whistle and fiddle",
    "chiptune": "playful 8-bit video game music, fast",
    "seven": "folk with accordion in 7/8, lively, with an ending",
    "lullaby": "peaceful music box lullaby, no drums, with an ending",
}


def write(assets: Path, folder: Path) -> list[Path]:
    """Play each prompt and write `<name>.mp3`; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    requests = [GenerationRequest(prompt=prompt, duration=SECONDS, seed=SEED) for prompt in PROMPTS.values()]
    takes = Musician(assets, slots=4).play(requests)
    paths = [folder / f"{name}.mp3" for name in PROMPTS]
    for path, take in zip(paths, takes, strict=True):
        _save(path, normalise(Clip(take.audio[None], SAMPLE_RATE)).samples)
    return paths


def _save(path: Path, samples: npt.NDArray[np.float32]) -> None:
    import av

    with av.open(path, "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono", bit_rate=1000 * KBITS)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
