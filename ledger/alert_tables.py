"""The tables of alerts; part of the one schema in `ledger.tables`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)

from ledger.tables import metadata, moment

# What was found wrong, or is to be told. No foreign key: it outlives what it is about.
alert = Table(
    "alert",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),  # what it is about: the same is not told twice
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("campaign_id", Integer),
    Column("text", Text, nullable=False),
    Column("next_command", Text, nullable=False),
    Column("lasting", Boolean, nullable=False),  # whether it ends; else it just happened
    moment("raised_at"),
    moment("seen_at"),
    Column("resolved_at", DateTime(timezone=True)),
    Index("alert_key_idx", "key", unique=True, postgresql_where=text("resolved_at IS NULL")),
)

# One message of an alert to one webhook.
alert_delivery = Table(
    "alert_delivery",
    metadata,
    Column("alert_id", ForeignKey("alert.id", ondelete="CASCADE"), primary_key=True),
    Column("webhook", Text, primary_key=True),
    Column("event", Text, primary_key=True),  # raised or resolved
    Column("attempts", Integer, nullable=False, server_default="0"),
    moment("next_at"),  # when it is due, or may be taken from a sender that died
    moment("created_at"),
    Column("ended_at", DateTime(timezone=True)),
    Column("is_delivered", Boolean, nullable=False, server_default=text("false")),
    Column("answer", Text, nullable=False, server_default=""),
    Index(
        "alert_delivery_due_idx", "webhook", "next_at", postgresql_where=text("ended_at IS NULL")
    ),
)

# How far a campaign was when it moved last.
alert_pulse = Table(
    "alert_pulse",
    metadata,
    Column("campaign_id", ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True),
    Column("counted", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    moment("moved_at"),
)

# Requests to key services, by the hour.
request_hour = Table(
    "request_hour",
    metadata,
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("requests", BigInteger, nullable=False),
)
