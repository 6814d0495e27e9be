"""Two people: what one asked for and a second one signed, and campaigns that wait for it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _states(more):
    # Alembic does not see a CHECK that grew: by hand.
    name = op.f("campaign_state_check")
    op.drop_constraint(name, "campaign", type_="check")
    op.create_check_constraint(
        name,
        "campaign",
        f"state IN ('planned'{more}, 'inventory', 'backup', 'canary', 'running', 'verifying',"
        " 'pausing', 'paused', 'blocked', 'stopped', 'complete', 'complete_with_exceptions',"
        " 'cancelling', 'cancelled')",
    )


def upgrade():
    # In the order in which claims take them, and not waited for: see 0002.
    op.execute("LOCK TABLE shard")
    op.execute("LOCK TABLE campaign NOWAIT")
    _states(", 'awaiting_approval'")
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("nonce", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_signature", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("approved_by", sa.Text(), server_default="", nullable=False),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("approval_signature", sa.LargeBinary(), server_default="", nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("approval_pkey")),
        sa.UniqueConstraint("nonce", name=op.f("approval_nonce_key")),
    )
    op.create_index(op.f("approval_campaign_id_idx"), "approval", ["campaign_id"])


def downgrade():
    # The code before knows no second person: what waits for one does not begin under it.
    op.execute(
        "UPDATE campaign SET state = 'cancelled', finished_at = clock_timestamp(),"
        " reason_code = 'approvals_gone', reason = 'the software before knows no approvals'"
        " WHERE state = 'awaiting_approval'"
    )
    op.drop_table("approval")
    _states("")
