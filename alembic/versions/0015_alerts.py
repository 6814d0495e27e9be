"""Alerts, what was sent of them, and what they are judged by."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _moment(name):
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("clock_timestamp()"),
        nullable=False,
    )


def upgrade():
    op.create_table(
        "alert",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("next_command", sa.Text(), nullable=False),
        sa.Column("lasting", sa.Boolean(), nullable=False),
        _moment("raised_at"),
        _moment("seen_at"),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("alert_pkey")),
    )
    op.create_index(
        "alert_key_idx",
        "alert",
        ["key"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "alert_delivery",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        _moment("next_at"),
        _moment("created_at"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_delivered", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["alert_id"],
            ["alert.id"],
            name=op.f("alert_delivery_alert_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("alert_id", "webhook", "event", name=op.f("alert_delivery_pkey")),
    )
    op.create_index(
        "alert_delivery_due_idx",
        "alert_delivery",
        ["webhook", "next_at"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "alert_pulse",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("counted", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        _moment("moved_at"),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.id"],
            name=op.f("alert_pulse_campaign_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("alert_pulse_pkey")),
    )
    op.create_table(
        "request_hour",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", name=op.f("request_hour_pkey")),
    )


def downgrade():
    for table in ("request_hour", "alert_pulse", "alert_delivery", "alert"):
        op.drop_table(table)
