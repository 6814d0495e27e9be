"""Sweeps of old contents, and the bytes that plans measure and sweeps free."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _checks(more):
    # Alembic does not see a CHECK that grew: by hand.
    kinds = "'inventory', 'migrate', 'rotate', 'reencrypt', 'verify', 'plan', 'backup', 'seal'"
    for column, rule in (
        ("kind", f"kind IN ({kinds}, 'undo'{more})"),
        ("follows", f"(kind IN ('seal', 'undo'{more})) = (follows IS NOT NULL)"),
    ):
        name = op.f(f"campaign_{column}_check")
        op.drop_constraint(name, "campaign", type_="check")
        op.create_check_constraint(name, "campaign", rule)


def upgrade():
    # In the order in which claims take them, and not waited for: see 0002.
    op.execute("LOCK TABLE shard")
    op.execute("LOCK TABLE campaign NOWAIT")
    _checks(", 'sweep'")
    op.add_column(
        "shard",
        sa.Column("content_bytes", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column("inventory", sa.Column("leftovers", sa.ARRAY(sa.Text()), nullable=True))


def downgrade():
    # The code before knows no sweeps. What they have removed stays so; only the record goes.
    op.execute(
        """
        DO $$ DECLARE one integer; BEGIN
          FOR one IN SELECT id FROM campaign WHERE kind = 'sweep' LOOP
            EXECUTE format('DROP TABLE IF EXISTS inventory_%s, outcome_%s', one, one);
          END LOOP;
          DELETE FROM campaign WHERE kind = 'sweep';
        END $$
        """
    )
    op.drop_column("inventory", "leftovers")
    op.drop_column("shard", "content_bytes")
    _checks("")
