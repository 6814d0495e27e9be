"""The table `[alerts]`: whom to tell what, by webhook, and when something counts as wrong."""

import ipaddress
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from keywrap.config import ConfigError
from keywrap.tables.common import read_table

_LONGEST_URL = 2048

HookName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class AlertKind(StrEnum):
    """What is told."""

    CAMPAIGN_BLOCKED = "campaign_blocked"  # a KEK or service refuses
    CAMPAIGN_STOPPED = "campaign_stopped"  # a gate stopped it
    CAMPAIGN_STALLED = "campaign_stalled"  # it may run, and nothing moves
    CAMPAIGN_LATE = "campaign_late"  # its forecast is red
    CAMPAIGN_EXCEPTIONS = "campaign_exceptions"  # finished, and some blobs need a person
    CAMPAIGN_COMPLETE = "campaign_complete"
    BLOBS_QUARANTINED = "blobs_quarantined"  # the first of a campaign
    UNWRAP_ERRORS = "unwrap_errors"  # too large a share of a campaign's blobs
    UNUSUAL_VOLUME = "unusual_volume"  # more requests to key services than lately
    LIVE_THROTTLED = "live_throttled"  # the key service throttles whoever uses the KEK
    AUDIT_BROKEN = "audit_broken"  # the chain of the audit trail was changed
    APPROVAL_WAITING = "approval_waiting"
    NO_WORKERS = "no_workers"  # nobody takes the shards that are offered
    SCHEDULER_SILENT = "scheduler_silent"  # the process lives and does not tick
    SCHEDULE_MISSED = "schedule_missed"
    BACKUP_OLD = "backup_old"


class Severity(StrEnum):
    """How soon a person must look: never, today, now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


RANKS = {severity: rank for rank, severity in enumerate(Severity)}


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where alerts are sent. The URL is a secret: whoever has it may write there.

    Attributes:
        url_file: the file that holds it; read again for each message.
        url_env: or the environment variable of the scheduler that does.
        format: `json`: our own document; `slack`: what Slack's incoming webhooks take, and those
            of Mattermost and others.
        min_severity: the least severe that is sent.
        kinds: only these; empty: all.
    """

    url_file: str = ""
    url_env: str = ""
    format: Literal["json", "slack"] = "json"
    min_severity: Severity = Severity.WARNING
    kinds: tuple[AlertKind, ...] = ()

    def wants(self, kind: AlertKind, severity: Severity) -> bool:
        """Whether an alert is to be sent here."""
        return RANKS[severity] >= RANKS[self.min_severity] and (
            not self.kinds or kind in self.kinds
        )

    def url(self, environ: Mapping[str, str] = os.environ) -> str:
        """Read the URL.

        Raises:
            ConfigError: there is none, or it is none that may be used.
        """
        if self.url_env:
            text = environ.get(self.url_env, "")
            place = f"the environment variable {self.url_env}"
        else:
            place = self.url_file
            try:
                text = Path(self.url_file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise ConfigError("[alerts] url_file", f"{place}: {why}") from None
        url = text.strip()
        if flaw := _flaw(url):
            raise ConfigError("[alerts]", f"{place}: {flaw}")  # a secret: it is not repeated
        return url


class Alerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts as wrong, and who is told. No environment variable changes these.

    Attributes:
        webhooks: where alerts are sent, by a name of the operator's.
        stalled_s: seconds without any progress after which a campaign that may run has stalled.
        unwrap_errors_percent: the largest share of blobs that may be quarantined or fail.
        unusual_factor: how many times the requests of the busiest hour lately are unusual.
        baseline_days: how long ago an hour is lately.
        backup_days: how old the newest backup may be.
    """

    webhooks: dict[HookName, Webhook] = {}
    stalled_s: Annotated[float, Meta(ge=10, le=86_400)] = 1800.0
    unwrap_errors_percent: Annotated[float, Meta(ge=0, le=100)] = 1.0
    unusual_factor: Annotated[float, Meta(ge=1, le=1000)] = 3.0
    baseline_days: Annotated[int, Meta(ge=1, le=90)] = 30
    backup_days: Annotated[int, Meta(ge=1, le=3650)] = 30


def read_alerts(value: object, folder: Path) -> Alerts:
    """Read and check the table; reads no URL.

    Args:
        value: the table.
        folder: the folder of the TOML, to which files are relative.

    Raises:
        ConfigError: something is unknown, of another form, or a webhook names not one place.
    """
    table = read_table("[alerts]", value, Alerts)
    for name, hook in table.webhooks.items():
        if bool(hook.url_file) == bool(hook.url_env) or "\0" in hook.url_file:
            raise ConfigError(
                f"[alerts.webhooks.{name}]",
                "its URL is a secret: name the file or the environment variable that holds it",
                next_command='url_file = "/run/secrets/alert-url"',
            )
    hooks = {
        name: msgspec.structs.replace(hook, url_file=str(folder / hook.url_file))
        if hook.url_file
        else hook
        for name, hook in table.webhooks.items()
    }
    return msgspec.structs.replace(table, webhooks=hooks)


def _flaw(url: str) -> str:
    """Return why a URL may not be used; empty where it may."""
    if not url:
        return "it holds no URL"
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return "that is no URL"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "that is no URL"
    if not host or "@" in parts.netloc:
        return "expected https://host/path, without a user in it"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)):
        return ""
    return "expected https://…: what is sent there tells of keys and blobs"


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
