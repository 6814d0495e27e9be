"""Why a campaign waits, and what to type next."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from keywrap.rewrapping import Outcome
from ledger import approvals, campaigns, history, progress, serving
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.progress import Progress
from ledger.queues import QUEUE
from ledger.states import MOVING, WORKING, Kind, State
from scheduler.gates import NOTHING_PUT_BACK
from workers.windows import ALWAYS, Calendar

NO_SCHEDULER = "no_scheduler"
"""The reason code where no scheduler ticks."""

_PERSON = {State.AWAITING_APPROVAL, State.PAUSED, State.STOPPED}
_SILENT = timedelta(seconds=15)
_HINTS = {
    "permission_denied": " (a token_file is read again; a token in the environment only when the "
    "workers are restarted)",
}


@dataclass(frozen=True, slots=True)
class Wait:
    """Why nothing moves, if nothing does, and the next command."""

    reason_code: str | None = None
    reason: str | None = None
    next_command: str | None = None


def why(
    connection: Connection, campaign: Campaign, done: Progress, calendar: Calendar = ALWAYS
) -> Wait:
    """Say why a campaign waits and what the operator may do next."""
    if campaign.is_finished:
        if stayed := _stayed(connection, campaign, done):
            return stayed
        return Wait(campaign.reason_code, campaign.reason, after(campaign))
    if silent := silence(connection):
        return Wait(NO_SCHEDULER, f"no scheduler has ticked {silent}", "rewrap scheduler")
    if campaign.state in _PERSON:
        return Wait(campaign.reason_code, campaign.reason, _person(connection, campaign))
    return _closed(connection, campaign, calendar) or _idle(connection, campaign, done)


def _stayed(connection: Connection, campaign: Campaign, done: Progress) -> Wait | None:
    """Say which later campaigns have left what a seal has not stripped, if any."""
    excluded = done.counts[Outcome.EXCLUDED]
    if campaign.kind is not Kind.SEAL or campaign.follows is None or not excluded:
        return None
    followed = campaigns.get(connection, campaign.follows)
    later = history.left_since(connection, followed) if followed else []
    if not later:
        return None
    named = ", ".join(f"campaign {other.id} ({other.kind})" for other in later)
    return Wait(
        "not_of_campaign",
        f"{excluded:,} of {done.decided:,} blobs keep their wraps before, which a later campaign "
        f"has left: {named}",
        f"rewrap seal {later[-1].id}",
    )


def _idle(connection: Connection, campaign: Campaign, done: Progress) -> Wait:
    """Say why a campaign that may run does not, if so."""
    queued = serving.unserved(connection, campaign.id) if done.unclaimed else {}
    idle = [queue for queue, is_idle in queued.items() if is_idle]
    is_probed = QUEUE in queued or len(idle) < len(queued)
    if campaign.state is State.BLOCKED and (is_probed or not idle):
        code = campaign.reason_code or ""
        return Wait(
            campaign.reason_code,
            f"{campaign.reason}; it goes on by itself when that is mended{_HINTS.get(code, '')}",
            "rewrap preflight",  # it tries each of them for real
        )
    if idle:
        return _nobody(idle)
    return Wait(campaign.reason_code, campaign.reason, f"rewrap status {campaign.id} --watch")


def _person(connection: Connection, campaign: Campaign) -> str:
    """Say what a person does for a campaign that waits for one."""
    if campaign.state is not State.AWAITING_APPROVAL:
        return f"rewrap resume {campaign.id}"
    asked = approvals.pending(connection, campaign.id)
    return f"rewrap approve {asked[0].id}" if asked else f"rewrap cancel {campaign.id}"


def _closed(connection: Connection, campaign: Campaign, calendar: Calendar) -> Wait | None:
    """Say when a campaign may run again, if it may not now."""
    if calendar is ALWAYS or campaign.state not in WORKING:
        return None
    now = progress.now(connection)
    at = calendar.opens_at(now)
    if at == now:
        return None
    window = f"its window is {campaign.run_window}" if campaign.run_window else "[windows]"
    again = f"it goes on at {at.isoformat(timespec='minutes')}" if at else "it never opens again"
    return Wait("outside_window", f"{window}: {again}", f"rewrap status {campaign.id} --watch")


def _nobody(idle: list[str]) -> Wait:
    """Say which queues nobody serves; the default one first, since scans wait for it too."""
    if QUEUE in idle:
        return Wait(
            "no_worker",
            "no worker takes the shards that are offered: none runs, or their logs say why",
            "rewrap worker",
        )
    named = f"queue {idle[0]}" if len(idle) == 1 else f"queues {', '.join(idle)}"
    return Wait(
        "no_worker_for_queue",
        f"no worker serves the {named}, whose hosts alone hold the keys of some blobs; it goes on "
        "by itself when one does, and the other blobs go on meanwhile",
        f"rewrap worker --queues {idle[0]}",
    )


def silence(connection: Connection) -> str:
    """Say how long no scheduler has ticked; empty where one has lately."""
    at: datetime | None = progress.last_beat(connection)
    if at is None:
        return "yet"
    silent = progress.now(connection) - at
    return f"for {silent.total_seconds():.0f} s" if silent > _SILENT else ""


def after(campaign: Campaign) -> str | None:
    """Return what to type once a campaign is finished; None: nothing."""
    if campaign.reason_code == NOTHING_PUT_BACK.reason_code:
        return f"rewrap blobs {campaign.id} --outcome excluded"
    if campaign.state is State.COMPLETE_WITH_EXCEPTIONS:
        return f"rewrap blobs {campaign.id} --outcome quarantined"
    if campaign.state is State.COMPLETE and campaign.kind is Kind.BACKUP:
        return f"rewrap backup verify {campaign.id} --identity FILE"
    if campaign.state is State.COMPLETE and campaign.kind in MOVING:
        return "rewrap verify --sample 500"
    return None
