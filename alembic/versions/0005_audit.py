"""The segments of the audit trail, and their chain."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "audit_segment",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("shard_no", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=True),
        sa.Column("previous", sa.LargeBinary(), nullable=True),
        sa.Column("hash", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(place IS NULL) = (hash IS NULL) AND (place IS NULL) = (previous IS NULL)",
            name=op.f("audit_segment_chained_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_segment_pkey")),
        sa.UniqueConstraint("name", name=op.f("audit_segment_name_key")),
        sa.UniqueConstraint("place", name=op.f("audit_segment_place_key")),
    )
    op.create_index(op.f("audit_segment_campaign_id_idx"), "audit_segment", ["campaign_id"])
    op.create_index(
        "audit_segment_unchained_idx",
        "audit_segment",
        ["id"],
        postgresql_where=sa.text("place IS NULL"),
    )


def downgrade():
    # The code of 0004 writes no trail. The segments stay on disk, and the signed head in the store.
    op.drop_table("audit_segment")
