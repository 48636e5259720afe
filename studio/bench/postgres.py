"""PostgreSQL to measure on: a throw-away server of what is installed here, or a schema of its own on another."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import make_url, text

from studio.store.db import Database

DEBIAN = Path("/usr/lib/postgresql")


@contextmanager
def local_server() -> Iterator[str | None]:
    """The URL of a new server on a socket of its own, with PostgreSQL's defaults; None where none is installed."""
    binaries = _binaries()
    if binaries is None:
        yield None
        return
    home = Path(mkdtemp(prefix="studio-pg-"))
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        shutil.chown(home, user)

    def call(program: str, *arguments: str) -> None:
        command = [str(binaries / program), f"--pgdata={home / 'data'}", *arguments]
        subprocess.run(command, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL, env={"LC_ALL": "C"})

    try:
        call("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale")
        call("pg_ctl", "--wait", f"--log={home}/log", f"--options=-k {home} -c listen_addresses=''", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={home}"
        finally:
            call("pg_ctl", "--mode=immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def scratch_schema(url: str) -> Iterator[str]:
    """A URL that leads into a new schema of the database at `url`, which is dropped at the end.

    Raises:
        DatabaseUnavailable: the server does not answer.
    """
    name = f"bench_{secrets.token_hex(6)}"
    database = Database(url)
    try:
        _execute(database, f"CREATE SCHEMA {name}")
        inside = make_url(url).update_query_dict({"options": f"-csearch_path={name}"})
        try:
            yield inside.render_as_string(hide_password=False)
        finally:
            _execute(database, f"DROP SCHEMA {name} CASCADE")
    finally:
        database.close()


def _execute(database: Database, statement: str) -> None:
    with database.write() as session:
        session.connection().execute(text(statement))


def _binaries() -> Path | None:
    """The newest server's programs."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = str(found[-1]) if found else shutil.which("initdb")
    return Path(program).resolve().parent if program else None
