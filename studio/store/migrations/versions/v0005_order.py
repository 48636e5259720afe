"""The queue's order: priorities, jobs after jobs, a pause, keys that make a request sent twice one; and how many wait
where, kept by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

WHEN = sa.DateTime(timezone=True)
CLAIMABLE = "status = 'pending' AND not_before IS NULL AND waits_for = 0"
SHIFTS = (20, 26, 32, 38)  # powers of two of microseconds
LEVELS = " UNION ALL ".join(f"SELECT {shift} AS shift" for shift in SHIFTS)


def upgrade() -> None:
    _columns()
    _tables()
    _indexes()
    for statement in _triggers(op.get_bind().dialect.name):
        op.execute(statement)
    op.execute(_count_those_that_wait())


def _columns() -> None:
    for column in (
        sa.Column("place", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("after", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("waits_for", sa.Integer(), nullable=False, server_default="0"),
    ):
        op.add_column("generations", column)
    op.add_column("workers", sa.Column("slots", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("ledger", sa.Column("paused_at", WHEN))
    seconds = "strftime('%s', queued_at)" if _is_sqlite() else "floor(extract(epoch FROM queued_at))"
    microseconds = "substr(queued_at, 21)" if _is_sqlite() else "to_char(queued_at, 'US')"
    place = f"CAST({seconds} AS BIGINT) * 1000000 + CAST({microseconds} AS BIGINT)"
    op.execute(f"UPDATE generations SET place = {place} WHERE status IN ('pending', 'processing')")


def _tables() -> None:
    op.create_table(
        "waits",
        _job("after_id"),
        _job("job_id"),
        sa.PrimaryKeyConstraint("after_id", "job_id"),
    )
    op.create_index("ix_waits_job_id", "waits", ["job_id"])
    op.create_table(
        "depths",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("shift", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(500), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("milliseconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "shift", "bucket", "model"),
    )
    op.create_table(
        "answers",
        sa.Column("client", sa.String(100), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", WHEN, nullable=False),
        sa.PrimaryKeyConstraint("client", "key"),
    )
    op.create_index("ix_answers_created_at", "answers", ["created_at"])


def _job(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(40), sa.ForeignKey("generations.job_id", ondelete="CASCADE"), nullable=False)


def _indexes() -> None:
    op.drop_index("ix_generations_claim", "generations")
    op.drop_index("ix_generations_claim_model", "generations")
    _index("claim", CLAIMABLE, "place", "id", "model", "duration")
    _index("claim_model", CLAIMABLE, "model", "place", "id")
    _index("waiting", "status = 'pending' AND not_before IS NOT NULL", "place", "id")
    _index("blocked", "status = 'pending' AND waits_for > 0", "place", "id")


def _index(name: str, where: str, *columns: str) -> None:
    predicate = sa.text(where)
    op.create_index(
        f"ix_generations_{name}", "generations", list(columns),
        sqlite_where=predicate, postgresql_where=predicate,
    )  # fmt: skip


def _triggers(dialect: str) -> list[str]:
    """After every change of a row that is pending, or was: the row leaves its stretches, and enters others."""
    leave, enter = _leave(), _enter()
    events = "INSERT OR DELETE OR UPDATE OF status, not_before, waits_for, place, model, duration"
    if dialect == "postgresql":
        return [
            f"""CREATE FUNCTION count_depths() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_OP <> 'INSERT' AND OLD.status = 'pending' THEN {leave} END IF;
                IF TG_OP <> 'DELETE' AND NEW.status = 'pending' THEN {enter} END IF;
                RETURN NULL;
            END $$""",
            f"CREATE TRIGGER depths AFTER {events} ON generations FOR EACH ROW EXECUTE FUNCTION count_depths()",
        ]
    insert, delete, update = events.split(" OR ")
    return [
        f"CREATE TRIGGER depths_{name} AFTER {event} ON generations WHEN {row}.status = 'pending' BEGIN {count} END"
        for name, event, row, count in (
            ("enter", insert, "NEW", enter),
            ("leave", delete, "OLD", leave),
            ("change_leave", update, "OLD", leave),
            ("change_enter", update, "NEW", enter),
        )
    ]


def _lane(row: str) -> str:
    return f"CASE WHEN {row}.waits_for > 0 THEN 2 WHEN {row}.not_before IS NOT NULL THEN 1 ELSE 0 END"


def _milliseconds(row: str) -> str:
    return f"CAST(round({row}.duration * 1000) AS BIGINT)"


def _leave() -> str:
    stretches = ", ".join(f"({shift}, OLD.place >> {shift})" for shift in SHIFTS)
    mine = f"lane = {_lane('OLD')} AND model = OLD.model AND (shift, bucket) IN (VALUES {stretches})"
    return f"""
        UPDATE depths SET jobs = jobs - 1, milliseconds = milliseconds - {_milliseconds("OLD")} WHERE {mine};
        DELETE FROM depths WHERE {mine} AND jobs = 0;"""


def _enter() -> str:
    return f"""
        INSERT INTO depths (lane, shift, bucket, model, jobs, milliseconds)
        SELECT {_lane("NEW")}, shift, NEW.place >> shift, NEW.model, 1, {_milliseconds("NEW")}
        FROM ({LEVELS}) AS levels WHERE true
        ON CONFLICT (lane, shift, bucket, model)
        DO UPDATE SET jobs = depths.jobs + 1, milliseconds = depths.milliseconds + excluded.milliseconds;"""


def _count_those_that_wait() -> str:
    return f"""
        INSERT INTO depths (lane, shift, bucket, model, jobs, milliseconds)
        SELECT {_lane("g")}, shift, g.place >> shift, g.model, count(*), sum({_milliseconds("g")})
        FROM generations AS g CROSS JOIN ({LEVELS}) AS levels WHERE g.status = 'pending'
        GROUP BY 1, 2, 3, 4"""


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
