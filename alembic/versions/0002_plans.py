"""Plans; the length of wraps under keys of the environment; rotations that take their time."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade():
    # Whoever records findings holds `inventory`, and then asks for `campaign`: in that order here
    # too. And never one held while another is waited for: each heartbeat reads `campaign`, and
    # the deadlock of a worker with a migration might end the worker. `ledger.schema` tries again.
    op.execute("LOCK TABLE inventory")
    op.execute("LOCK TABLE campaign, kek_rotation NOWAIT")
    op.add_column("inventory", sa.Column("wrap_bytes", sa.SmallInteger(), nullable=True))
    op.add_column("campaign", sa.Column("plan_of", sa.Text(), nullable=True))
    # Alembic does not see a CHECK that grew: by hand.
    op.drop_constraint(op.f("campaign_kind_check"), "campaign", type_="check")
    op.create_check_constraint(
        op.f("campaign_kind_check"),
        "campaign",
        "kind IN ('inventory', 'migrate', 'rotate', 'verify', 'plan')",
    )
    op.create_check_constraint(
        op.f("campaign_plan_of_check"), "campaign", "plan_of IN ('migrate', 'rotate')"
    )
    op.create_check_constraint(
        op.f("campaign_plan_check"), "campaign", "(kind = 'plan') = (plan_of IS NOT NULL)"
    )
    op.add_column("kek_rotation", sa.Column("begun_at", sa.DateTime(timezone=True), nullable=True))


def downgrade():
    # The code of 0001 knows no plans. They moved nothing, so nothing is lost but themselves.
    op.execute(
        """
        DO $$ DECLARE plan integer; BEGIN
          FOR plan IN SELECT id FROM campaign WHERE kind = 'plan' LOOP
            EXECUTE format('DROP TABLE IF EXISTS inventory_%s, outcome_%s', plan, plan);
          END LOOP;
          DELETE FROM campaign WHERE kind = 'plan';
        END $$
        """
    )
    op.drop_column("kek_rotation", "begun_at")
    op.drop_column("inventory", "wrap_bytes")
    op.drop_constraint(op.f("campaign_plan_check"), "campaign", type_="check")
    op.drop_constraint(op.f("campaign_kind_check"), "campaign", type_="check")
    op.drop_column("campaign", "plan_of")
    op.create_check_constraint(
        op.f("campaign_kind_check"),
        "campaign",
        "kind IN ('inventory', 'migrate', 'rotate', 'verify')",
    )
