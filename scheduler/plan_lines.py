"""The report of a plan as lines for people."""

from collections.abc import Iterator

from keywrap.rewrapping import Outcome
from scheduler.estimates import ContentBytes
from scheduler.plans import Report
from scheduler.prices import prices
from workers.plaintext import plain

_REASONS_SHOWN = 20


def lines(report: Report) -> Iterator[str]:
    """Yield what `rewrap plan` prints, but for its last line."""
    mix = report.mix
    yield from report.proposal.lines()
    yield f"  store  {mix.scanned:,} blobs scanned; {mix.moving.total():,} would move"
    for version, blobs in mix.moving.most_common():
        yield f"           {blobs:,} from {version}"
    if mix.current:
        yield f"           {mix.current:,} stay: already at the target [current]"
    for rule, blobs in mix.excluded.most_common():
        yield f"           {blobs:,} stay: outside the selection [{rule}]"
    for code, blobs in mix.problems.most_common(_REASONS_SHOWN):
        yield f"           {blobs:,} would be quarantined, untouched [{code}]"
    yield from _sample(report)
    yield f"  KMS    {_kms(report)}"
    if report.store:
        yield f"  bucket {_store(report)}"
    if report.contents:
        yield f"  bytes  {_contents(report.contents)}"
    yield f"  money  {_money(report)}"
    yield f"  time   {_time(report)}"
    for note in report.notes():
        yield f"  note   {note}"


def _sample(report: Report) -> Iterator[str]:
    done, pool = report.status.progress, report.mix.pool
    if not done.scanned:
        yield "  sample nothing to open: no wrap would move"
        return
    counted = ", ".join(f"{done.counts[o]:,} {o}" for o in Outcome if done.counts[o])
    yield f"  sample {done.decided:,} of {pool:,} taken up to the write: {counted}"
    for (outcome, code), blobs in report.status.failures.items():
        yield f"           {blobs:,} {outcome} [{plain(code)}]"
    if report.mismatch:
        yield f"  wrong  {report.mismatch}"
    bound = report.upper_bound
    if bound:
        yield (
            f"           0 bad of {report.opened:,}: with 99% confidence fewer than "
            f"{100 * bound:.2g}% of those that would move are bad"
        )


def _kms(report: Report) -> str:
    kms, done = report.kms, report.status.progress
    if not kms.sampled:
        return "no requests"
    verifying = f", {kms.verifying:,} of them by the verifying sample" if kms.verifying else ""
    return (
        f"about {kms.total:,} requests{verifying} (extrapolated from {kms.sampled:,} for the "
        f"{done.decided:,} of the sample)"
    )


def _contents(contents: ContentBytes) -> str:
    return (
        f"about {_size(contents.read_at_least)} to {_size(contents.read_at_most)} read, "
        f"{_size(contents.written)} written: the store needs room for these besides, until the "
        "old contents are swept"
    )


def _size(count: int) -> str:
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 2 * length:
            return f"{count / length:,.1f} {unit}"
    return f"{count:,} bytes"


_FREE = "none: these keys and this store charge nothing for a request"


def _store(report: Report) -> str:
    assert report.store is not None  # noqa: S101 - the caller looks
    store = report.store
    return f"about {store.reads:,} reads, {store.writes:,} writes, {store.lists:,} lists, or more"


def _money(report: Report) -> str:
    money, today = report.money, prices()
    missing = "" if money.is_whole else "; what this store charges is not known here"
    if money.kms is None and money.store is None:
        return f"none for requests to these keys{missing}" if missing else _FREE
    parts = (("KMS", money.kms), ("S3", money.store))
    each = ", ".join(f"{name} {usd:,.2f}" for name, usd in parts if usd is not None)
    return (
        f"about {today.currency} {money.total:,.2f} for requests ({each}; list prices of "
        f"{today.as_of}, AWS's in {today.region}: they differ by Region){missing}"
    )


def _time(report: Report) -> str:
    if report.duration_s is None:
        return "not known: nothing has moved yet"
    about = f"about {_human(report.duration_s)}"
    if report.rate is None:
        return f"{about}, for the scans"
    per_s = f"{report.rate.per_s:,.0f} blobs/s"
    if report.rate.campaign is None:
        return f"{about} or more; rough: at {per_s}, the rate of this small sample unwritten"
    return f"{about}, at {per_s} as campaign {report.rate.campaign}"


def _human(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{max(seconds, 1):,.0f} s"
