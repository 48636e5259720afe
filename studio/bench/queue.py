"""How long the queue takes, and that its depth does not show: a thousand jobs waiting against a hundred thousand.

Enqueue, status, claim and completion are timed through the doors that everybody uses, by turns at each depth, so that
whatever else the machine does touches both alike; start-up likewise, with an empty queue besides.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import insert

from studio.bench.postgres import local_server, scratch_schema
from studio.runtime import Studio
from studio.schemas import GenerationRequest, utcnow
from studio.settings import Settings
from studio.store.db import Database
from studio.store.queue import JobQueue, Track
from studio.store.tables import Job, new_job_id, place_at

DEPTHS = (1_000, 100_000)
SAMPLES = 300
STARTS = 15
WARM_UP = 20  # samples that do not count: connections, caches, statements
ARRIVALS_PER_S = 1_000  # how fast the jobs came that wait: in a burst
FILL = 100  # jobs stored in one transaction
RATIO_MAX = 1.5  # of the medians, deep against shallow
CLAIM_P99_MAX_MS = 50.0
LEASE_S = 60.0
REQUEST = GenerationRequest(prompt="slow rain on a tin roof", model="musicgen-mini", seed=7)

T = TypeVar("T")
Times = dict[str, dict[int, list[float]]]  # seconds, by operation and depth


def run(url: str | None = None, depths: tuple[int, int] = DEPTHS, samples: int = SAMPLES) -> bool:
    """Measure on SQLite, and on PostgreSQL: at `url`, or on a throw-away server of what is installed here. Prints a
    table for each and, last, one line of JSON; returns whether the bounds hold.

    Raises:
        DatabaseUnavailable: the server at `url` does not answer.
    """
    out = Console(stderr=not sys.stdout.isatty())
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="studio-bench-")))
        for name, urls in _databases(stack, url, home, len(depths) + 1):
            times = _measure(dict(zip((0, *depths), urls, strict=True)), samples, home, out, name)
            results[name] = _figures(times, depths)
            out.print(_table(name, results[name], depths))
    holds = all(result["holds"] for result in results.values())
    sys.stdout.write(json.dumps({"bench": "queue", "holds": holds, "samples": samples, **results}) + "\n")
    return holds


def _databases(stack: ExitStack, url: str | None, home: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """A name, and the URLs of `count` empty databases of the kind."""
    yield "sqlite", [f"sqlite:///{home / f'{number}.db'}" for number in range(count)]
    server = url or stack.enter_context(local_server())
    if server:
        yield "postgresql", [stack.enter_context(scratch_schema(server)) for _ in range(count)]


class _Bench:
    """A database in which `depth` jobs wait; what is done to it leaves as many."""

    def __init__(self, url: str, depth: int, home: Path) -> None:
        self.settings = Settings(data_dir=home, database_url=url, embedded_worker=False)
        self._database = Database(url)
        self._database.migrate()
        self.queue = JobQueue(self._database)
        self._ids = self._fill(depth)
        self.studio = Studio(self.settings)

    def _fill(self, depth: int) -> list[str]:
        """Let jobs wait as if they had come one by one until now: copies of one, as rows, for the sake of time."""
        if depth == 0:
            return []
        begin = utcnow() - timedelta(seconds=depth / ARRIVALS_PER_S)
        (first,) = JobQueue(self._database, lambda: begin).enqueue([REQUEST])
        values, ids = first.model_dump(exclude={"id"}), [first.job_id]
        for done in range(1, depth, FILL):
            rows = [values | self._arrival(begin, number) for number in range(done, min(done + FILL, depth))]
            with self._database.write() as session:
                session.connection().execute(insert(Job), rows)
            ids += [row["job_id"] for row in rows]
        return ids

    @staticmethod
    def _arrival(begin: datetime, number: int) -> dict[str, Any]:
        came = begin + timedelta(seconds=number / ARRIVALS_PER_S)
        return {"job_id": new_job_id(), "created_at": came, "queued_at": came, "place": place_at(came, 0)}

    def start(self) -> None:
        """A server's start, without a worker."""
        studio = Studio(self.settings)
        studio.start(work=False)
        studio.stop()

    def turn(self, draw: random.Random) -> dict[str, float]:
        """A job comes, somebody asks for one that waits, the next one is taken and completed: seconds of each."""
        took: dict[str, float] = {}

        def timed(operation: str, call: Callable[[], T]) -> T:
            start = time.perf_counter()
            result = call()
            took[operation] = time.perf_counter() - start
            return result

        timed("enqueue", lambda: self.studio.submit(REQUEST))
        asked = draw.choice(self._ids[len(self._ids) // 2 :])  # the first half is claimed, as time goes on
        timed("status", lambda: self.studio.job(asked))
        (claim,) = timed("claim", lambda: self.queue.claim("bench", 1, LEASE_S))
        made = Track(f"{claim.job_id}.wav", 8.0, 32_000, 1, 512_044, "wav", 2.0, "cpu", "fp32")
        timed("complete", lambda: self.queue.complete(claim, made))
        return took

    def close(self) -> None:
        self.studio.stop()
        self._database.close()


def _measure(urls: dict[int, str], samples: int, home: Path, out: Console, name: str) -> Times:
    benches = {}
    for depth, url in urls.items():
        with out.status(f"{name}: {depth} jobs are put in"):
            benches[depth] = _Bench(url, depth, home)
    try:
        return _by_turns(benches, samples, out, name)
    finally:
        for bench in benches.values():
            bench.close()


def _by_turns(benches: dict[int, _Bench], samples: int, out: Console, name: str) -> Times:
    times: Times = defaultdict(lambda: defaultdict(list))
    draw = random.Random(7)
    for _ in range(min(STARTS, samples)):
        for depth, bench in benches.items():
            start = time.perf_counter()
            bench.start()
            times["start"][depth].append(time.perf_counter() - start)
    busy = {depth: bench for depth, bench in benches.items() if depth}
    for number in track(range(WARM_UP + samples), f"{name}: {samples} turns", console=out, transient=True):
        for depth, bench in draw.sample(list(busy.items()), len(busy)):
            turn = bench.turn(draw)
            for operation, seconds in turn.items():
                times[operation][depth] += [seconds] if number >= WARM_UP else []
    return times


def _figures(times: Times, depths: tuple[int, int]) -> dict[str, Any]:
    """Milliseconds by operation and depth, the ratio of the deep to the shallow one, and whether the bounds hold."""
    shallow, deep = depths
    result: dict[str, Any] = {}
    for operation, by_depth in times.items():
        figures: dict[str, Any] = {str(depth): _percentiles(seconds) for depth, seconds in by_depth.items()}
        figures["ratio"] = round(figures[str(deep)]["p50_ms"] / figures[str(shallow)]["p50_ms"], 2)
        result[operation] = figures
    flat = all(figures["ratio"] <= RATIO_MAX for figures in result.values())
    quick = result["claim"][str(deep)]["p99_ms"] <= CLAIM_P99_MAX_MS
    return {**result, "holds": flat and quick}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": round(1000 * cuts[49], 3), "p99_ms": round(1000 * cuts[98], 3)}


def _table(name: str, figures: dict[str, Any], depths: tuple[int, int]) -> Table:
    title = f"{name}: {'holds' if figures['holds'] else 'does not hold'}"
    table = Table(
        "operation", *(f"{part} at {depth:,}" for depth in depths for part in ("p50", "p99")), "ratio", title=title
    )
    for operation, row in figures.items():
        if operation != "holds":
            cells = [f"{row[str(depth)][part]:.2f} ms" for depth in depths for part in ("p50_ms", "p99_ms")]
            table.add_row(operation, *cells, f"{row['ratio']:.2f}")
    return table
