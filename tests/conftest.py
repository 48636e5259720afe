"""Fixtures that several files share: databases on both servers, and a clock that tests set."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from studio.schemas import utcnow
from studio.store.db import Database
from studio.store.queue import JobQueue

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: threads of two processes wait for each other

PROCESSES_MAX = 4  # torch and audiocraft take a gigabyte in each
WHOLE = ("not slow", "")  # what `-m` says when nobody chose

# What runs in one process, one after the other: a file, or the files that import audiocraft, which takes long.
AUDIOCRAFT = ("codec", "decoder", "training_lm", "weights")
# What takes longest comes first, so that no process waits for the others at the end.
LONGEST = ("browser", "audiocraft", "queue", "endpoints", "training_data", "studio", "rest")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite in a process a core; a part of it in this one, which is sooner at work."""
    chosen = config.option.keyword or config.getoption("lf", False) or config.option.markexpr not in WHOLE
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not chosen
    return min(os.cpu_count() or 1, PROCESSES_MAX) if whole else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(_group(item), len(order)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    name = item.path.stem.removeprefix("test_")
    return "audiocraft" if name in AUDIOCRAFT else name


class Clock:
    """Stands still until somebody moves it."""

    def __init__(self) -> None:
        self.time = utcnow()

    def __call__(self) -> datetime:
        return self.time

    def tick(self, seconds: float) -> datetime:
        self.time += timedelta(seconds=seconds)
        return self.time


class PostgresServer:
    """A throw-away cluster on a unix socket."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._home = Path(tempfile.mkdtemp(prefix="studio-pg-"))
        self._user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if self._user:
            shutil.chown(self._home, self._user)
        self._data = str(self._home / "data")
        self._names = (f"t{number}" for number in itertools.count())

    def start(self) -> None:
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync")
        options = f"-k {self._home} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "--wait", f"--log={self._home}/log", f"--options={options}", "start")
        self.migrated = self.create()
        database = Database(self.migrated)
        database.migrate()
        database.close()

    def stop(self) -> None:
        self._run("pg_ctl", "--mode=immediate", "stop")
        shutil.rmtree(self._home)

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self._home}"

    def create(self) -> str:
        """A new database without tables; returns its URL."""
        name = next(self._names)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return self.url(name)

    def set_clock_ahead(self, url: str, hours: int) -> None:
        """Of this database, as seen by connections to come."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA ahead")
            connection.execute(
                "CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
                f"$$ SELECT pg_catalog.clock_timestamp() + interval '{hours} hours' $$"  # type: ignore[arg-type]
            )
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET search_path = ahead, pg_catalog, public")  # type: ignore[arg-type]

    @contextmanager
    def away(self, url: str) -> Iterator[None]:
        """Within the block the database takes no connections, and those that there were are cut."""
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # type: ignore[arg-type]
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            try:
                yield
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")  # type: ignore[arg-type]

    def clear(self) -> str:
        """The one with tables, emptied: a tenth of the time that a new one takes."""
        with psycopg.connect(self.migrated, autocommit=True) as connection:
            connection.execute(
                "TRUNCATE generations, attempts, deliveries, waits, depths, answers, workers RESTART IDENTITY"
            )
            connection.execute("UPDATE ledger SET version = 0, paused_at = NULL")
        return self.migrated

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), f"--pgdata={self._data}", *arguments]
        subprocess.run(command, check=True, user=self._user, cwd="/", stdout=subprocess.DEVNULL, env={"LC_ALL": "C"})


class RedisServer:
    """A throw-away server that stores nothing on disk."""

    def __init__(self, program: str) -> None:
        self._program = program
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = str(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        command = [self._program, "--port", self._port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd="/")
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def clear(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def missing(what: str) -> NoReturn:
    """Skips a test; STUDIO_REQUIRE_SERVICES=1 makes it fail."""
    (pytest.fail if os.environ.get("STUDIO_REQUIRE_SERVICES") == "1" else pytest.skip)(what)


def require_package(name: str) -> None:
    """Of those that only training needs."""
    if find_spec(name) is None:
        missing(f"{name} is not installed: uv sync --group train")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Needs an installed Redis."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server is not installed")
    server = RedisServer(program)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.clear()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Needs an installed PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        missing("PostgreSQL's server is not installed")
    server = PostgresServer(found[-1])
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables, to be copied."""
    path = tmp_path_factory.mktemp("template") / "studio.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def backend(request: pytest.FixtureRequest) -> str:
    """Both kinds of database, one after the other."""
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'empty' / 'studio.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create()


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with all tables, and nothing in them."""
    if backend == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_file'), tmp_path / 'studio.db')}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.clear()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(database: Database, clock: Clock) -> JobQueue:
    return JobQueue(database, clock)
