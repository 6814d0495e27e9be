"""Lists that an inventory is given, tags of sidecars, and indexes for many blobs and shards."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "listed",
        sa.Column("list_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("blob_id", sa.Text(collation="C"), nullable=False),
        sa.PrimaryKeyConstraint("list_id", "slot", "blob_id", name=op.f("listed_pkey")),
        postgresql_partition_by="LIST (list_id)",
    )
    op.add_column("campaign", sa.Column("list_id", sa.Uuid(), nullable=True))
    op.add_column(
        "campaign",
        sa.Column("is_incremental", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "campaign", sa.Column("lists_dropped_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("inventory", sa.Column("tag", sa.BigInteger(), nullable=True))
    op.create_index(
        "outcome_exception_idx",
        "outcome",
        ["campaign_id", "outcome", "reason_code"],
        postgresql_where=sa.text("outcome IN ('quarantined', 'failed', 'conflict')"),
    )
    op.create_index(
        "shard_waiting_idx",
        "shard",
        ["campaign_id", "queue", "kind", "id"],
        postgresql_where=sa.text("state = 'waiting'"),
    )


def downgrade():
    op.drop_index("shard_waiting_idx", table_name="shard")
    op.drop_index("outcome_exception_idx", table_name="outcome")
    op.drop_column("inventory", "tag")
    op.drop_column("campaign", "lists_dropped_at")
    op.drop_column("campaign", "is_incremental")
    op.drop_column("campaign", "list_id")
    op.drop_table("listed")
