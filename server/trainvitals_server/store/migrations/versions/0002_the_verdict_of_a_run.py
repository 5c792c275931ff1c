"""The verdict of a run, the rules that could not run, and why a run failed.

Evidence changed from a mapping to typed items: stored findings are dropped, and every run is
diagnosed again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NOTHING = b"\x80"  # an empty msgpack map


def upgrade() -> None:
    """Add the columns and make every run due for a diagnosis."""
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("verdict", sa.String(), nullable=True))
        run.add_column(sa.Column("blind", sa.LargeBinary(), nullable=True))
        run.add_column(sa.Column("error", sa.LargeBinary(), nullable=True))
    table = sa.table(
        "run",
        *(sa.column(name) for name in ("verdict", "blind", "error", "headline", "health")),
        sa.column("revision", sa.BigInteger),
        sa.column("rounded", sa.BigInteger),
    )
    op.execute(
        sa.update(table).values(
            verdict="too_early",
            blind=sa.literal(NOTHING, sa.LargeBinary),
            error=sa.literal(b"", sa.LargeBinary),
            headline=None,
            health=None,
            rounded=table.c.revision - 1,
        )
    )
    op.execute(sa.delete(sa.table("finding")))
    with op.batch_alter_table("run") as run:
        for name, kind in (
            ("verdict", sa.String()),
            ("blind", sa.LargeBinary()),
            ("error", sa.LargeBinary()),
        ):
            run.alter_column(name, existing_type=kind, nullable=False)
