"""A job's server-sent events, on a real server and from the feed itself."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from studio import Settings, Studio
from studio.api.events import KEEP_ALIVE, POLL_S, Feed
from studio.errors import DatabaseUnavailable
from studio.schemas import GenerationRequest, JobView, Step
from tests.serving import API, Served, load_slow, served

Event = tuple[str, int, dict[str, Any]]  # name, id, data


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("events"), load_slow) as server:
        yield server


def url(job_id: str) -> str:
    return f"{API}/jobs/{job_id}/events"


def read(lines: Iterator[str]) -> Iterator[Event]:
    """The events in a stream's lines."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], int(fields["id"]), json.loads(fields["data"])
            fields = {}


def events(server: Served, job_id: str, last: int | None = None, most: int = 10_000) -> list[Event]:
    """The job's events, until the stream ends or so many have come."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with server.http.stream("GET", url(job_id), headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [event for event, _ in zip(read(answer.iter_lines()), range(most), strict=False)]


def test_the_stream_shows_each_change_and_ends_with_the_job(slow: Served) -> None:
    seen = events(slow, slow.ask(duration=2))
    order = [step.value for step in Step]
    steps = [order.index(name) for name, _, _ in seen]
    assert steps == sorted(steps)
    assert {"generating", "completed"} <= {name for name, _, _ in seen}
    versions = [version for _, version, _ in seen]
    assert versions == sorted(set(versions))
    progress = [job["progress"] for _, _, job in seen]
    assert progress == sorted(progress)
    assert len(set(progress)) >= 5
    for name, _, job in seen:
        assert name == job["current_step"]
        assert set(job) == set(JobView.model_fields)


def test_an_ended_job_is_one_event_and_then_nothing_more(slow: Served) -> None:
    job_id = slow.ask()
    job = slow.finish(job_id)
    ((name, version, data),) = events(slow, job_id)
    assert (name, data) == ("completed", job)
    again = slow.http.get(url(job_id), headers={"Last-Event-ID": str(version)})
    assert (again.status_code, again.content) == (204, b"")  # a browser that reconnects gives up


def test_a_cancelled_job_says_so_to_its_listeners(slow: Served) -> None:
    job_id = slow.ask(duration=30)
    slow.until(lambda: slow.job(job_id)["current_step"] == "generating")
    threading.Timer(0.5, lambda: slow.studio.cancel(job_id, force=True)).start()
    assert [name for name, _, _ in events(slow, job_id)][-1] == "cancelled"


def test_a_reload_in_mid_generation_goes_on_where_it_was(slow: Served) -> None:
    job_id = slow.ask(duration=2)
    slow.until(lambda: slow.job(job_id)["current_step"] == "generating")
    before = events(slow, job_id, most=2)
    after = events(slow, job_id, last=before[-1][1])
    assert after[0][1] > before[-1][1]
    assert after[0][2]["progress"] > 0
    assert after[-1][0] == "completed"


@pytest.mark.parametrize("nonsense", ["", "abc", "-5", "1e9", "9" * 40, "9" * 18, "²"])
def test_a_last_event_that_never_was_starts_from_now(slow: Served, nonsense: str) -> None:
    job_id = slow.ask()
    slow.finish(job_id)
    answer = slow.http.get(url(job_id), headers={"Last-Event-ID": nonsense.encode()})  # type: ignore[dict-item]
    assert [name for name, _, _ in read(iter(answer.text.splitlines()))] == ["completed"]


def test_two_listeners_see_the_same(slow: Served) -> None:
    job_id = slow.ask(duration=2)
    both: list[list[Event]] = []
    threads = [threading.Thread(target=lambda: both.append(events(slow, job_id))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both[0][-1] == both[1][-1]
    assert len({version for _, version, _ in both[0]} & {version for _, version, _ in both[1]}) >= 5


@pytest.mark.parametrize("job_id", ["gen_0000000000000000", "%00", "x" * 3000])
def test_an_unknown_job_has_no_events(slow: Served, job_id: str) -> None:
    answer = slow.http.get(url(job_id))
    assert (answer.status_code, set(answer.json())) == (404, {"error"})


def test_two_hundred_listeners_cost_the_database_as_much_as_one(slow: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for name in ("version", "changes"):
        count(slow.studio, name, calls, monkeypatch)
    job_id = slow.ask(duration=30)
    before, started = threading.active_count(), time.monotonic()
    names, threads = asyncio.run(listen_all(slow, job_id, listeners=200))
    polls = (time.monotonic() - started) / POLL_S + 1
    assert names == ["cancelled"] * 200
    assert calls["version"] <= polls
    assert calls["changes"] <= 200 + polls  # one for each who comes, then one for all
    assert threads - before < 60


async def listen_all(server: Served, job_id: str, listeners: int) -> tuple[list[str], int]:
    """How each stream ended when the job was cancelled, once all were listening; and the threads by then."""
    here = asyncio.Semaphore(0)

    async def listen(client: httpx.AsyncClient) -> str:
        async with client.stream("GET", url(job_id)) as answer:
            lines = answer.aiter_lines()
            first = await anext(lines)
            here.release()
            seen = [first] + [line async for line in lines]
        return [line.removeprefix("event: ") for line in seen if line.startswith("event: ")][-1]

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        tasks = [asyncio.create_task(listen(client)) for _ in range(listeners)]
        for _ in tasks:
            await here.acquire()
        threads = threading.active_count()
        await asyncio.to_thread(server.studio.cancel, job_id, force=True)
        return await asyncio.gather(*tasks), threads


def count(studio: Studio, name: str, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(studio, name)

    def counted(*arguments: object) -> object:
        calls[name] += 1
        return real(*arguments)

    monkeypatch.setattr(studio, name, counted)


def test_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    with served(tmp_path, load_slow) as server:
        job_id = server.ask(duration=30)
        stopped: list[float] = []
        with server.http.stream("GET", url(job_id)) as answer:
            stream = read(answer.iter_lines())
            next(stream)
            threading.Timer(0.5, lambda: (stopped.append(time.monotonic()), server.close())).start()
            for _ in stream:
                pass
        assert time.monotonic() - stopped[0] < 1.0


# The feed itself


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Studio]:
    """Takes requests; nobody works."""
    studio = Studio(Settings(data_dir=tmp_path))
    studio.start(work=False)
    yield studio
    studio.stop()


async def collect(feed: Feed, job_id: str, most: int) -> list[bytes]:
    stream = feed.events(await feed.look(job_id), seen=-1)
    return [await anext(stream) for _ in range(most)]


def test_a_silent_stream_is_kept_alive(idle: Studio) -> None:
    job_id = idle.submit(GenerationRequest(prompt="sad piano")).job_id
    feed = Feed(idle, threading.Event(), keep_alive_s=0.05)
    first, *rest = asyncio.run(collect(feed, job_id, most=3))
    assert first.startswith(b"event: queued\n")
    assert rest == [KEEP_ALIVE, KEEP_ALIVE]
    assert KEEP_ALIVE.startswith(b":")


def test_a_database_that_was_away_for_a_while_loses_no_change(
    idle: Studio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = idle.submit(GenerationRequest(prompt="sad piano")).job_id
    feed = Feed(idle, threading.Event())
    changes, refused = idle.changes, []

    def sometimes(job_ids: list[str], since: int = -1) -> object:
        if since >= 0 and not refused:
            refused.append(since)
            raise DatabaseUnavailable
        return changes(job_ids, since)

    monkeypatch.setattr(idle, "changes", sometimes)

    async def listen() -> list[bytes]:
        stream = feed.events(await feed.look(job_id), seen=-1)
        first = await anext(stream)
        idle.cancel(job_id)
        return [first] + [event async for event in stream]

    seen = asyncio.run(listen())
    assert [event.split(b"\n")[0] for event in seen] == [b"event: queued", b"event: cancelled"]
    assert refused
    assert "Events are held up: The database does not answer." in caplog.text
