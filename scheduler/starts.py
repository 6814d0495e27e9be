"""A campaign that is asked for in Flower: what can be said of it, and the same rules as at a desk.

The words are those of `rewrap start`, and so are the functions that judge them.
"""

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ledger import approvals
from ledger.campaigns import Request
from ledger.states import Kind
from scheduler import mismatch
from scheduler.backing import backs_up
from scheduler.commands.starting import Instant, RateType, RunWindow
from scheduler.desk import REFUSED, Desk, DeskError
from scheduler.proofs import ProveType
from scheduler.proposals import propose

Line = Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody asks for, in the words of `rewrap start`.

    Attributes:
        kind: what the campaign does.
        prefix: only blobs whose id starts so.
        to: the KEK to wrap under; empty: the primary.
        prove: how new wraps are proved; empty: the default.
        window: when it may run; empty: as the configuration says.
        max_rate: the most requests a second to key services; None: as the quotas allow.
        finish_by: when it is to be finished, with its zone; empty: nobody waits for it.
        escrow: whether the backup holds the data keys themselves too.
        urgent: whether it ignores windows and goes before every other.
    """

    kind: Literal["migrate", "rotate", "reencrypt"]
    prefix: Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00]*\Z")] = ""
    to: Line = ""
    prove: Line = ""
    window: Line = ""
    max_rate: float | None = None
    finish_by: Line = ""
    escrow: bool = False
    urgent: bool = False

    def text(self) -> str:
        """Return it as the ledger keeps it: the same start is the same text.

        Raises:
            UnicodeEncodeError: something in it is not Unicode.
        """
        return msgspec.json.encode(self).decode()


def request_of(desk: Desk, start: Start, requested_by: str) -> Request:
    """Return the request for a campaign, as `rewrap start` makes it; asks the KEK's service.

    Raises:
        DeskError, ConfigError: the configuration does not allow it, or it needs two people.
        click.BadParameter: a word of it cannot be read.
        KmsError: the KEK's version cannot be read.
    """
    kind = Kind(start.kind)
    proof = ProveType()(start.prove) if start.prove else None
    window = RunWindow()(start.window) if start.window else ""
    finish_by = Instant()(start.finish_by) if start.finish_by else None
    max_rate = None if start.max_rate is None else RateType()(start.max_rate)
    _refuse_two_people(desk, start, kind)
    mismatch.require_none(desk, kind, start.prefix)
    backed_up = backs_up(desk, escrow=start.escrow)  # before any service is asked
    proposal = replace(
        propose(desk, kind, start.prefix, start.to or None, proof),
        backs_up=backed_up,
        escrow=start.escrow,
        run_window=window,
        finish_by=finish_by,
        max_rate=max_rate,
        urgent=start.urgent,
    )
    return replace(proposal.request(), requested_by=requested_by)


def _refuse_two_people(desk: Desk, start: Start, kind: Kind) -> None:
    """Refuse what [approvals] wants two signatures for: in Flower nobody can sign."""
    action = approvals.opening(kind, desk.settings.approvals.required, urgent=start.urgent)
    if action is None:
        return
    raise DeskError(
        f"[approvals] wants two people for {action}, and each signs with a key of their own at the "
        "desk; nothing was changed",
        exit_code=REFUSED,
        reason_code="approval_wanted",
        next_command=f"rewrap start {kind}{' --urgent' if start.urgent else ''}",
    )
