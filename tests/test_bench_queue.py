"""The queue's benchmark: it measures what it says, on both databases, and leaves nothing behind."""

from __future__ import annotations

import json

import psycopg
import pytest

from studio.bench import queue
from tests.conftest import PostgresServer


@pytest.mark.postgres
def test_the_bench_says_how_long_each_operation_takes(
    postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres_server.create()
    queue.run(url, depths=(10, 80), samples=4)
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    for database in ("sqlite", "postgresql"):
        assert database in said.err
        figures = result[database]
        assert set(figures) == {"start", "enqueue", "status", "claim", "complete", "holds"}
        assert set(figures["start"]) == {"0", "10", "80", "ratio"}
        for operation in ("enqueue", "status", "claim", "complete"):
            assert 0 < figures[operation]["80"]["p50_ms"] <= figures[operation]["80"]["p99_ms"]
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'bench%'"
        assert connection.execute(query).fetchone() == (0,)
