"""Who listens to jobs over HTTP while they are made. No listener holds a thread; all methods run in the event loop.

One format for all: WAV, 16 bits, its header true from the start (`studio.audio.wav`). It needs no encoder, no player
lacks it, its first samples are sound, and the page feeds it to the Web Audio API sample by sample. (Opus in fMP4 would
be a tenth of its size; a studio is on one's own machine or network, where 64 kB a second are nothing.)

A job that waits is worth waiting for: who asks right after `generate` hears the first sound when it is there. Not for
ever, since proxies hang up on the silent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from studio.api.events import Feed
from studio.errors import JobConflict
from studio.runtime import Studio
from studio.schemas import JobStatus, JobView
from studio.streams import Stream

WAIT_S = 25.0  # for the first sound
LOOK_S = 0.5  # how soon is seen that the time is up, or that the server goes down


class Audience:
    """Everybody who listens in one server.

    Args:
        closing: set when the server goes down; whoever waits for sound is told so.
    """

    def __init__(self, studio: Studio, feed: Feed, closing: threading.Event, wait_s: float = WAIT_S) -> None:
        self._studio = studio
        self._feed = feed
        self._closing = closing
        self._wait_s = wait_s

    async def begin(self, job_id: str) -> Stream | JobView:
        """What can be heard of a job, as soon as it can: its stream; or the job, when it has ended.

        Raises:
            JobNotFound; JobConflict when after `wait_s` there is nothing to hear yet.
        """
        deadline = time.monotonic() + self._wait_s
        change = await self._feed.look(job_id)
        with self._woken(job_id) as woken, self._feed.following(change, woken) as latest:
            while True:
                woken.clear()
                if stream := self._studio.stream(job_id):
                    return stream
                job = latest().job
                if job.status.ended:
                    return job
                if time.monotonic() >= deadline or self._closing.is_set():
                    raise JobConflict(_nothing_yet(job))
                await _within(LOOK_S, woken)

    async def audio(self, job_id: str, stream: Stream) -> AsyncIterator[bytes]:
        """All of a stream from its beginning, as it comes; it ends early when its job does."""
        yield stream.header
        heard = 0
        with self._woken(job_id) as woken:
            while not self._closing.is_set():
                woken.clear()
                ended, parts = stream.ended, stream.parts[heard:]  # in this order: nothing comes after the end
                for part in parts:
                    yield part
                heard += len(parts)
                if ended:
                    return
                await _within(LOOK_S, woken)

    @contextmanager
    def _woken(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that the worker's thread sets when there is more of the job to hear, or its end."""
        woken, loop = asyncio.Event(), asyncio.get_running_loop()
        with self._studio.listening(job_id, partial(_set, loop, woken)):
            yield woken


async def _within(seconds: float, woken: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(woken.wait(), seconds)


def _set(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the server is gone: nobody waits
        loop.call_soon_threadsafe(woken.set)


def _nothing_yet(job: JobView) -> str:
    if job.status is JobStatus.PENDING:
        return "The job waits: there is nothing to hear yet. Ask again."
    return f"The job is at {job.current_step}: there is nothing to hear here yet. Ask again."
