"""The ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "campaign",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("prove", sa.Text(), nullable=True),
        sa.Column("sample", sa.Float(), nullable=True),
        sa.Column("sample_size", sa.Integer(), nullable=True),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("resume_state", sa.Text(), nullable=True),
        sa.Column("probe_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("probe_delay_s", sa.Float(), server_default="1", nullable=False),
        sa.Column("passes", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("gates_passed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("store", sa.Text(), server_default="", nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('inventory', 'migrate', 'rotate', 'verify')", name=op.f("campaign_kind_check")
        ),
        sa.CheckConstraint(
            "state IN ('planned', 'inventory', 'running', 'verifying', 'pausing', 'paused', 'blocked', 'stopped', 'complete', 'complete_with_exceptions', 'cancelling', 'cancelled')",
            name=op.f("campaign_state_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("campaign_pkey")),
    )
    op.create_table(
        "store_mark",
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("store", name=op.f("store_mark_pkey")),
    )
    op.create_table(
        "heartbeat",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("heartbeat_pkey")),
    )
    op.create_table(
        "inventory",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.Text(collation="C"), nullable=False),
        sa.Column("shard_no", sa.Integer(), nullable=False),
        sa.Column("key_version_id", sa.Integer(), nullable=True),
        sa.Column("previous_id", sa.Integer(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("campaign_id", "blob_id", name=op.f("inventory_pkey")),
        postgresql_partition_by="LIST (campaign_id)",
    )
    op.create_index(
        op.f("inventory_campaign_id_idx"), "inventory", ["campaign_id", "shard_no"], unique=False
    )
    op.create_table(
        "key_version",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("key_version_pkey")),
        sa.UniqueConstraint("key", "version", name=op.f("key_version_key_key")),
    )
    op.create_table(
        "outcome",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.Text(collation="C"), nullable=False),
        sa.Column("shard_no", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('rewrapped', 'current', 'excluded', 'conflict', 'gone', 'quarantined', 'failed')",
            name=op.f("outcome_outcome_check"),
        ),
        sa.PrimaryKeyConstraint("campaign_id", "blob_id", name=op.f("outcome_pkey")),
        postgresql_partition_by="LIST (campaign_id)",
    )
    op.create_table(
        "kek_rotation",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("from_version", sa.Text(), nullable=False),
        sa.Column("to_version", sa.Text(), nullable=True),
        sa.Column("campaign_id", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.id"],
            name=op.f("kek_rotation_campaign_id_fkey"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("kek_rotation_pkey")),
    )
    op.create_index(
        "kek_rotation_open_idx",
        "kek_rotation",
        ["key"],
        unique=True,
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "sample",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("shard_no", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.Text(collation="C"), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.id"],
            name=op.f("sample_campaign_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", "shard_no", "blob_id", name=op.f("sample_pkey")),
    )
    op.create_table(
        "shard",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("shard_no", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("part", sa.Integer(), server_default="0", nullable=False),
        sa.Column("parts", sa.Integer(), server_default="1", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lapses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rewrapped", sa.Integer(), server_default="0", nullable=False),
        sa.Column("current", sa.Integer(), server_default="0", nullable=False),
        sa.Column("excluded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("conflict", sa.Integer(), server_default="0", nullable=False),
        sa.Column("gone", sa.Integer(), server_default="0", nullable=False),
        sa.Column("quarantined", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("kms_requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('inventory', 'rewrap', 'stragglers', 'verify')", name=op.f("shard_kind_check")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'offered', 'leased', 'done')", name=op.f("shard_state_check")
        ),
        sa.CheckConstraint(
            "rewrapped + current + excluded + conflict + gone + quarantined + failed <= total OR kind <> 'rewrap'",
            name=op.f("shard_balance_check"),
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.id"],
            name=op.f("shard_campaign_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("shard_pkey")),
        sa.UniqueConstraint("shard_no", name=op.f("shard_shard_no_key")),
    )
    op.create_index(op.f("shard_campaign_id_idx"), "shard", ["campaign_id", "state"], unique=False)
