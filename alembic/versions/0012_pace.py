"""The most requests a second that a campaign sends to key services."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("campaign", sa.Column("max_rate", sa.Float(), nullable=True))


def downgrade():
    op.drop_column("campaign", "max_rate")
