"""Jobs as server-sent events: one poller reads what has changed and feeds everybody who listens.

No listener holds a thread, and the database is asked as often for two hundred as for one. An event's id is the version
of the job's row, its name the job's step, its data the job; changes that follow each other faster than the poller looks
come as one. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi.sse import format_sse_event

from studio.errors import JobNotFound, StudioError
from studio.runtime import Change, Studio

logger = logging.getLogger(__name__)

POLL_S = 0.1
PAUSE_S = 1.0  # when the database does not answer
KEEP_ALIVE_S = 15.0  # proxies hang up on a silent stream after a minute, some after thirty seconds
RECONNECT_MS = 1000
READERS = 4  # threads that read for the listeners, all together
KEEP_ALIVE = format_sse_event(comment="keep-alive")

T = TypeVar("T")


class Feed:
    """Everybody who listens in one server. All methods run in the server's event loop.

    Args:
        closing: set when the server goes down; all streams end then.
    """

    def __init__(self, studio: Studio, closing: threading.Event, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._studio = studio
        self._closing = closing
        self._keep_alive_s = keep_alive_s
        self._readers = CapacityLimiter(READERS)
        self._topics: dict[str, _Topic] = {}
        self._poller: asyncio.Task[None] | None = None
        self._seen = 0  # the topics' jobs are known up to this version

    async def look(self, job_id: str) -> Change:
        """The job as it is now. Raises JobNotFound."""
        found = await self._read(partial(self._studio.changes, [job_id]))
        if not found:
            raise JobNotFound(job_id)
        return found[0]

    async def events(self, change: Change, seen: int) -> AsyncIterator[bytes]:
        """The events of a job from `change` on that are newer than version `seen`, until it has ended."""
        topic, poller = self._join(change)
        try:
            while not poller.done():
                latest, changed = topic.latest, topic.changed
                if latest.version > seen:
                    yield topic.event()
                    seen = latest.version
                if latest.job.status.ended:
                    return
                try:
                    await asyncio.wait_for(changed.wait(), self._keep_alive_s)
                except TimeoutError:
                    yield KEEP_ALIVE
        finally:
            self._leave(topic)

    @contextmanager
    def following(self, change: Change, woken: asyncio.Event) -> Iterator[Callable[[], Change]]:
        """Gives what tells the latest of a job; within the block, `woken` is set whenever there is something new."""
        topic, _ = self._join(change)
        topic.woken.add(woken)
        try:
            yield lambda: topic.latest
        finally:
            topic.woken.discard(woken)
            self._leave(topic)

    def _join(self, change: Change) -> tuple[_Topic, asyncio.Task[None]]:
        # What changed since `change` was read is read again at the next look.
        self._seen = min(self._seen, change.version) if self._topics else change.version
        topic = self._topics.setdefault(change.job.job_id, _Topic(change))
        topic.listeners += 1
        topic.offer(change)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        return topic, self._poller

    def _leave(self, topic: _Topic) -> None:
        topic.listeners -= 1
        if topic.listeners == 0:
            del self._topics[topic.latest.job.job_id]

    async def _poll(self) -> None:
        failing = False
        try:
            while self._topics and not self._closing.is_set():
                try:
                    await self._look()
                    failing = False
                except StudioError as error:
                    if not failing:
                        logger.warning("Events are held up: %s", error)
                    failing = True
                await asyncio.sleep(PAUSE_S if failing else POLL_S)
        finally:
            for topic in self._topics.values():  # whatever ended the poller: nobody waits for it in vain
                topic.tell()

    async def _look(self) -> None:
        version = await self._read(self._studio.version)
        if version == self._seen:
            return
        # In one breath: whoever joins from here on sets `_seen` back, and is looked after next time.
        since, self._seen, job_ids = self._seen, version, list(self._topics)
        try:
            changes = await self._read(partial(self._studio.changes, job_ids, since))
        except StudioError:
            self._seen = min(self._seen, since)
            raise
        for change in changes:
            if change.job.job_id in self._topics:
                self._topics[change.job.job_id].offer(change)

    async def _read(self, ask: Callable[[], T]) -> T:
        return await to_thread.run_sync(ask, limiter=self._readers)


class _Topic:
    """A job that somebody listens to, as it was last seen."""

    def __init__(self, change: Change) -> None:
        self.latest = change
        self.changed = asyncio.Event()  # set when `latest` is no longer the latest
        self.woken: set[asyncio.Event] = set()  # set then, too
        self.listeners = 0
        self._event: tuple[int, bytes] | None = None

    def offer(self, change: Change) -> None:
        if change.version > self.latest.version:
            self.latest = change
            self.tell()

    def tell(self) -> None:
        """Wake all who wait."""
        changed, self.changed = self.changed, asyncio.Event()
        for event in (changed, *self.woken):
            event.set()

    def event(self) -> bytes:
        """`latest` as it goes over the wire, made once for all listeners."""
        version = self.latest.version
        if self._event is None or self._event[0] != version:
            self._event = version, as_event(self.latest)
        return self._event[1]


def as_event(change: Change) -> bytes:
    """`event: generating`, `id: 42`, `data: {"job_id": …}`."""
    return format_sse_event(
        event=change.job.current_step.value,
        id=str(change.version),
        retry=RECONNECT_MS,
        data_str=change.job.model_dump_json(),
    )
