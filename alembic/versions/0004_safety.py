"""Backups, canaries, campaigns that follow another one, and the retirement of KEK versions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KINDS = "kind IN ('inventory', 'migrate', 'rotate', 'verify', 'plan'{})"
_SHARD_KINDS = "kind IN ('inventory', 'rewrap', 'stragglers', 'verify'{})"
_STATES = (
    "state IN ('planned', 'inventory'{}, 'running', 'verifying', 'pausing', 'paused', 'blocked',"
    " 'stopped', 'complete', 'complete_with_exceptions', 'cancelling', 'cancelled')"
)


def _checks(kinds, states, shard_kinds):
    # Alembic does not see a CHECK that grew: by hand.
    for table, column, rule in (
        ("campaign", "kind", _KINDS.format(kinds)),
        ("campaign", "state", _STATES.format(states)),
        ("shard", "kind", _SHARD_KINDS.format(shard_kinds)),
    ):
        name = op.f(f"{table}_{column}_check")
        op.drop_constraint(name, table, type_="check")
        op.create_check_constraint(name, table, rule)


def upgrade():
    # In the order in which claims take them, and not waited for: see 0002.
    op.execute("LOCK TABLE shard")
    op.execute("LOCK TABLE campaign NOWAIT")
    _checks(", 'backup', 'seal', 'undo'", ", 'backup', 'canary'", ", 'backup', 'manifest'")
    op.add_column("campaign", sa.Column("follows", sa.Integer(), nullable=True))
    for flag in ("backs_up", "escrow"):
        op.add_column(
            "campaign",
            sa.Column(flag, sa.Boolean(), server_default=sa.text("false"), nullable=False),
        )
    op.create_foreign_key(
        op.f("campaign_follows_fkey"), "campaign", "campaign", ["follows"], ["id"]
    )
    op.create_check_constraint(
        op.f("campaign_follows_check"),
        "campaign",
        "(kind IN ('seal', 'undo')) = (follows IS NOT NULL)",
    )
    op.create_table(
        "backup_part",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("shard_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("blobs", sa.Integer(), nullable=False),
        sa.Column("escrowed", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.id"],
            name=op.f("backup_part_campaign_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", "shard_no", name=op.f("backup_part_pkey")),
    )
    op.create_table(
        "backup",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("blobs", sa.BigInteger(), nullable=False),
        sa.Column("recipients", sa.Text(), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.id"],
            name=op.f("backup_campaign_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("backup_pkey")),
    )
    op.create_table(
        "retirement",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("closes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        *(
            sa.Column(
                name,
                sa.DateTime(timezone=True),
                server_default=sa.text("clock_timestamp()"),
                nullable=False,
            )
            for name in ("created_at", "step_at")
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "step IN ('closed', 'stopped', 'scanned', 'disabled', 'rescanned', 'retired',"
            " 'refused')",
            name=op.f("retirement_step_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("retirement_pkey")),
    )
    op.create_index(
        "retirement_open_idx",
        "retirement",
        ["key", "version"],
        unique=True,
        postgresql_where=sa.text("step NOT IN ('retired', 'refused')"),
    )


def downgrade():
    # The code of 0003 knows none of these kinds, states and shards. What a campaign of the new
    # kinds has written to the store stays there, whole; only the record of it goes.
    op.execute(
        """
        DO $$ DECLARE one integer; BEGIN
          FOR one IN SELECT id FROM campaign WHERE kind IN ('backup', 'seal', 'undo') LOOP
            EXECUTE format('DROP TABLE IF EXISTS inventory_%s, outcome_%s', one, one);
          END LOOP;
          DELETE FROM campaign WHERE kind IN ('backup', 'seal', 'undo');
          DELETE FROM shard WHERE kind IN ('backup', 'manifest');
          UPDATE campaign SET state = 'running' WHERE state IN ('backup', 'canary');
          UPDATE campaign SET resume_state = 'running' WHERE resume_state IN ('backup', 'canary');
        END $$
        """
    )
    op.drop_table("retirement")
    op.drop_table("backup")
    op.drop_table("backup_part")
    op.drop_constraint(op.f("campaign_follows_check"), "campaign", type_="check")
    for column in ("escrow", "backs_up", "follows"):
        op.drop_column("campaign", column)
    _checks("", "", "")
