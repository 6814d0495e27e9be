"""`rewrap pause`, `resume`, `cancel` and `retry`: asking something of an open campaign."""

import click
from click.core import ParameterSource

from keywrap.rewrapping import Outcome
from ledger import campaigns, progress, wishes
from ledger.approvals import Action
from ledger.campaigns import Campaign
from ledger.connection import Connection
from scheduler import approving
from scheduler.approving import NO_PERMIT, Permit, break_glass
from scheduler.commands.reading import CAMPAIGN_ID
from scheduler.commands.starting import max_rate
from scheduler.desk import Desk, no_campaign

_campaign = click.argument("campaign", type=CAMPAIGN_ID)


def _asked(connection: Connection, campaign_id: int) -> Campaign:
    campaign = campaigns.get(connection, campaign_id)
    if campaign is None:
        raise no_campaign(campaign_id)
    return campaign


@click.command()
@_campaign
@click.pass_obj
def pause(desk: Desk, campaign: int) -> None:
    """Make a campaign wait: workers hand their shards back between two batches.

    Example: rewrap pause 3
    """
    with desk.ledger.begin() as connection:
        state = wishes.pause(connection, _asked(connection, campaign))
    click.echo(f"campaign {campaign} is {state}\nnext: rewrap resume {campaign}")


@click.command()
@_campaign
@click.pass_obj
def resume(desk: Desk, campaign: int) -> None:
    """Let a paused or stopped campaign go on.

    Example: rewrap resume 3
    """
    with desk.ledger.begin() as connection:
        state = wishes.resume(connection, _asked(connection, campaign))
    click.echo(f"campaign {campaign} is {state}\nnext: rewrap status {campaign} --watch")


@click.command()
@_campaign
@click.pass_obj
def cancel(desk: Desk, campaign: int) -> None:
    """End a campaign for good. What it has rewrapped stays so; every blob still opens.

    Example: rewrap cancel 3
    """
    with desk.ledger.begin() as connection:
        state = wishes.cancel(connection, _asked(connection, campaign))
    click.echo(f"campaign {campaign} is {state}\nnext: rewrap status {campaign}")


@click.command()
@_campaign
@max_rate
@click.pass_obj
def pace(desk: Desk, campaign: int, max_rate: float | None) -> None:
    """Change how many requests a second a campaign sends to key services, while it runs.

    Of all its workers together; they hear of it within seconds. The quotas of [pace] hold as well.

    Examples: rewrap pace 3 --max-rate 200
    rewrap pace 3 --max-rate none
    """
    context = click.get_current_context()
    if context.get_parameter_source("max_rate") is ParameterSource.DEFAULT:
        raise click.UsageError("give --max-rate R, or --max-rate none")
    with desk.ledger.begin() as connection:
        wishes.pace(connection, _asked(connection, campaign), max_rate)
    most = "as the quotas allow" if max_rate is None else f"at most {max_rate:g} requests/s"
    click.echo(f"campaign {campaign}: {most}\nnext: rewrap status {campaign} --watch")


@click.command()
@_campaign
@click.option("--quarantined", is_flag=True, help="Take up the quarantined blobs as well.")
@break_glass
@click.pass_obj
def retry(desk: Desk, campaign: int, *, quarantined: bool, break_glass: str) -> None:
    """Take up again what failed or met a conflict.

    Example: rewrap retry 3 --quarantined
    """
    permit = _permit(desk, campaign, break_glass) if quarantined else NO_PERMIT
    with desk.ledger.begin() as connection:
        count = wishes.retry(connection, _asked(connection, campaign), quarantined=quarantined)
        permit.use(connection)
    click.echo(f"{count} blobs are pending again\nnext: rewrap status {campaign} --watch")


def _permit(desk: Desk, campaign_id: int, reason: str) -> Permit:
    """Return what permits to take up quarantined blobs of a campaign; see `approving.permit`."""
    with desk.ledger.begin() as connection:
        campaign = _asked(connection, campaign_id)
        done = progress.read(connection, campaign_id, campaign.kind)
    plan = {
        "campaign": campaign_id,
        "nonce": str(campaign.nonce),
        "kind": campaign.kind.value,
        "store": campaign.store,
        "quarantined": done.counts[Outcome.QUARANTINED],
    }
    return approving.permit(desk, Action.RETRY_QUARANTINED, plan, reason, campaign_id)
