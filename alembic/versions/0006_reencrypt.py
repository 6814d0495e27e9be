"""Re-encryption, and the nonce by which a campaign knows the contents that it has written."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _checks(more):
    # Alembic does not see a CHECK that grew: by hand.
    for column, rule in (
        (
            "kind",
            (
                "kind IN ('inventory', 'migrate', 'rotate', 'verify', 'plan', 'backup', 'seal',"
                f" 'undo'{more})"
            ),
        ),
        ("plan_of", f"plan_of IN ('migrate', 'rotate'{more})"),
    ):
        name = op.f(f"campaign_{column}_check")
        op.drop_constraint(name, "campaign", type_="check")
        op.create_check_constraint(name, "campaign", rule)


def upgrade():
    # In the order in which claims take them, and not waited for: see 0002.
    op.execute("LOCK TABLE shard")
    op.execute("LOCK TABLE campaign NOWAIT")
    _checks(", 'reencrypt'")
    op.add_column(
        "campaign",
        sa.Column("nonce", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
    )


def downgrade():
    # The code before knows no such campaigns. What they have written to the store stays, whole:
    # every reader follows `object`. Only the record of it goes.
    op.execute(
        """
        DO $$ DECLARE one integer; BEGIN
          FOR one IN SELECT id FROM campaign WHERE 'reencrypt' IN (kind, plan_of) LOOP
            EXECUTE format('DROP TABLE IF EXISTS inventory_%s, outcome_%s', one, one);
          END LOOP;
          DELETE FROM campaign WHERE 'reencrypt' IN (kind, plan_of);
        END $$
        """
    )
    op.drop_column("campaign", "nonce")
    _checks("")
