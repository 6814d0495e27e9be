"""What is sent to a webhook: our own JSON document, or what Slack takes."""

import re
from typing import Any

from ledger.alerts import RESOLVED, Alert

VERSION = 1

_MARKS = {"info": "i", "warning": "!", "critical": "!!"}
_FORMATTING = re.compile(r"([*_~`@#\[\]()|])")
_NO_BREAK = "\u200b"


def document(alert: Alert, event: str, store: str) -> dict[str, Any]:
    """Return a message as the format `json` has it (docs/alerts.md).

    Args:
        alert: the alert.
        event: `raised` or `resolved`; `test` where somebody tries the webhook.
        store: which store it is about.
    """
    says = alert.condition
    return {
        "version": VERSION,
        "id": f"{alert.id}-{event}",
        "event": event,
        "kind": says.kind,
        "severity": says.severity,
        "campaign": says.campaign_id,
        "text": says.text,
        "next_command": says.next_command or None,
        "store": store or None,
        "raised_at": alert.raised_at.isoformat(timespec="seconds"),
        "resolved_at": (
            alert.resolved_at.isoformat(timespec="seconds") if alert.resolved_at else None
        ),
    }


def slack(alert: Alert, event: str, store: str) -> dict[str, Any]:
    """Return a message as Slack's incoming webhooks take it.

    Blob ids and reasons of others are in the text. The block is plain text, in which Slack reads
    no formatting, mention or link; `text`, which notifications and other programs show, is escaped
    as Slack's "Formatting text" has it, and what else begins formatting is kept apart.
    """
    says = alert.condition
    mark = "resolved" if event == RESOLVED else f"{_MARKS[says.severity]} {says.severity}"
    lines = [f"{mark}: {says.text}"]
    if says.next_command and event != RESOLVED:
        lines.append(f"next: {says.next_command}")
    if store:
        lines.append(f"store: {store}")
    text = "\n".join(lines)
    return {
        "text": escaped(text),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "section", "text": {"type": "plain_text", "text": text, "emoji": False}}
        ],
    }


def escaped(text: str) -> str:
    """Return text that Slack's mrkdwn and Markdown show as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _FORMATTING.sub(rf"\1{_NO_BREAK}", text)


BUILDERS = {"json": document, "slack": slack}
