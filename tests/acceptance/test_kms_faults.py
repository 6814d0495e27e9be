"""A whole node, real workers and a strict KMS: what that does wrong, one after the other."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click
import pytest

from keywrap.testing.aws_kms_faults import Corruption
from keywrap.testing.aws_kms_keys import KeyState
from tests.cloudsites import Cloud, CloudSite
from tests.nodes import Node, assert_balanced, until

LENGTH = os.environ.get("REWRAP_STORM", "suite")
BLOBS = {"suite": 240, "soak": 400}[LENGTH]  # enough for all that goes wrong to meet some
MOST_CALLS = 2.2
"""For each that counts, where half of all are throttled: 2, and what chance adds."""

ROUNDS = {"suite": 1, "soak": 10}[LENGTH]
BATCH = 10
KMS_MS = 250
"""So slow that a campaign is under way all the time that things go wrong."""

MANY = 1_000_000
UNDER_WAY = {"inventory", "backup", "canary", "running", "blocked"}


@dataclass
class Trouble:
    """A migration that meets faults of its key service.

    Attributes:
        stops: why it was stopped, each time.
        blocked: why it waited, each time.
    """

    cloud: Cloud
    node: Node
    campaign: int = 0
    stops: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)

    @property
    def site(self) -> CloudSite:
        site: Any = self.node.site
        return site

    def goes_on(self) -> None:
        """See that the campaign is running; a person resumes it where it was stopped."""
        found = self.until_it({"running", "stopped"})
        if found["state"] == "stopped":
            self.stops.append(found["reason_code"])
            resumed = self.site.rewrap("resume", str(self.campaign))
            assert resumed.code == 0, resumed
            self.until_it({"running", "complete"})

    def ends(self) -> dict[str, Any]:
        """Wait for its end; one worker may stop it after it was resumed from another's stop."""
        while (found := self.until_it({"complete", "stopped"}, 150))["state"] == "stopped":
            self.goes_on()
        return found

    def until_it(self, states: set[str], timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the campaign is in one of these states."""

        document: dict[str, Any] = {}

        def is_there() -> dict[str, Any]:
            nonlocal document
            document = self.node.document(self.campaign)
            return document if document.get("state") in states else {}

        try:
            found: dict[str, Any] = until(is_there, f"campaign {self.campaign}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"it is not in {states}: {document}") from error
        return found

    def is_throttled(self) -> None:
        """Throttle everybody, until some requests were refused."""
        before = self._count("ThrottlingException")
        self.cloud.control(kms_quota=10)
        until(lambda: self._count("ThrottlingException") > before + 5, "requests were throttled")
        self.cloud.control(kms_quota=0)

    def is_away(self) -> None:
        """Let no request succeed, until the campaign says why it waits."""
        self.cloud.kms.faults.fail_next("KMSInternalException", times=MANY)
        self.blocked.append(self.until_it({"blocked"})["reason_code"])
        self.cloud.kms.faults.clear()

    def is_disabled(self) -> None:
        """Disable the key, and enable it again once the campaign says so."""
        self.cloud.kms.set_state(self.site.arns[0], KeyState.DISABLED)
        self.blocked.append(self.until_it({"blocked"})["reason_code"])
        self.cloud.kms.set_state(self.site.arns[0], KeyState.ENABLED)

    def loses_replies(self) -> None:
        self.cloud.kms.faults.lose_next_reply(times=3 * BATCH)
        self.has_met()

    def corrupts(self, what: Corruption, operation: str) -> None:
        """Let some answers be corrupt; the campaign may be stopped before it has met them all."""
        self.cloud.kms.faults.corrupt_next(what, times=3, operation=operation)
        self.has_met()

    def has_met(self) -> None:
        def is_over() -> bool:
            state = self.node.document(self.campaign).get("state")
            return not self.cloud.kms.faults._planned or state not in UNDER_WAY

        until(is_over, "the fault has met requests")
        self.cloud.kms.faults.clear()

    def _count(self, error: str) -> int:
        return sum(event.error == error for event in tuple(self.cloud.kms.trail))


CORRUPT = (
    (Corruption.ANOTHER_DATA_KEY, "Encrypt"),
    (Corruption.ANOTHER_PLAINTEXT, "Decrypt"),
    (Corruption.WRONG_MATERIAL, "Decrypt"),
    (Corruption.ALTERED_CIPHERTEXT, "Encrypt"),
    (Corruption.WRONG_KEY, "Encrypt"),
    (Corruption.WRONG_KEY, "Decrypt"),
)[: {"suite": 3, "soak": 6}[LENGTH]]


def test_whatever_the_key_service_does_all_is_done_in_the_end_and_opens(
    cloud: Cloud, node_at: Callable[[str], Node]
) -> None:
    trouble = Trouble(cloud, node_at("kms-faults"))
    trouble.node.start()
    for number in range(ROUNDS):
        rage(trouble, f"k{number}/")
    assert trouble.blocked == ["kms_unavailable", "key_disabled"] * ROUNDS
    assert trouble.stops.count("proof_failed") >= ROUNDS


@pytest.mark.skipif(LENGTH == "suite", reason="`make soak` plays it: some minutes")
def test_a_kms_that_throttles_half_of_all_calls_all_along_slows_a_campaign_and_no_more(
    cloud: Cloud, node_at: Callable[[str], Node]
) -> None:
    trouble = Trouble(cloud, node_at("kms-throttles"))
    trouble.node.start()
    ids = [b for b in trouble.site.make(BLOBS, "t/") if not b.startswith("t/local-")]
    cloud.kms.faults.throttle(0.5)
    trouble.campaign = trouble.site.campaign("migrate", "--prefix", "t/")
    done = trouble.until_it({"complete", "complete_with_exceptions", "stopped"}, 600)
    cloud.kms.faults.clear()
    assert done["state"] == "complete", done
    assert_balanced(done, BLOBS)
    assert done["counts"]["rewrapped"] == len(ids)
    assert trouble.site.wrong(ids) == []
    for operation in ("Encrypt", "Decrypt"):
        asked = Counter(event.error for event in cloud.kms.trail if event.name == operation)
        assert set(asked) == {"", "ThrottlingException"}
        assert asked.total() <= MOST_CALLS * asked[""]
        click.echo(f"{operation}: {asked}")  # `make soak` shows it


def rage(trouble: Trouble, folder: str) -> None:
    """Let a migration meet each fault, and see what it came to."""
    cloud, site = trouble.cloud, trouble.site
    ids = [b for b in site.make(BLOBS, folder) if not b.startswith(f"{folder}local-")]
    cloud.control(latency_ms={"kms": KMS_MS})
    trouble.campaign = site.campaign("migrate", "--prefix", folder)
    acts: list[Callable[[], None]] = [
        trouble.is_throttled,
        trouble.is_away,
        trouble.is_disabled,
        trouble.loses_replies,
        *(partial(trouble.corrupts, *what) for what in CORRUPT),
    ]
    for act in acts:
        trouble.goes_on()
        act()
    trouble.goes_on()
    cloud.control(latency_ms={"kms": 0})
    done = trouble.ends()
    assert_balanced(done, BLOBS)
    assert done["counts"]["rewrapped"] + done["counts"]["current"] == len(ids)
    assert site.wrong(ids) == []
    assert {r["key_id"] for r in site.reader.records(ids).values()} == {site.current()}
