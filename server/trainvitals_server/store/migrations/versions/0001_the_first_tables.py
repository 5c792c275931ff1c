"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "run",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("last_report_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("step_at", sa.Double(), nullable=True),
        sa.Column("total_steps", sa.BigInteger(), nullable=True),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("step_rate", sa.Double(), nullable=True),
        sa.Column("overhead", sa.Double(), nullable=True),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("health", sa.Double(), nullable=True),
        sa.Column("diagnosed_step", sa.BigInteger(), nullable=True),
        sa.Column("error_count", sa.BigInteger(), nullable=False),
        sa.Column("warning_count", sa.BigInteger(), nullable=False),
        sa.Column("info_count", sa.BigInteger(), nullable=False),
        sa.Column("headline", sa.LargeBinary(), nullable=True),
        sa.Column("tags", sa.LargeBinary(), nullable=False),
        sa.Column("search", sa.String(), nullable=False),
        sa.Column("sparkline", sa.LargeBinary(), nullable=False),
        sa.Column("scalars", sa.LargeBinary(), nullable=False),
        sa.Column("about", sa.LargeBinary(), nullable=False),
        sa.Column("not_watched", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("rounded", sa.BigInteger(), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_run")),
        sa.UniqueConstraint("id", name=op.f("uq_run_id")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_project"), ["project"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_run_started_at_pk"), ["started_at", "pk"], unique=False
        )

    op.create_table(
        "token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
    )
    op.create_table(
        "attempt",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["run.pk"], name=op.f("fk_attempt_run_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_attempt")),
    )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_attempt_run_pk"), ["run_pk"], unique=False)

    op.create_table(
        "finding",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("episode", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since_step", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("finding", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["run.pk"], name=op.f("fk_finding_run_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_finding")),
        sa.UniqueConstraint(
            "run_pk", "code", "place", "episode", name=op.f("uq_finding_run_pk_code_place_episode")
        ),
    )
    op.create_table(
        "source",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("run_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "attempt_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_at", sa.Double(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("batches", sa.BigInteger(), nullable=False),
        sa.Column("sealed_to", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("produced", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_pk"], ["attempt.pk"], name=op.f("fk_source_attempt_pk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["run.pk"], name=op.f("fk_source_run_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_source")),
        sa.UniqueConstraint("key", name=op.f("uq_source_key")),
    )
    with op.batch_alter_table("source", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_source_attempt_pk"), ["attempt_pk"], unique=False)
        batch_op.create_index(batch_op.f("ix_source_run_pk"), ["run_pk"], unique=False)

    op.create_table(
        "batch",
        sa.Column(
            "source_pk",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("crc", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_pk"], ["source.pk"], name=op.f("fk_batch_source_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_pk", "seq", name=op.f("pk_batch")),
    )
    op.create_table(
        "dropped",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "source_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["run.pk"], name=op.f("fk_dropped_run_pk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["source_pk"], ["source.pk"], name=op.f("fk_dropped_source_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_dropped")),
    )
    with op.batch_alter_table("dropped", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dropped_run_pk"), ["run_pk"], unique=False)

    op.create_table(
        "event",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "source_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("event", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["run.pk"], name=op.f("fk_event_run_pk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["source_pk"], ["source.pk"], name=op.f("fk_event_source_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_event")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_run_pk"), ["run_pk"], unique=False)

    op.create_table(
        "track",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "source_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("layout", sa.LargeBinary(), nullable=False),
        sa.Column("places", sa.BigInteger(), nullable=False),
        sa.Column("statistics", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("log_rows", sa.BigInteger(), nullable=False),
        sa.Column("segments", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_pk"], ["source.pk"], name=op.f("fk_track_source_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_track")),
        sa.UniqueConstraint(
            "source_pk", "stream", "version", name=op.f("uq_track_source_pk_stream_version")
        ),
    )
    op.create_table(
        "chunk",
        sa.Column(
            "track_pk",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("tier", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("group", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("segment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lo", sa.BigInteger(), nullable=False),
        sa.Column("hi", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("codec", sa.BigInteger(), nullable=False),
        sa.Column("crc", sa.BigInteger(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["track_pk"], ["track.pk"], name=op.f("fk_chunk_track_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("track_pk", "tier", "group", "segment", name=op.f("pk_chunk")),
    )
    op.create_table(
        "ingest_log",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("track_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("lo", sa.BigInteger(), nullable=False),
        sa.Column("hi", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("axis", sa.LargeBinary(), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["track_pk"], ["track.pk"], name=op.f("fk_ingest_log_track_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_ingest_log")),
        sa.UniqueConstraint(
            "track_pk", "seq", "part", name=op.f("uq_ingest_log_track_pk_seq_part")
        ),
        sqlite_autoincrement=True,
    )
    if op.get_context().dialect.name == "postgresql":
        # zstd has compressed them already: Postgres need not try, and may then read a part.
        op.execute("ALTER TABLE chunk ALTER COLUMN blob SET STORAGE EXTERNAL")


def downgrade() -> None:
    """Drop all tables."""
    op.drop_table("ingest_log")
    op.drop_table("chunk")
    op.drop_table("track")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_event_run_pk"))

    op.drop_table("event")
    with op.batch_alter_table("dropped", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_dropped_run_pk"))

    op.drop_table("dropped")
    op.drop_table("batch")
    with op.batch_alter_table("source", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_source_run_pk"))
        batch_op.drop_index(batch_op.f("ix_source_attempt_pk"))

    op.drop_table("source")
    op.drop_table("finding")
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempt_run_pk"))

    op.drop_table("attempt")
    op.drop_table("token")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_started_at_pk"))
        batch_op.drop_index(batch_op.f("ix_run_project"))

    op.drop_table("run")
