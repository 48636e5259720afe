"""The audio of the jobs that run in this process, while they run, for whoever listens.

The worker pushes what the engine gives out and never waits for anybody: a stream is a list that only grows, each
listener reads it at a pace of its own from the start, and is woken by a call that must not block. What is kept of a job
is bounded by the length that it asked for (30 s of 16-bit samples: 2 MB at 32 kHz and one channel). When its attempt
ends, however it does, its stream is let go: from then on the file is heard, or the next attempt. A job of another
process has no stream here.

Levels: the file's loudness is known when all of it is; a stream takes that of its beginning (`loudness.Leveller`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from studio.audio import wav
from studio.audio.loudness import Leveller
from studio.clip import Clip

Wake = Callable[[], object]  # called by the worker's thread: returns at once, raises nothing


class Stream:
    """The audio of one attempt at a job: a WAV header, and the parts that are there so far."""

    def __init__(self, sample_rate: int, channels: int, duration: float) -> None:
        self.frames = round(duration * sample_rate)  # a channel, when it is complete
        self.header = wav.header(sample_rate, channels, self.frames)
        self.parts: list[bytes] = []  # only grows; nothing follows once `ended`
        self.speed = 0.0  # seconds of music a second, as last measured; 0 while a continuation has only what was given
        self.ended = False
        self._made = 0  # frames
        self._leveller = Leveller()

    def push(self, clip: Clip) -> None:
        """Let the next part be heard."""
        assert self._made + clip.samples.shape[1] <= self.frames, (self._made, clip.samples.shape, self.frames)
        self._made += clip.samples.shape[1]
        self.parts.append(wav.samples(self._leveller.push(clip)))
        self.ended = self._made == self.frames


class Streams:
    """The streams of one process by job. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._listeners: dict[str, list[Wake]] = {}

    # The worker

    def push(self, job_id: str, clip: Clip, duration: float, speed: float) -> None:
        """The next part of a job of `duration` seconds, made at `speed` times real time."""
        with self._lock:
            stream = self._streams.get(job_id)
            if stream is None:
                stream = self._streams[job_id] = Stream(clip.sample_rate, clip.samples.shape[0], duration)
        stream.speed = speed
        stream.push(clip)
        self._wake(job_id)

    def end(self, job_id: str) -> None:
        """The attempt is over: what there is of it stays with those who listen. Unknown jobs are ignored."""
        with self._lock:
            stream = self._streams.pop(job_id, None)
        if stream is not None:
            stream.ended = True
        self._wake(job_id)

    # Listeners

    def get(self, job_id: str) -> Stream | None:
        """The job's stream; none before its first sound, after its end, and of jobs that run elsewhere."""
        with self._lock:
            stream = self._streams.get(job_id)
        return stream if stream and stream.parts else None

    @contextmanager
    def listening(self, job_id: str, wake: Wake) -> Iterator[None]:
        """Within the block, `wake` is called whenever there is more to hear, and at the end."""
        with self._lock:
            self._listeners.setdefault(job_id, []).append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[job_id].remove(wake)
                if not self._listeners[job_id]:
                    del self._listeners[job_id]

    def _wake(self, job_id: str) -> None:
        with self._lock:
            wakes = list(self._listeners.get(job_id, ()))
        for wake in wakes:
            wake()
