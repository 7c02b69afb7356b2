"""The table, as it began."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "corrections",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), nullable=False, unique=True),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("consented_at", sa.Double(), nullable=False),
        sa.Column("audio", sa.LargeBinary(), nullable=False),
        sa.Column("audio_sha256", sa.String(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("hypothesis", sa.String(), nullable=False),
        sa.Column("correction", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("speaker", sa.String(), nullable=True),
        sa.UniqueConstraint("key", "audio_sha256", name="uq_corrections_key_audio"),
    )
    op.create_index("ix_corrections_updated_at", "corrections", ["updated_at"])


def downgrade() -> None:
    """Drop it, with all that is in it."""
    op.drop_table("corrections")
