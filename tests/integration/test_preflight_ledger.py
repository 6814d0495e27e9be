"""What the checklist asks of a ledger, on a real PostgreSQL."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from keywrap.keys import KeyVersion
from ledger import findings, samples
from ledger.connection import Ledger, LedgerUnavailableError
from ledger.findings import UNCUT, Finding
from ledger.states import Kind
from scheduler.checks.check import Status
from scheduler.checks.installation import clock
from tests.desks import LEGACY, TARGET, desk_of


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, "pass"), (4, "pass"), (6, "fail"), (-6, "fail")]
)
def test_a_clock_that_differs_by_more_than_five_seconds_fails(
    ledger: Ledger, seconds: int, status: str
) -> None:
    skew = timedelta(seconds=seconds)
    finding = clock(ledger, lambda: datetime.now(UTC) + skew)
    assert finding.status == Status(status)
    assert f"{abs(seconds)}." in finding.sentence or seconds == 0
    assert bool(finding.next_command) is (status == "fail")


def test_blobs_of_each_key_version_are_taken_from_an_inventory_and_from_no_other(
    ledger: Ledger,
) -> None:
    desk = desk_of(ledger)
    ours, other = desk.campaign(Kind.INVENTORY), desk.campaign(Kind.INVENTORY)
    unseen = KeyVersion("env:UNSEEN")
    with ledger.begin() as connection:
        many = [Finding(f"legacy-{n}", LEGACY) for n in range(9)]
        few = [Finding("managed", TARGET), Finding("broken", None, problem="sidecar_not_json")]
        findings.add(connection, ours, UNCUT, [*many, *few])
        others = [Finding("elsewhere", unseen), Finding("also-elsewhere", TARGET)]
        findings.add(connection, other, UNCUT, others)
    with ledger.begin() as connection:
        found = samples.of_each_key(connection, ours, 4)
    assert Counter(version for _, version in found) == {LEGACY: 4, TARGET: 1}
    assert {blob for blob, version in found if version == TARGET} == {"managed"}


@pytest.mark.parametrize(
    "url",
    ["nonsense", "postgresql//pw@host", "mysql://u:pw@host/db", "postgresql://u:pw@host:x/db"],
)
def test_a_url_that_is_none_is_told_and_not_repeated(url: str) -> None:
    with pytest.raises(LedgerUnavailableError, match="its URL is none") as error:
        Ledger(url)
    assert "pw" not in str(error.value)
