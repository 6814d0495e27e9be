"""Campaigns: asking for one, and stepping it from state to state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Connection, RowMapping, text

from keywrap.keys import KeyVersion
from keywrap.reasons import ReasonedError
from keywrap.rewrapping import Prove, Selection, selects
from ledger import partitions, retirements
from ledger.states import (
    FINISHED,
    MOVING,
    OPEN,
    RESUMABLE,
    REWRAPPING,
    WORKING,
    Kind,
    State,
    sources_of,
)

MIN_SAMPLE = 500
"""The least number of blobs that a sample opens: 0 bad of 459 shows under 1% bad with 99%
confidence."""

_REQUESTS = 0x7277_0001
"""Advisory lock: campaign requests are judged one at a time."""


class RequestRefusedError(ReasonedError):
    """A request that a rule refuses; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for.

    Attributes:
        kind: what the campaign does.
        requested_by: who asks.
        prefix: only blobs whose id starts so.
        target: the KEK version to wrap under; None for an inventory or a verify campaign.
        prove: how new wraps are proved; None where nothing is wrapped.
        sample: the fraction of rewrapped blobs that the verifying task opens.
        sample_size: how many blobs a verify campaign or a plan opens; None for all, which no plan
            does.
        store: which store, as the configuration that it was asked with describes it; a worker of
            another configuration does not touch it. Empty: any.
        plan_of: what a plan plans for, `migrate` or `rotate`; None for every other kind.
        follows: the campaign whose wraps are sealed or undone; None for every other kind.
        backs_up: whether each wrap is backed up before it is replaced.
        escrow: whether the backup holds the data keys themselves too.
        run_window: when it may run (`workers.windows`); empty: as the configuration says.
        finish_by: when it is to be finished; None where nobody waits for it.
        urgent: whether it ignores windows and goes before every other.
        max_rate: the most requests a second to key services, of all workers; None: no such limit.
        list_id: the list of blobs that an inventory looks at (`ledger.listed`); None: it lists the
            store.
        is_incremental: whether it takes what an earlier inventory found of a sidecar whose version
            tag is the same.
    """

    kind: Kind
    requested_by: str
    prefix: str = ""
    target: KeyVersion | None = None
    prove: Prove | None = None
    sample: float | None = None
    sample_size: int | None = None
    store: str = ""
    plan_of: Kind | None = None
    follows: int | None = None
    backs_up: bool = False
    escrow: bool = False
    run_window: str = ""
    finish_by: datetime | None = None
    urgent: bool = False
    max_rate: float | None = None
    list_id: UUID | None = None
    is_incremental: bool = False


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign as the ledger has it."""

    id: int
    kind: Kind
    state: State
    prefix: str
    target: KeyVersion | None
    prove: Prove | None
    sample: float | None
    sample_size: int | None
    reason_code: str | None
    reason: str | None
    resume_state: State | None
    passes: int
    gates_passed: bool
    store: str
    requested_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    plan_of: Kind | None
    follows: int | None = None
    backs_up: bool = False
    escrow: bool = False
    run_window: str = ""
    finish_by: datetime | None = None
    urgent: bool = False
    max_rate: float | None = None
    list_id: UUID | None = None
    is_incremental: bool = False
    lists_dropped_at: datetime | None = None
    nonce: UUID = field(default_factory=uuid4, repr=False)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in FINISHED

    @property
    def stage(self) -> State:
        """What its shards are for: its state, or the one it goes back to after a wait."""
        return self.state if self.state in RESUMABLE else self.resume_state or self.state

    @property
    def has_canary_out(self) -> bool:
        """Whether what its verifying task opens is its canary, and not yet the proof of its wraps.

        The canary of a queue without hosts may come back when others have begun to rewrap.
        """
        return self.kind in REWRAPPING and self.passes == 0

    @property
    def selection(self) -> Selection:
        """Which wraps it moves, or those that the campaign it plans for would move."""
        kind = self.plan_of or self.kind
        if kind is Kind.REENCRYPT:
            return Selection.ALL
        return Selection.LEGACY if kind is Kind.MIGRATE else Selection.MANAGED

    def moves(self, version: KeyVersion) -> bool:
        """Whether it moves wraps of a KEK version, or the campaign it plans for would."""
        there = self.target is not None and version.satisfies(self.target)
        return self.selection is Selection.ALL or (selects(self.selection, version) and not there)


_COLUMNS = ", ".join(Campaign.__slots__)
_ASKED = Request.__slots__


def select(connection: Connection, which: str, **values: object) -> list[Campaign]:
    """Return campaigns.

    Args:
        connection: the transaction.
        which: what follows `FROM campaign` in the statement; never anybody's input.
        values: of its parameters.
    """
    rows = connection.execute(
        text(f"SELECT {_COLUMNS} FROM campaign {which}"),  # noqa: S608 - constants of callers
        values,
    ).mappings()
    return [_campaign(row) for row in rows]


def _campaign(row: RowMapping) -> Campaign:
    values = dict(row)
    values["kind"] = Kind(row["kind"])
    values["state"] = State(row["state"])
    values["target"] = KeyVersion.parse(row["target"]) if row["target"] else None
    values["prove"] = Prove(row["prove"]) if row["prove"] else None
    values["resume_state"] = State(row["resume_state"]) if row["resume_state"] else None
    values["plan_of"] = Kind(row["plan_of"]) if row["plan_of"] else None
    return Campaign(**values)


def request(connection: Connection, asked: Request) -> int:
    """Open a campaign; the next tick takes it up.

    Returns:
        The campaign's id.

    Raises:
        RequestRefusedError: another open campaign moves some of the same blobs.
    """
    if asked.kind in MOVING:
        refuse_overlap(connection, asked.prefix)
        _refuse_retired(connection, asked)
    values = {name: getattr(asked, name) for name in _ASKED}
    campaign_id = int(
        connection.execute(
            text(
                f"INSERT INTO campaign (state, {', '.join(_ASKED)})"  # noqa: S608 - constants
                f" VALUES ('planned', {', '.join(f':{name}' for name in _ASKED)}) RETURNING id"
            ),
            {**values, "target": str(asked.target) if asked.target else None},
        ).scalar_one()
    )
    for table in ("inventory", "outcome"):
        partitions.add(connection, table, campaign_id)
    return campaign_id


def lock_requests(connection: Connection) -> None:
    """Judge requests alone until the end of this transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _REQUESTS})


def _refuse_retired(connection: Connection, asked: Request) -> None:
    """Refuse to put wraps under a KEK version that is being taken out of use.

    Judged under the lock of `refuse_overlap`, which whoever retires a version takes as well.
    """
    retiring = retirements.any_open(connection)
    if asked.kind is Kind.UNDO and retiring:
        # What an undo puts back may need just that version.
        raise RequestRefusedError(
            "key_version_retiring",
            f"{retiring} is being retired, and an undo may put wraps back that need it; nothing "
            "was changed",
            f"rewrap retire '{retiring}' --status",
        )
    to_it = asked.kind in REWRAPPING and asked.target is not None
    if to_it and asked.target and retirements.is_barred(connection, asked.target):
        raise RequestRefusedError(
            "key_version_retired",
            f"{asked.target} is retired or being retired; nothing was changed",
            f"rewrap retire '{asked.target}' --status",
        )


def refuse_overlap(connection: Connection, prefix: str) -> None:
    """Refuse to move blobs that an open campaign moves already.

    Until the end of this transaction nobody else opens one.

    Raises:
        RequestRefusedError: there is such a campaign.
    """
    lock_requests(connection)
    other = connection.execute(
        text(
            "SELECT id, kind, prefix FROM campaign"
            " WHERE kind = ANY(:moving) AND state = ANY(:open)"
            " AND (starts_with(prefix, :prefix) OR starts_with(:prefix, prefix)) LIMIT 1"
        ),
        {"moving": list(MOVING), "open": list(OPEN), "prefix": prefix},
    ).one_or_none()
    if other:
        raise RequestRefusedError(
            "already_open",
            f"campaign {other.id} ({other.kind}) is open and moves some of the same blobs; "
            "nothing was changed",
            f"rewrap status {other.id}",
        )


def get(connection: Connection, campaign_id: int) -> Campaign | None:
    """Return a campaign, or None where there is none of that id."""
    return next(iter(select(connection, "WHERE id = :id", id=campaign_id)), None)


def recent(connection: Connection, limit: int = 20) -> list[Campaign]:
    """Return the newest campaigns, the newest first."""
    return select(connection, "ORDER BY id DESC LIMIT :limit", limit=limit)


def open_campaigns(connection: Connection) -> list[Campaign]:
    """Return the campaigns that are not finished, urgent ones and then the oldest first."""
    return select(connection, "WHERE state = ANY(:open) ORDER BY urgent DESC, id", open=list(OPEN))


def step(
    connection: Connection,
    campaign_id: int,
    target: State,
    *,
    sources: Sequence[State] | None = None,
    reason_code: str | None = None,
    reason: str | None = None,
) -> bool:
    """Step a campaign, only from a state that may go there.

    Args:
        connection: the transaction.
        campaign_id: the campaign.
        target: the state to step to.
        sources: the states it may come from; None for all that the transition table allows.
        reason_code: why it waits; None clears the reason.
        reason: the same as a sentence.

    Returns:
        Whether it stepped; False where it is in another state by now.
    """
    allowed = sources_of(target)
    states = [s for s in sources if s in allowed] if sources is not None else allowed
    changed = connection.execute(
        text(
            "UPDATE campaign SET state = :target, reason_code = :reason_code, reason = :reason,"
            " resume_state = CASE WHEN state = ANY(:resumable) THEN state ELSE resume_state END,"
            " started_at = CASE WHEN started_at IS NULL AND :target = 'inventory'"
            "   THEN clock_timestamp() ELSE started_at END,"
            " finished_at = CASE WHEN :target = ANY(:finished) THEN clock_timestamp() END"
            " WHERE id = :id AND state = ANY(:states)"
        ),
        {
            "id": campaign_id,
            "target": target,
            "states": states,
            "reason_code": reason_code,
            "reason": reason,
            "finished": list(FINISHED),
            "resumable": list(RESUMABLE),
        },
    )
    return changed.rowcount == 1


def max_rate(connection: Connection, campaign_id: int) -> float | None:
    """Return the most requests a second of a campaign, as it is now; None: no such limit."""
    rate: float | None = connection.scalar(
        text("SELECT max_rate FROM campaign WHERE id = :id"), {"id": campaign_id}
    )
    return rate


def count_pass(connection: Connection, campaign_id: int) -> None:
    """Note that a fresh scan was made."""
    connection.execute(
        text("UPDATE campaign SET passes = passes + 1 WHERE id = :id"), {"id": campaign_id}
    )


def is_working(connection: Connection, campaign_id: int) -> bool:
    """Whether workers may work for the campaign now."""
    return bool(
        connection.scalar(
            text("SELECT state = ANY(:working) FROM campaign WHERE id = :id"),
            {"id": campaign_id, "working": list(WORKING)},
        )
    )
