"""Requests: what people ask for in Flower."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "request",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=True),
        sa.Column("details", sa.Text(), server_default="", nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("next_command", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "action IN ('start', 'pause', 'resume', 'cancel')", name=op.f("request_action_check")
        ),
        sa.CheckConstraint("verdict IN ('done', 'refused')", name=op.f("request_verdict_check")),
        sa.CheckConstraint(
            "(answered_at IS NULL) = (verdict IS NULL)", name=op.f("request_answer_check")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("request_pkey")),
    )
    op.create_index(op.f("request_campaign_id_idx"), "request", ["campaign_id"])
    op.create_index(
        "request_waiting_idx",
        "request",
        ["created_at"],
        postgresql_where=sa.text("answered_at IS NULL"),
    )


def downgrade():
    op.drop_table("request")
