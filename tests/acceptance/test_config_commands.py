"""`rewrap config` and `rewrap healthz` as an operator or a probe types them."""

from collections.abc import Callable

import pytest

from ledger import progress
from ledger.connection import Ledger
from tests.sites import Site
from workers.settings import load

PASSWORD = "never-to-be-shown"
URLS = {
    "REWRAP_LEDGER_URL": f"postgresql://rewrap:{PASSWORD}@db/rewrap?sslpassword={PASSWORD}",
    "REWRAP_BROKER_URL": f"rediss://:{PASSWORD}@valkey:6379/0",
}
MORE = """
[keys.aws."arn:aws:kms:eu-west-1:111122223333:key/0f2fc0ba-6d55-4a1e-93f3-4b7f5a6e0c11"]

[keys.dpapi.hostA]
mode = "ring"
ring = "/etc/rewrap/hostA.ring.json"
master_keys = ["0f2fc0ba-6d55-4a1e-93f3-4b7f5a6e0c11"]
queue = "dpapi-hostA"
"""


@pytest.fixture(scope="module")
def site(new_site: Callable[..., Site]) -> Site:
    site = new_site("configs")
    site.control(max_age_s=7)
    site.config.write_text(site.config.read_text() + MORE)
    return site


def test_what_is_shown_is_the_configuration_that_counts_and_can_be_read_again(site: Site) -> None:
    ran = site.rewrap("config", "show", REWRAP_WORKERS_BATCH="77")
    assert ran.code == 0, ran
    again = site.directory / "again.toml"
    again.write_text(ran.out)
    shown = load(str(again), {})
    assert shown == load(str(site.config), site.environment | {"REWRAP_WORKERS_BATCH": "77"})
    assert shown.workers.batch == 77
    assert shown.scheduler.max_attempts == 10, "a default"


def test_no_secret_is_shown(site: Site) -> None:
    for words in (("config", "show"), ("config", "show", "--json"), ("config", "check")):
        ran = site.rewrap(*words, **URLS)
        assert ran.code == 0, ran
        for secret in (PASSWORD, *site.secrets.values()):
            assert secret not in ran.out + ran.err
    document = site.rewrap("config", "show", "--json", **URLS).document
    assert document["ledger"]["url"] == "postgresql://***@db/rewrap?sslpassword=***"
    assert document["broker"]["url"] == "rediss://***@valkey:6379/0"
    assert document["control"]["max_age_s"] == 7


def test_a_check_names_every_secret_that_is_missing(site: Site) -> None:
    sound = site.rewrap("config", "check", "--json")
    assert (sound.code, sound.document["passed"]) == (0, True)
    assert [line["name"] for line in sound.document["checks"]] == [
        "configuration",
        "secrets",
        "retire waits",
    ]
    ran = site.rewrap("config", "check", "--json", BLOB_KEY="", BAO_TOKEN="")
    assert (ran.code, ran.document["passed"]) == (2, False)
    line = ran.document["checks"][1]
    assert "BLOB_KEY is not set" in line["sentence"]
    assert "BAO_TOKEN is not set" in line["sentence"]
    assert "set BLOB_KEY in" in line["next_command"]
    assert "set BAO_TOKEN in" in line["next_command"]


def test_a_configuration_that_cannot_be_read_is_told(site: Site) -> None:
    for words, told in ((("config", "show"), "next: rewrap init"), (("config", "check"), "✗")):
        ran = site.rewrap(*words, REWRAP_CONFIG="/nowhere/rewrap.toml")
        assert ran.code == 2, ran
        assert told in ran.out + ran.err
        assert "there is no such configuration" in ran.out + ran.err


def test_a_probe_asks_the_ledger_and_the_scheduler(
    site: Site, ledger: Ledger, ledger_url: str
) -> None:
    down = site.rewrap("healthz", "--json")
    assert (down.code, down.document["reason_code"]) == (3, "ledger_not_running")
    keyless = {"BLOB_KEY": "", "BAO_TOKEN": "", "REWRAP_LEDGER_URL": ledger_url}
    up = site.rewrap("healthz", "--json", **keyless)
    assert (up.code, up.document) == (0, {"healthy": True})
    silent = site.rewrap("healthz", "--scheduler", "--json", **keyless)
    assert (silent.code, silent.document["reason_code"]) == (3, "no_scheduler")
    with ledger.begin() as connection:
        progress.beat(connection)
    ticking = site.rewrap("healthz", "--scheduler", **keyless)
    assert (ticking.code, ticking.out) == (0, "healthy\n")
