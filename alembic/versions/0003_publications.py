"""What was published in the control files of stores."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "publication",
        sa.Column("store_id", sa.Text(), nullable=False),
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("primary_key", sa.Text(), nullable=True),
        sa.Column("cutover", sa.Text(), nullable=False),
        sa.Column("max_age_s", sa.Integer(), nullable=False),
        sa.Column("issued_by", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("obeyed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "cutover IN ('off', 'warn', 'on')", name=op.f("publication_cutover_check")
        ),
        sa.PrimaryKeyConstraint("store_id", "serial", name=op.f("publication_pkey")),
    )


def downgrade():
    # The code of 0002 knows no control files. The newest publication lies signed in the store.
    op.drop_table("publication")
