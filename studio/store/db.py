"""The database: SQLite in a file, or PostgreSQL by URL. Knows connections, transactions and migrations, no jobs.

SQLite: WAL with `synchronous=FULL` (an acknowledged commit survives a power cut), the driver in autocommit and
transactions begun here, so that a write takes its lock at once: a deferred transaction that turns into a write fails
with SQLITE_BUSY_SNAPSHOT whatever the timeout. https://www.sqlite.org/isolation.html
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock, Thread
from types import ModuleType
from typing import Any

import psutil
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from studio.errors import ConfigurationError, DatabaseUnavailable, DiskFull
from studio.schemas import utcnow

BUSY_TIMEOUT_S = 30.0  # how long a write waits for the writers before it
CONNECT_TIMEOUT_S = 5
IDLE_TRANSACTION_S = 30  # a client that stops in mid-transaction must not stop all the others
CLOCK_CHECK_S = 60.0  # between two looks at the database server's clock
CONNECTIONS = 64  # more than the threads of one server
NO_SYNC = {"synchronize_session": False, "populate_existing": True}  # an UPDATE returns rows as they now are
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}  # what SQLite's readers get anyway
MIGRATION_LOCK = 0x73747564696F  # PostgreSQL advisory lock: two processes that start at once migrate in turn
WAL_RESET_FIXED = (3, 51, 3)  # before it, two writing connections can corrupt a WAL database: sqlite.org/wal.html
NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afp", "afpfs", "afs", "9p", "ceph", "glusterfs", "lustre",
    "beegfs", "gpfs", "ocfs2", "gfs2", "webdav", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs",
    "fuse.rclone", "fuse.davfs",
}  # fmt: skip


class Database:
    """Connections to one database. Thread-safe; one per process.

    Raises:
        ConfigurationError: the URL is not one of SQLite (a file on a local disk) or PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(self._url) if self.is_sqlite else _postgresql_engine(self._url)
        self._readers = self._engine if self.is_sqlite else self._engine.execution_options(**SNAPSHOT)
        self._writers = self._engine.execution_options(writes=True)
        self._one_writer = Lock()
        self._clock = _ServerClock()
        self._probe = _Probe(self._engine)
        self._probing = Lock()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads: all its queries see one state. Rows stay usable after it.

        Raises:
            DatabaseUnavailable: it cannot be reached, or does not answer.
        """
        with _translated(), Session(self._readers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: all of it, or nothing when the block raises. Do not nest.

        Raises:
            DatabaseUnavailable: it cannot be reached, or others write without end.
            DiskFull: there is no room.
        """
        with self._turn(), _translated(), Session(self._writers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite's busy handler is unfair (six writers: p99 1.85 s); a lock is not, within this process."""
        if not self.is_sqlite:
            yield
            return
        if not self._one_writer.acquire(timeout=BUSY_TIMEOUT_S):
            raise DatabaseUnavailable("The database does not answer: other writers hold it.")
        try:
            yield
        finally:
            self._one_writer.release()

    def now(self) -> datetime:
        """The database's time: of the server, where several hosts with clocks of their own share one."""
        return utcnow() if self.is_sqlite else self._clock.now(self._engine)

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables up to date; makes a SQLite file that is not there. Safe when two processes start at once.

        Raises:
            ConfigurationError: a newer studio has written this database.
        """
        if self.is_sqlite:
            Path(str(self._url.database)).resolve().parent.mkdir(parents=True, exist_ok=True)
        with self._turn(), _translated(), self._writers.begin() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            _upgrade(connection, revision)

    def ping(self, timeout_s: float) -> float:
        """Run a real query; return the seconds that it took. Bounded in time also when the database hangs.

        Raises:
            DatabaseUnavailable: no answer within `timeout_s`, or an error.
        """
        with self._probing:  # a database that hangs holds one thread, however often it is asked
            if not self._probe.is_alive():
                self._probe = _Probe(self._engine)
                self._probe.start()
            probe = self._probe
        probe.join(timeout_s)
        if probe.error:
            raise DatabaseUnavailable(_reason(probe.error)) from probe.error
        if probe.seconds is None:
            raise DatabaseUnavailable(f"The database has not answered within {timeout_s:g} s.")
        return probe.seconds

    def product(self) -> str:
        """What answers: `SQLite 3.51.3`, `PostgreSQL 16.4`. Needs no connection once there has been one."""
        number = ".".join(map(str, self._engine.dialect.server_version_info or ()))
        return f"{'SQLite' if self.is_sqlite else 'PostgreSQL'} {number}".strip()

    def close(self) -> None:
        """Close all connections; the last one folds SQLite's log into its file."""
        self._engine.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("DATABASE_URL is not a database URL, such as sqlite:////srv/studio.db.") from error
    backend = "postgresql" if parsed.drivername == "postgres" else parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"DATABASE_URL: {backend} is not supported; use sqlite or postgresql.")
    if parsed.database in (None, "", ":memory:") or parsed.query:
        raise ConfigurationError("DATABASE_URL: SQLite needs a plain file, such as sqlite:////srv/studio.db.")
    return parsed


# SQLite


def _sqlite_engine(url: URL) -> Engine:
    refuse_network_file_system(Path(str(url.database)), _mounts())
    engine = create_engine(
        url,
        module=_sqlite_module(),
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
        pool_size=CONNECTIONS,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _sqlite_module() -> ModuleType:
    """Python's own when its SQLite is sound, else the one that PyPI's pysqlite3 carries, where it has a wheel."""
    if sqlite3.sqlite_version_info >= WAL_RESET_FIXED:
        return sqlite3
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        return sqlite3
    return dbapi2  # type: ignore[no-any-return]


def _prepare(connection: Any, _record: object) -> None:
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows only ASCII


def _write_ahead(connection: Any) -> None:
    """Of several that open a new file at once, SQLite lets one change its journal and fails the others without waiting,
    whatever the timeout."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _lower(text: str | None) -> str | None:
    return text and text.lower()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _mounts() -> list[tuple[str, str]]:
    return [(disk.mountpoint, disk.fstype) for disk in psutil.disk_partitions(all=True)]


def refuse_network_file_system(file: Path, mounts: Iterable[tuple[str, str]]) -> None:
    """`mounts`: (mount point, file system). WAL shares memory between processes, which no network carries.

    Raises:
        ConfigurationError: `file` lies on a network file system.
    """
    home = file.resolve()
    below = sorted(
        (len(point), number, kind) for number, (point, kind) in enumerate(mounts) if home.is_relative_to(point)
    )
    kind = below[-1][2].lower() if below else ""  # the innermost, and of several on one point the last
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{file} is on a network file system ({kind}), where SQLite loses data: "
            "set DATA_DIR to a local disk, or DATABASE_URL to a PostgreSQL server."
        )


# PostgreSQL


def _postgresql_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
        pool_size=5,
        max_overflow=CONNECTIONS - 5,
        pool_pre_ping=True,  # a server that was restarted is found again
    )
    event.listen(engine, "connect", _set_timeouts)
    return engine


def _set_timeouts(connection: Any, _record: object) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_S}s'")
    connection.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_S:g}s'")
    connection.commit()


class _ServerClock:
    """The server's clock, read now and then and carried on by this process's monotonic one."""

    def __init__(self) -> None:
        self._read = (utcnow(), -float("inf"))  # the server's time, and this process's when it was read

    def now(self, engine: Engine) -> datetime:
        server, read_at = self._read
        if time.monotonic() - read_at > CLOCK_CHECK_S:
            with _translated(), engine.connect() as connection:
                server = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            read_at = time.monotonic()
            self._read = server, read_at
        return server + timedelta(seconds=time.monotonic() - read_at)


# Both


class _Probe(Thread):
    """One real query, in a thread that may hang."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="database-ping", daemon=True)
        self._engine = engine
        self.seconds: float | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        start = time.monotonic()
        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT version FROM ledger")).all()
            self.seconds = time.monotonic() - start
        except Exception as error:  # carried to the thread that asked
            self.error = error


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command  # a third of a second that only a start needs
    from alembic.config import Config
    from alembic.util import CommandError

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigurationError(f"This database was written by a newer version of the studio ({error}).") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        full = "disk is full" in str(error) or getattr(getattr(error, "orig", None), "sqlstate", "") == "53100"
        raise DiskFull() if full else DatabaseUnavailable(_reason(error)) from error
    except DatabaseError as error:
        damaged = ("file is not a database", "malformed")  # SQLite's words
        hung_up = getattr(error.orig, "sqlstate", "") == "25P03"  # after IDLE_TRANSACTION_S: this process stood still
        if hung_up or any(words in str(error.orig) for words in damaged):
            raise DatabaseUnavailable(_reason(error)) from error
        raise


def _reason(error: Exception) -> str:
    """One line, without the statement and its parameters."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"The database does not answer: {' '.join(str(cause).split())}"
