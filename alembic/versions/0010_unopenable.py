"""What a retirement leaves without a key: wraps in backups, and old versions of sidecars."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_COLUMNS = ("backup_wraps", "object_versions")


def upgrade():
    for name in _COLUMNS:
        op.add_column("retirement", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade():
    for name in _COLUMNS:
        op.drop_column("retirement", name)
