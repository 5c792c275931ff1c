"""Keep the checksums of pruned batch keys.

Keys that an older version pruned have none; a batch with such a key counts as a repeat.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "pruned_keys",
        sa.Column(
            "source_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("lo", sa.BigInteger(), nullable=False),
        sa.Column("crcs", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("source_pk", "lo", name="pk_pruned_keys"),
        sa.ForeignKeyConstraint(
            ["source_pk"], ["source.pk"], name="fk_pruned_keys_source_pk", ondelete="CASCADE"
        ),
    )
