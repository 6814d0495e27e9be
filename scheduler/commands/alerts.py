"""`rewrap alerts`: what is wrong, what was, and whether the webhooks were told."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from ledger import alerts as stored
from ledger.alerts import Alert, Condition, Delivery
from scheduler import showing
from scheduler.alert_messages import BUILDERS
from scheduler.alerting import deliver
from scheduler.commands.reading import as_json, say_silence
from scheduler.desk import DONE, UNREACHABLE, USAGE, Desk, DeskError
from scheduler.showing import plain
from scheduler.webhooks import Poster

_TEST = "test"


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def alerts(context: click.Context, *, as_json: bool) -> None:
    """List what is wrong now, and what was lately; with what became of the messages.

    Examples: rewrap alerts
    rewrap alerts test
    """
    if context.invoked_subcommand is not None:
        return
    desk: Desk = context.obj
    with desk.ledger.begin() as connection:
        found = stored.listed(connection)
        sent = stored.deliveries(connection, found)
    if as_json:
        showing.document([_document(alert, sent) for alert in found])
        return
    for alert in found:
        _say(alert, [one for one in sent if one.alert is alert])
    if not found:
        click.echo("no alerts yet")
    say_silence(desk, "nobody looks what is wrong")
    if not desk.settings.alerts.webhooks:
        click.echo("no webhook is configured: nobody is told   ([alerts.webhooks], docs/alerts.md)")


def _say(alert: Alert, sent: Sequence[Delivery]) -> None:
    says = alert.condition
    if alert.is_open:
        when = f"since {alert.raised_at:%m-%d %H:%M} UTC"
    elif alert.resolved_at:
        when = f"{alert.raised_at:%m-%d %H:%M} to {alert.resolved_at:%m-%d %H:%M} UTC"
    else:
        when = f"at {alert.raised_at:%m-%d %H:%M} UTC"
    state = "OPEN " if alert.is_open else ""
    click.echo(f"{state}{says.severity} {says.kind} {when}: {plain(says.text)}")
    for one in sent:
        how = "delivered" if one.is_delivered else "given up" if one.ended_at else "waits"
        tries = f" after {one.attempts} attempts" if one.attempts > 1 else ""
        answer = "" if one.is_delivered or not one.answer else f": {plain(one.answer)}"
        click.echo(f"   {one.webhook}: {one.event} {how}{tries}{answer}")
    if alert.is_open and says.next_command:
        click.echo(f"   next: {says.next_command}")


def _document(alert: Alert, sent: Sequence[Delivery]) -> dict[str, Any]:
    says = alert.condition
    return {
        "id": alert.id,
        "kind": says.kind,
        "severity": says.severity,
        "campaign": says.campaign_id,
        "text": says.text,
        "next_command": says.next_command or None,
        "is_open": alert.is_open,
        "raised_at": alert.raised_at.isoformat(timespec="seconds"),
        "resolved_at": (
            alert.resolved_at.isoformat(timespec="seconds") if alert.resolved_at else None
        ),
        "deliveries": [
            {
                "webhook": one.webhook,
                "event": one.event,
                "is_delivered": one.is_delivered,
                "is_given_up": bool(one.ended_at) and not one.is_delivered,
                "attempts": one.attempts,
                "answer": one.answer or None,
            }
            for one in sent
            if one.alert is alert
        ],
    }


@alerts.command(_TEST)
@as_json
@click.pass_obj
def test(desk: Desk, *, as_json: bool) -> int:
    """Send a test message to every webhook, once, and say what came back. Exit code 0 or 3.

    Needs no ledger. It is sent from here: a webhook's `url_env` must be set here as well.

    Example: rewrap alerts test
    """
    hooks = desk.settings.alerts.webhooks
    if not hooks:
        raise DeskError(
            "no webhook is configured; nothing was sent",
            exit_code=USAGE,
            reason_code="no_webhook",
            next_command="add [alerts.webhooks.NAME] to the configuration (docs/alerts.md)",
        )
    says = Condition("", _TEST, "info", "this is a test of rewrap's alerts; all is well")
    alert = Alert(0, says, datetime.now(UTC), None)
    place = desk.settings.keywrap.store.url
    answers = {}
    for name, hook in hooks.items():
        message = BUILDERS[hook.format](alert, _TEST, place)
        message_id = f"{_TEST}-{datetime.now(UTC).timestamp()}"
        answers[name] = deliver(Poster(), hook, message, message_id)
    if as_json:
        showing.document(
            [
                {"webhook": name, "is_delivered": answer.is_delivered, "answer": answer.says}
                for name, answer in answers.items()
            ]
        )
    else:
        for name, answer in answers.items():
            how = "delivered" if answer.is_delivered else "NOT delivered"
            click.echo(f"{name}: {how}: {answer.says}")
    return DONE if all(answer.is_delivered for answer in answers.values()) else UNREACHABLE
