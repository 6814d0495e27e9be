from pathlib import Path

import pytest

from keywrap.config import ConfigError
from workers.alerts_table import AlertKind, Severity, Webhook
from workers.settings import load

CONFIG = '[store]\nurl = "file:///nowhere"\n'
SECRET = "secret-of-the-hook"


def alerts(folder: Path, text: str, **environ: str) -> object:
    (folder / "rewrap.toml").write_text(CONFIG + text)
    return load(str(folder / "rewrap.toml"), environ).alerts


@pytest.mark.parametrize(
    "text",
    [
        "[alerts.webhooks.ops]",
        '[alerts.webhooks.ops]\nurl = "https://hooks.example.com"',
        '[alerts.webhooks.ops]\nurl_file = "a"\nurl_env = "B"',
        '[alerts.webhooks.ops]\nurl_file = "a\\u0000b"',
        '[alerts.webhooks."../x"]\nurl_file = "a"',
        '[alerts.webhooks.ops]\nurl_file = "a"\nformat = "xml"',
        '[alerts.webhooks.ops]\nurl_file = "a"\nkinds = ["everything"]',
        '[alerts.webhooks.ops]\nurl_file = "a"\nmin_severity = "bad"',
        "[alerts]\nstalled_s = 0",
        "[alerts]\nunknown = 1",
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[alerts"):
        alerts(tmp_path, text)


def test_no_environment_variable_changes_a_rule(tmp_path: Path) -> None:
    plain = alerts(tmp_path, "")
    names = ("STALLED_S", "UNWRAP_ERRORS_PERCENT", "UNUSUAL_FACTOR", "WEBHOOKS", "BACKUP_DAYS")
    environ = {f"REWRAP_ALERTS_{name}": "100" for name in names}
    assert alerts(tmp_path, "", **environ) == plain


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.example/services/T0/B0/x",
        "http://127.0.0.1:8080/x",
        "http://[::1]/x",
        "http://localhost:9/x",
    ],
)
def test_a_url_is_https_or_of_this_machine(tmp_path: Path, url: str) -> None:
    assert Webhook(url_env="HOOK").url({"HOOK": f" {url}\n"}) == url
    (tmp_path / "hook").write_text(f"{url}\n")
    assert Webhook(url_file=str(tmp_path / "hook")).url({}) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"http://hooks.example.com/{SECRET}",
        f"http://127.0.0.1.example.com/{SECRET}",
        f"ftp://example.com/{SECRET}",
        f"https://user:{SECRET}@example.com/",
        f"https:///{SECRET}",
        f"https://example.com:99999/{SECRET}",
        f"https://exa mple.com/{SECRET}",
        f"https://example.com/{SECRET}\r\nHost: x",
        f"https://[::1/{SECRET}",
        f"https://example.com/{SECRET}{'x' * 3000}",
        SECRET,
    ],
)
def test_any_other_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Webhook(url_env="HOOK").url({"HOOK": url})
    assert SECRET not in str(refused.value)
    assert "HOOK" in str(refused.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Webhook(url_file=str(tmp_path / "none")).url({})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is no text"):
        Webhook(url_file=str(tmp_path / "bytes")).url({})


def test_a_webhook_wants_what_is_as_severe_and_of_its_kinds() -> None:
    kind = AlertKind.CAMPAIGN_BLOCKED
    assert Webhook().wants(kind, Severity.WARNING)
    assert not Webhook().wants(kind, Severity.INFO)
    assert Webhook(kinds=(kind,)).wants(kind, Severity.CRITICAL)
    assert not Webhook(kinds=(AlertKind.BACKUP_OLD,)).wants(kind, Severity.CRITICAL)
