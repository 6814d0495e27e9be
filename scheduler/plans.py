"""The report of a plan: what it found, and what its campaign would cost."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from keywrap.rewrapping import Outcome
from ledger import findings, progress
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import estimates, mismatch
from scheduler.estimates import ContentBytes, KmsRequests, Money, Rate, StoreRequests
from scheduler.mix import Mix, mix_of
from scheduler.prices import prices
from scheduler.proposals import Proposal
from scheduler.status import Status

_BAD = (Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT)
_WHOLE = (State.COMPLETE, State.COMPLETE_WITH_EXCEPTIONS)


@dataclass(frozen=True, slots=True)
class Report:
    """What a plan found and what its campaign would cost.

    Attributes:
        proposal: what was planned.
        status: how the plan ended.
        mix: what the scan found.
        kms: requests to key services.
        store: requests to the store; None where it is a folder.
        contents: how much of contents would be read and written; None where none would be.
        money: what the requests cost.
        rate: how fast blobs would move; None where nothing tells.
        duration_s: how long the campaign would take, in seconds; None where nothing tells.
    """

    proposal: Proposal
    status: Status
    mix: Mix
    kms: KmsRequests
    store: StoreRequests | None
    contents: ContentBytes | None
    money: Money
    rate: Rate | None
    duration_s: float | None

    @property
    def is_whole(self) -> bool:
        """Whether the plan got to its end."""
        return self.status.campaign.state in _WHOLE

    @property
    def opened(self) -> int:
        """How many blobs of the sample were taken as far as the campaign would take them."""
        return self.status.progress.counts[Outcome.REWRAPPED] + self.bad

    @property
    def bad(self) -> int:
        """How many blobs of the sample would be quarantined, fail or end as a conflict."""
        return sum(self.status.progress.counts[outcome] for outcome in _BAD)

    @property
    def upper_bound(self) -> float | None:
        """What share of bad blobs the sample leaves possible; see `estimates.upper_bound`."""
        return estimates.upper_bound(self.opened, self.bad, self.mix.pool)

    @property
    def next_command(self) -> str | None:
        """What to type next: the campaign, or a look at what is bad; None: nothing is to do."""
        if self.mismatch:
            return mismatch.LOOK
        if self.bad:
            return f"rewrap blobs {self.status.campaign.id} --outcome quarantined"
        if self.mix.moving:
            return self.proposal.command()
        return "rewrap inventory --export blobs.csv" if self.mix.problems else None

    @property
    def mismatch(self) -> str | None:
        """Say that the configured content format is probably wrong; None: nothing says so."""
        failures = self.status.failures
        if not mismatch.is_likely(self.opened, failures):
            return None
        return mismatch.sentence(self.opened, failures, self.proposal.config.store.legacy_content)

    @property
    def is_clean(self) -> bool:
        """Whether nothing that was seen would need a person."""
        return not self.bad and not self.mix.problems

    def notes(self) -> list[str]:
        """Say what an operator should know before, a sentence each."""
        reads = estimates.content_reads(self.proposal, self.mix)
        if not reads or self.proposal.kind is Kind.REENCRYPT:
            return self.proposal.notes()
        note = (
            f"{reads:,} blobs are matched against their own content before the new wrap is bound "
            "to them: a read of 16 KiB each (records-v1), or of the whole blob (gcm-v1)"
        )
        return [note, *self.proposal.notes()]

    def document(self) -> dict[str, Any]:
        """Return the document of `rewrap plan --json`.

        Returns:
            These keys, always all of them; numbers are blobs unless said otherwise:

            - `plan` (its campaign's id), `kind`, `state`, `reason_code`, `reason` and
              `next_command`, which is the `rewrap start` that it planned for once it is done, some
              blob would move and every one of the sample is sound; null where nothing is to do.
              With the reason code `contents_do_not_open` [store] legacy_content is probably wrong.
              A plan that is not `complete` or `complete_with_exceptions` holds what it had found.
            - `store`, `prefix`, `target`, `prove` (`mode`; `sample`, a fraction or null; `default`,
              whether nobody asked for it; `why`).
            - `counts`: `scanned`, `moving`, `current`, `excluded`, `problems`; they balance.
            - `moving`: a list of `key`, `version`, `blobs`. `excluded` and `problems`: lists of
              `reason_code`, `blobs`.
            - `sample`: `drawn`; `opened`; `bad`, those that would be quarantined, fail or conflict;
              `outcomes`, as the campaign would have them; `failures`, a list of `outcome`,
              `reason_code`, `blobs`; `upper_bound_99`, the share of bad blobs among all that would
              move that 0 bad leave possible with 99% confidence, or null.
            - `kms_requests`: `sampled`, `campaign`, `verifying`, `total`, the last three
              extrapolated from the first.
            - `content_bytes`: of a re-encryption `sampled`, `stored`, `written`, `read_at_least`,
              `read_at_most`, all but the first extrapolated; `written` is also the room that the
              store needs besides, until the old contents are swept. null for other kinds, and
              where no blob of the sample was taken up to the write.
            - `store_requests`: `reads`, `writes`, `lists`, or null where the store is a folder.
            - `cost`: `currency`, `as_of` (a date), `region`, `total`, and `kms` and `store`, each
              null where nothing is charged for a request.
            - `duration_s` (seconds or null) and `rate`: `per_s` (blobs) and `campaign`, the
              finished one that it is from, null for the sample's own, which writes nothing and is
              too high; null where nothing tells.
            - `notes`: sentences.
        """
        campaign = self.status.campaign
        return {
            "plan": campaign.id,
            "kind": self.proposal.kind,
            **self._end(),
            "store": campaign.store,
            "prefix": campaign.prefix,
            "target": str(campaign.target),
            "prove": self._prove(),
            **self._found(),
            "sample": self._sample(),
            "kms_requests": asdict(self.kms) | {"total": self.kms.total},
            "content_bytes": asdict(self.contents) if self.contents else None,
            "store_requests": asdict(self.store) if self.store else None,
            "cost": self._cost(),
            "duration_s": _rounded(self.duration_s, 1),
            "rate": self._rate(),
            "notes": self.notes(),
        }

    def _end(self) -> dict[str, Any]:
        state, wait = self.status.campaign.state, self.status.wait
        if self.is_whole and self.mismatch:
            wait = replace(wait, reason_code="contents_do_not_open", reason=self.mismatch)
        return {
            "state": state,
            "reason_code": wait.reason_code,
            "reason": wait.reason,
            "next_command": self.next_command if self.is_whole else wait.next_command,
        }

    def _prove(self) -> dict[str, Any]:
        proof = self.proposal.proof
        return {
            "mode": proof.prove,
            "sample": proof.sample,
            "default": bool(proof.why),
            "why": proof.why,
        }

    def _found(self) -> dict[str, Any]:
        mix = self.mix
        return {
            "counts": {
                "scanned": mix.scanned,
                "moving": mix.moving.total(),
                "current": mix.current,
                "excluded": mix.excluded.total(),
                "problems": mix.problems.total(),
            },
            "moving": [
                {"key": version.key, "version": version.version, "blobs": blobs}
                for version, blobs in mix.moving.most_common()
            ],
            "excluded": _by_reason(mix.excluded),
            "problems": _by_reason(mix.problems),
        }

    def _cost(self) -> dict[str, Any]:
        today = prices()
        return {
            "currency": today.currency,
            "as_of": today.as_of,
            "region": today.region,
            "total": round(self.money.total, 4),
            "kms": _rounded(self.money.kms, 4),
            "store": _rounded(self.money.store, 4),
            "is_whole": self.money.is_whole,
        }

    def _rate(self) -> dict[str, Any] | None:
        if self.rate is None:
            return None
        return {"per_s": round(self.rate.per_s, 1), "campaign": self.rate.campaign}

    def _sample(self) -> dict[str, Any]:
        done = self.status.progress
        return {
            "drawn": done.scanned,
            "opened": self.opened,
            "bad": self.bad,
            "outcomes": {outcome.value: done.counts[outcome] for outcome in Outcome},
            "failures": [
                {"outcome": outcome, "reason_code": code, "blobs": blobs}
                for (outcome, code), blobs in self.status.failures.items()
            ],
            "upper_bound_99": _rounded(self.upper_bound, 6),
        }


def _by_reason(counted: Counter[str]) -> list[dict[str, Any]]:
    return [{"reason_code": code, "blobs": blobs} for code, blobs in counted.most_common()]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def read(ledger: Ledger, proposal: Proposal, status: Status, scan_parts: int) -> Report:
    """Read what a plan came to.

    Args:
        ledger: the ledger.
        proposal: what was planned.
        status: how the plan ended.
        scan_parts: how many parts the store is scanned in.

    Raises:
        KmsError: a sidecar names a version beyond the target, and whether it exists cannot be read.
    """
    plan, done = status.campaign, status.progress
    with ledger.begin() as connection:
        lines = findings.census(connection, plan.id)
        scan_s = progress.scan_seconds(connection, plan.id)
        rate = estimates.rate(connection, plan, done.rate_per_s)
    mix = mix_of(
        lines,
        plan,
        proposal.config.keys.lists,
        lambda version: proposal.provider.current_version().satisfies(version),
    )
    kms = estimates.kms_requests(proposal, mix, done.decided, done.kms_requests)
    in_bucket = not proposal.config.store.url.startswith("file:")
    contents = estimates.content_bytes(
        proposal, mix, done.counts[Outcome.REWRAPPED], done.content_bytes
    )
    store = estimates.store_requests(proposal, mix, scan_parts, contents) if in_bucket else None
    return Report(
        proposal=proposal,
        status=status,
        mix=mix,
        kms=kms,
        store=store,
        contents=contents,
        money=estimates.money(proposal, mix, kms, store),
        rate=rate,
        duration_s=estimates.duration_s(mix, rate, scan_s),
    )
