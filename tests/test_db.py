"""The database: what survives, who waits for whom, and that the migrations make the models' tables."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import bindparam, inspect
from sqlmodel import Session, SQLModel, text
from sqlmodel.sql.sqltypes import UTCDateTime

from studio.errors import ConfigurationError, DatabaseUnavailable
from studio.store.db import Database, refuse_network_file_system
from studio.store.queue import JobQueue
from studio.store.tables import Worker, place_at


def test_a_damaged_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "studio.db"
    path.write_bytes(b"no database" * 1000)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        database.migrate()
    database.close()


def a_worker(worker_id: str) -> Worker:
    return Worker.model_validate({"worker_id": worker_id, "host": "here", "pid": 1, "process_started_at": 0.0})


def worker_ids(database: Database) -> set[str]:
    with database.read() as session:
        return {name for (name,) in session.connection().execute(text("SELECT worker_id FROM workers"))}


def test_the_migrations_make_exactly_the_models_tables(database: Database) -> None:
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_the_migrations_make_exactly_the_models_indexes(database: Database, empty_url: str) -> None:
    other = Database(empty_url)
    other.migrate()
    with other.write() as session:
        SQLModel.metadata.drop_all(session.connection())
        SQLModel.metadata.create_all(session.connection())
    with database.read() as migrated, other.read() as modelled:
        assert indexes(migrated) == indexes(modelled)
        assert len(indexes(migrated)) >= 13
    other.close()


def indexes(session: Session) -> set[str]:
    query = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename != 'alembic_version'",
    }
    connection = session.connection()
    return {sql for (sql,) in connection.execute(text(query[connection.dialect.name]))}


def test_a_database_of_an_older_studio_keeps_its_order_and_its_counts(empty_url: str) -> None:
    database = Database(empty_url)
    database.migrate("0004")
    came = datetime(2026, 11, 7, 12, 0, 0, 250_000, tzinfo=UTC)
    with database.write() as session:
        for number, status in enumerate(["pending", "processing", "pending", "completed", "pending"]):
            row = an_old_job(f"gen_{number}", status, came - timedelta(seconds=number / 10))
            session.connection().execute(OLD_JOB, row)
    database.migrate()
    queue = JobQueue(database)
    jobs = [queue.get(f"gen_{number}") for number in (4, 2, 0)]
    assert [job.place for job in jobs] == [place_at(job.queued_at, 0) for job in jobs]
    assert [queue.places(jobs)[job.job_id].position for job in jobs] == [1, 2, 3]
    assert [claim.job_id for claim in queue.claim("w", 5, 30.0)] == ["gen_4", "gen_2", "gen_0"]
    assert queue.stats().pending_jobs == 0
    database.close()


OLD_JOB = text(
    "INSERT INTO generations (job_id, status, current_step, progress, prompt, model, duration, temperature, top_k, "
    "top_p, cfg_coef, seed, priority, queued_at, retry_count, created_at, version, series) "
    "VALUES (:job_id, :status, 'queued', 0, 'sad piano', 'mini', 8, 1, 250, 0, 3, 7, 0, :came, 0, :came, 1, 1)"
).bindparams(bindparam("came", type_=UTCDateTime()))


def an_old_job(job_id: str, status: str, came: datetime) -> dict[str, object]:
    return {"job_id": job_id, "status": status, "came": came}


def test_two_that_start_at_once_migrate_once(empty_url: str) -> None:
    databases = [Database(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(lambda database: database.migrate(), databases))
    with databases[0].read() as session:
        assert "generations" in inspect(session.connection()).get_table_names()
        assert session.connection().execute(text("SELECT count(*) FROM ledger")).scalar_one() == 1
    for database in databases:
        database.close()


def test_a_database_of_a_newer_studio_is_refused(empty_url: str) -> None:
    database = Database(empty_url)
    database.migrate()
    with database.write() as session:
        session.connection().execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer version of the studio"):
        database.migrate()
    database.close()


def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError, match="half way"):
        write_half(database)
    assert worker_ids(database) == set()


def write_half(database: Database) -> None:
    with database.write() as session:
        session.add(a_worker("ghost"))
        session.flush()
        raise RuntimeError("half way")


def test_a_read_sees_one_state(database: Database) -> None:
    with database.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM workers")).scalar_one() == 0
        with database.write() as other:
            other.add(a_worker("late"))
        assert session.connection().execute(text("SELECT count(*) FROM workers")).scalar_one() == 0
    assert worker_ids(database) == {"late"}


def test_writes_that_read_first_wait_for_each_other(database: Database) -> None:
    """A deferred transaction of SQLite would fail here: it cannot turn into a write once another has written."""
    lock = "" if database.is_sqlite else " FOR UPDATE"

    def add_one(_: int) -> None:
        with database.write() as session:
            version = session.connection().execute(text(f"SELECT version FROM ledger{lock}")).scalar_one()
            session.connection().execute(text("UPDATE ledger SET version = :next"), {"next": version + 1})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(80)))
    with database.read() as session:
        assert session.connection().execute(text("SELECT version FROM ledger")).scalar_one() == 80


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_transaction_that_stood_still_is_an_error_in_words(database: Database) -> None:
    """The process was suspended, say; the server has hung up so that others can write."""
    with pytest.raises(DatabaseUnavailable, match="idle-in-transaction"):
        stand_still(database)
    assert worker_ids(database) == set()


def stand_still(database: Database) -> None:
    with database.write() as session:
        session.connection().execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
        time.sleep(0.5)
        session.add(a_worker("late"))
        session.flush()


def test_sqlite_is_set_up_to_lose_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'studio.db'}")
    with database.read() as session:
        pragma = {
            name: session.connection().execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        version = session.connection().execute(text("SELECT sqlite_version()")).scalar_one()
    database.close()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    assert tuple(map(int, version.split("."))) >= (3, 51, 3), "an SQLite without the WAL-reset bug"


def test_a_ping_is_a_real_query(database: Database, empty_url: str) -> None:
    assert 0 <= database.ping(5.0) < 5.0
    without_tables = Database(empty_url)
    with pytest.raises(DatabaseUnavailable):
        without_tables.ping(5.0)
    without_tables.close()


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_ping_is_bounded_when_the_database_hangs(database: Database) -> None:
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with database.write() as session:
            session.connection().execute(text("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE"))
            locked.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(10)
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match=r"within 0\.1 s"):
            database.ping(0.1)
    assert time.monotonic() - start < 3
    assert sum(thread.name == "database-ping" for thread in threading.enumerate()) == 1
    done.set()
    holder.join()
    assert database.ping(5.0) < 5.0


def test_a_server_that_is_not_there_is_named_in_one_line() -> None:
    database = Database("postgresql://nobody:secret@127.0.0.1:1/studio")
    with pytest.raises(DatabaseUnavailable) as raised, database.read() as session:
        session.connection()
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "no url", "mysql://host/studio", "sqlite://", "sqlite:///:memory:", "sqlite:///studio.db?mode=memory"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        Database(url)


def test_sqlite_on_a_network_file_system_is_refused_in_favour_of_postgresql() -> None:
    mounts = [("/", "ext4"), ("/srv", "nfs4"), ("/srv/local", "xfs"), ("/srvother", "ext4")]
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        refuse_network_file_system(Path("/srv/studio/studio.db"), mounts)
    refuse_network_file_system(Path("/srv/local/studio.db"), mounts)
    refuse_network_file_system(Path("/srvother/studio.db"), mounts)
    refuse_network_file_system(Path("/home/me/studio.db"), mounts)
