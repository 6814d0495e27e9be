"""When a campaign may run, when it is to be finished, and whether it goes before all others."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade():
    op.execute("LOCK TABLE campaign NOWAIT")
    op.add_column("campaign", sa.Column("run_window", sa.Text(), server_default="", nullable=False))
    op.add_column("campaign", sa.Column("finish_by", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "campaign",
        sa.Column("urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade():
    for name in ("run_window", "finish_by", "urgent"):
        op.drop_column("campaign", name)
