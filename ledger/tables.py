"""The schema: the one description that Alembic's migrations are checked against."""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from keywrap.controlfile import Cutover
from keywrap.rewrapping import Outcome
from ledger.retirements import Step
from ledger.states import FOLLOWING, REWRAPPING, Kind, ShardKind, ShardState, State

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    }
)


def one_of(column: str, values: Iterable[StrEnum]) -> str:
    """Return the condition that a column holds one of these words."""
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


def moment(name: str = "created_at") -> Column[object]:
    """Return a column of times, by the database's clock unless it is told another."""
    return Column(
        name,
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    )


campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("kind", Text, CheckConstraint(one_of("kind", Kind), name="kind"), nullable=False),
    Column("state", Text, CheckConstraint(one_of("state", State), name="state"), nullable=False),
    Column("prefix", Text, nullable=False),
    Column("target", Text),  # key id of the KEK version to wrap under
    Column("prove", Text),
    Column("sample", Float),  # fraction of blobs that the verifying task opens
    Column("sample_size", Integer),  # or their number, for a verify campaign or plan; null: all
    Column("reason_code", Text),  # why it waits
    Column("reason", Text),
    Column("resume_state", Text),  # where a paused, blocked or stopped campaign goes back to
    Column("probe_at", DateTime(timezone=True)),  # when a blocked campaign is tried again
    Column("probe_delay_s", Float, nullable=False, server_default="1"),
    Column("passes", SmallInteger, nullable=False, server_default="0"),  # fresh scans made
    # Whether a person has resumed it after a gate stopped it: the gate does not stop it again.
    Column("gates_passed", Boolean, nullable=False, server_default=text("false")),
    Column("store", Text, nullable=False, server_default=""),
    Column("run_window", Text, nullable=False, server_default=""),  # empty: as configured
    Column("finish_by", DateTime(timezone=True)),
    Column("urgent", Boolean, nullable=False, server_default=text("false")),
    Column("max_rate", Float),  # requests a second to key services
    Column("list_id", Uuid),  # the list of blobs that it was given instead of a listing
    # Whether it takes what an earlier one found of a sidecar whose version tag is the same.
    Column("is_incremental", Boolean, nullable=False, server_default=text("false")),
    Column("lists_dropped_at", DateTime(timezone=True)),  # its inventory and outcomes are gone
    Column("requested_by", Text, nullable=False),
    moment(),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("plan_of", Text, CheckConstraint(one_of("plan_of", REWRAPPING), name="plan_of")),
    # The campaign whose wraps are sealed or undone.
    Column("follows", ForeignKey("campaign.id")),
    # Whether no wrap is replaced before an encrypted backup of it was written and read back.
    Column("backs_up", Boolean, nullable=False, server_default=text("false")),
    # Whether the backup holds the data keys themselves too.
    Column("escrow", Boolean, nullable=False, server_default=text("false")),
    # Known to nobody who only sees the store: what a campaign marks its contents with.
    Column("nonce", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    CheckConstraint("(kind = 'plan') = (plan_of IS NOT NULL)", name="plan"),
    CheckConstraint(f"({one_of('kind', FOLLOWING)}) = (follows IS NOT NULL)", name="follows"),
)

shard = Table(
    "shard",
    metadata,
    # Opaque and not to be guessed: it is all that a message of the broker holds.
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("campaign_id", ForeignKey("campaign.id", ondelete="CASCADE"), nullable=False),
    Column("shard_no", Integer, Identity(always=True), unique=True, nullable=False),
    Column("kind", Text, CheckConstraint(one_of("kind", ShardKind), name="kind"), nullable=False),
    Column("queue", Text, nullable=False),  # the hosts that can open it
    Column(
        "state", Text, CheckConstraint(one_of("state", ShardState), name="state"), nullable=False
    ),
    Column("part", Integer, nullable=False, server_default="0"),  # of a scan cut into parts
    Column("parts", Integer, nullable=False, server_default="1"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("lapses", Integer, nullable=False, server_default="0"),  # offers that nobody took
    Column("until", DateTime(timezone=True)),  # of the offer or lease, by the database's clock
    Column("not_before", DateTime(timezone=True)),
    Column("owner", Text),
    Column("total", Integer, nullable=False, server_default="0"),
    *(Column(o.value, Integer, nullable=False, server_default="0") for o in Outcome),
    Column("kms_requests", BigInteger, nullable=False, server_default="0"),
    # Of the contents that a plan measured, or that were removed; in bytes.
    Column("content_bytes", BigInteger, nullable=False, server_default="0"),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint(
        " + ".join(o.value for o in Outcome) + " <= total OR kind <> 'rewrap'", name="balance"
    ),
    Index(None, "campaign_id", "state"),
    Index(
        "shard_waiting_idx",
        "campaign_id",
        "queue",
        "kind",
        "id",
        postgresql_where=text("state = 'waiting'"),
    ),
)

key_version = Table(
    "key_version",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("provider", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", Text, nullable=False),
    UniqueConstraint("key", "version"),
)

# One partition a campaign: an old campaign is dropped, not deleted row by row.
inventory = Table(
    "inventory",
    metadata,
    Column("campaign_id", Integer, primary_key=True),
    Column("blob_id", Text(collation="C"), primary_key=True),
    Column("shard_no", Integer, nullable=False),  # 0: listed, not handed to any shard
    Column("key_version_id", Integer),  # null: see problem
    Column("previous_id", Integer),  # what the `previous` wrap still needs
    Column("problem", Text),  # why no key could be read
    Column("wrap_bytes", SmallInteger),  # length of the wrap under a key of the environment
    # The generations of contents that its sidecar does not name; "" for the blob's own name.
    Column("leftovers", ARRAY(Text)),
    Column("tag", BigInteger),  # digest of the sidecar's version tag, where it was recorded
    Index(None, "campaign_id", "shard_no"),
    postgresql_partition_by="LIST (campaign_id)",
)

# Inserted once, in bulk, in the transaction that checks the fence.
outcome = Table(
    "outcome",
    metadata,
    Column("campaign_id", Integer, primary_key=True),
    Column("blob_id", Text(collation="C"), primary_key=True),
    Column("shard_no", Integer, nullable=False),
    Column(
        "outcome",
        Text,
        CheckConstraint(one_of("outcome", Outcome), name="outcome"),
        nullable=False,
    ),
    Column("reason_code", Text),
    Column("detail", Text),
    Index(
        "outcome_exception_idx",
        "campaign_id",
        "outcome",
        "reason_code",
        postgresql_where=text("outcome IN ('quarantined', 'failed', 'conflict')"),
    ),
    postgresql_partition_by="LIST (campaign_id)",
)

# The blobs that an inventory is given: one partition a list, dropped when they are looked at.
listed = Table(
    "listed",
    metadata,
    Column("list_id", Uuid, primary_key=True),
    Column("slot", SmallInteger, primary_key=True, autoincrement=False),  # see `ledger.listed`
    Column("blob_id", Text(collation="C"), primary_key=True),
    postgresql_partition_by="LIST (list_id)",
)

# The blobs that a verify shard opens, where they are a sample and not the shard's own inventory.
sample = Table(
    "sample",
    metadata,
    Column("campaign_id", ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True),
    Column("shard_no", Integer, primary_key=True),
    Column("blob_id", Text(collation="C"), primary_key=True),
)

# The encrypted backup of a campaign's wraps: its parts, and the digest of the list of them.
backup_part = Table(
    "backup_part",
    metadata,
    Column("campaign_id", ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True),
    Column("shard_no", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("blobs", Integer, nullable=False),
    Column("escrowed", Integer, nullable=False),
)

backup = Table(
    "backup",
    metadata,
    Column("campaign_id", ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True),
    Column("serial", Integer, nullable=False),
    Column("place", Text, nullable=False),
    Column("manifest", Text, nullable=False),  # the name of the newest list of parts
    Column("sha256", Text, nullable=False),
    Column("blobs", BigInteger, nullable=False),
    Column("recipients", Text, nullable=False),
    # When a person opened it with the offline identity and all of it was whole.
    Column("verified_at", DateTime(timezone=True)),
    moment(),
)

kek_rotation = Table(
    "kek_rotation",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),
    Column("from_version", Text, nullable=False),  # current when the rotation was asked for
    Column("to_version", Text),  # null until the KMS has made it
    Column("campaign_id", ForeignKey("campaign.id", ondelete="SET NULL")),
    moment(),
    Column("finished_at", DateTime(timezone=True)),
    Column("begun_at", DateTime(timezone=True)),  # when the KMS was asked for it
    # One at a time for a KEK, so that a rotation cut off is taken up and never minted twice.
    Index(
        "kek_rotation_open_idx", "key", unique=True, postgresql_where=text("finished_at IS NULL")
    ),
)

# A KEK version taken out of use, step by step. None is ever deleted from here.
retirement = Table(
    "retirement",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("step", Text, CheckConstraint(one_of("step", Step), name="step"), nullable=False),
    Column("closes", ARRAY(Text), nullable=False),  # what the service closes with it
    Column("backup_wraps", BigInteger),  # that open with nothing afterwards
    Column("object_versions", BigInteger),  # likewise; null: not looked into, or not yet
    Column("reason_code", Text),
    Column("reason", Text),
    Column("requested_by", Text, nullable=False),
    moment(),
    moment("step_at"),
    Column("finished_at", DateTime(timezone=True)),
    # One at a time for a KEK version, so that one cut off is taken up again.
    Index(
        "retirement_open_idx",
        "key",
        "version",
        unique=True,
        postgresql_where=text("step NOT IN ('retired', 'refused')"),
    ),
)

# The mark that a store bears, so that an empty mount point is not taken for it.
store_mark = Table(
    "store_mark",
    metadata,
    Column("store", Text, primary_key=True),
    Column("mark", Text, nullable=False),
)

# What was published in the control file of a store, and by whom.
publication = Table(
    "publication",
    metadata,
    Column("store_id", Text, primary_key=True),
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("primary_key", Text),  # key id of the KEK version that new wraps need
    Column(
        "cutover",
        Text,
        CheckConstraint(one_of("cutover", Cutover), name="cutover"),
        nullable=False,
    ),
    Column("max_age_s", Integer, nullable=False),  # the longest that readers obey it unread
    Column("issued_by", Text, nullable=False),
    Column("issued_at", DateTime(timezone=True), nullable=False),  # by the publisher's clock
    # When everybody obeys it, by the database's clock: what was published before is too old.
    Column("obeyed_at", DateTime(timezone=True), nullable=False),
)

# The segments of the audit trail. No foreign key: they outlive what they are about.
audit_segment = Table(
    "audit_segment",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),  # of its file
    Column("campaign_id", Integer, nullable=False, index=True),
    Column("shard_no", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),  # which claim of the shard
    Column("owner", Text, nullable=False),  # the process that wrote it
    Column("events", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),  # of its file, in bytes
    Column("sha256", LargeBinary, nullable=False),
    Column("closed_at", DateTime(timezone=True), nullable=False),  # by the writer's clock
    # Its entry in the chain, made by a tick after it was committed.
    Column("place", BigInteger, unique=True),
    Column("previous", LargeBinary),
    Column("hash", LargeBinary),
    CheckConstraint(
        "(place IS NULL) = (hash IS NULL) AND (place IS NULL) = (previous IS NULL)", name="chained"
    ),
    Index("audit_segment_unchained_idx", "id", postgresql_where=text("place IS NULL")),
)

# Campaigns that are opened again and again.
schedule = Table(
    "schedule",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("prefix", Text, nullable=False, server_default=""),
    Column("key", Text),  # null: the primary of that time
    Column("prove", Text, nullable=False, server_default=""),
    Column("sample_size", Integer),
    Column("escrow", Boolean, nullable=False, server_default=text("false")),
    Column("run_window", Text, nullable=False, server_default=""),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("next_at", DateTime(timezone=True), nullable=False),
    Column("try_at", DateTime(timezone=True), nullable=False),  # not before, after a failure
    Column("last_at", DateTime(timezone=True)),
    Column("last_campaign", Integer),
    Column("missed", Integer, nullable=False, server_default="0"),
    Column("reason_code", Text),
    Column("reason", Text),
    Column("created_by", Text, nullable=False),
    moment(),
)

# What one person asked for and a second one approved. No foreign key: they outlive campaigns.
approval = Table(
    "approval",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("nonce", Uuid, nullable=False, unique=True),  # what both signatures are made for
    Column("action", Text, nullable=False),
    Column("plan", Text, nullable=False),  # exactly what, in canonical JSON
    Column("campaign_id", Integer, index=True),
    Column("requested_by", Text, nullable=False),
    Column("account", Text, nullable=False),  # that they typed it on
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("request_signature", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),  # why without a second person
    Column("approved_by", Text, nullable=False, server_default=""),
    Column("approved_at", DateTime(timezone=True)),
    Column("approval_signature", LargeBinary, nullable=False, server_default=""),
    Column("used_at", DateTime(timezone=True)),  # it is good for once
    moment(),
)

heartbeat = Table(
    "heartbeat",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
)
