"""What must hold after every step, whatever happened; each raises AssertionError where it does not.

Blobs and sidecars are read as nobody of ours reads them (`tests.storm.plainreader`).
"""

from collections import Counter
from typing import Any

from keywrap.rewrapping import Outcome
from ledger.campaigns import Campaign
from ledger.progress import WORK_OF
from ledger.states import KEEPING, REWRAPPING, Kind, State
from tests.stateful.stage import Stage

_MOVED = {Outcome.REWRAPPED, Outcome.CURRENT}
_EXCEPTIONS = {Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT}


def every_blob_opens(stage: Stage) -> None:
    """Each blob opens to what was written to it last; what nobody can read is left as it is."""
    for blob_id, text in stage.expected.items():
        try:
            found = stage.plain.open(blob_id)
        except Exception as error:
            raise AssertionError(f"{blob_id} does not open") from error
        assert found == text, f"{blob_id} has another content"
    for blob_id, data in stage.sick.items():
        left = (stage.folder / f"{blob_id}.sidecar.json").read_bytes()
        assert left == data, f"{blob_id} was changed, though nobody can read it"


class Growth:
    """`dek_version` grows with every new wrap, and the fields of others survive."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Any]] = {}

    def look(self, stage: Stage) -> None:
        for blob_id in stage.expected:
            now, last = stage.sidecar(blob_id), self._last.get(blob_id, {})
            if now.get("wrapped_dek") != last.get("wrapped_dek"):
                grown = now.get("dek_version", 0) - last.get("dek_version", 0)
                assert grown > 0, f"{blob_id}: `dek_version` grew by {grown}"
            for name in ("tenant", "plaintext_size"):
                if name in last:
                    assert now.get(name) == last[name], f"{blob_id}: {name} was lost"
            self._last[blob_id] = now


def counts_balance(stage: Stage) -> None:
    """What the shards count is what the rows say, and no more than what was scanned."""
    counted: dict[int, Counter[str]] = {}
    for campaign_id, outcome, number in stage.desk.rows(
        "SELECT campaign_id, outcome, count(*) FROM outcome GROUP BY 1, 2"
    ):
        counted.setdefault(campaign_id, Counter())[outcome] = number
    sums = ", ".join(f"sum({o})::int" for o in Outcome)
    for campaign_id, kind, state, shard_kind, total, *counts in stage.desk.rows(
        f"SELECT c.id, c.kind, c.state, s.kind, sum(total)::int, {sums}"  # noqa: S608 - constants
        " FROM campaign c JOIN shard s ON s.campaign_id = c.id GROUP BY 1, 2, 3, 4"
    ):
        if shard_kind != WORK_OF[Kind(kind)] or kind == Kind.INVENTORY:
            continue
        shown = Counter({o.value: n for o, n in zip(Outcome, counts, strict=True) if n})
        rows = counted.get(campaign_id, Counter())
        assert shown == rows, f"campaign {campaign_id} counts {shown}, and its rows are {rows}"
        assert shown.total() <= total, f"campaign {campaign_id} decided more than it scanned"
        if state in {State.COMPLETE, State.COMPLETE_WITH_EXCEPTIONS}:
            assert shown.total() == total, f"campaign {campaign_id} is {state} with blobs pending"
            bad = sum(shown[o] for o in _EXCEPTIONS) > 0
            put_nothing_back = kind == Kind.UNDO and set(shown) == {Outcome.EXCLUDED}
            is_whole = state == State.COMPLETE
            assert is_whole != (bad or put_nothing_back), f"{campaign_id} is {state}: {shown}"


def outcomes_are_true(stage: Stage) -> None:
    """While a campaign is open nobody else moves wraps: what it says it has moved is moved."""
    for campaign_id, state in stage.states().items():
        campaign = stage.desk.get(campaign_id)
        if campaign.kind in KEEPING and not campaign.is_finished and state is not State.PLANNED:
            for blob_id, outcome in stage.outcomes(campaign_id).items():
                if outcome in _MOVED:
                    _require_target(stage, campaign, blob_id)


def end_is_true(stage: Stage, campaign: Campaign) -> None:
    """Judge a campaign in the moment that it calls itself finished."""
    if campaign.state is State.CANCELLED or campaign.kind not in _JUDGES:
        return
    outcomes = stage.outcomes(campaign.id)
    since = stage.scanned_from[campaign.id]
    for blob_id in stage.expected:
        if outcomes.get(blob_id) not in _EXCEPTIONS and stage.written[blob_id] < since:
            _JUDGES[campaign.kind](stage, campaign, blob_id, outcomes.get(blob_id))
    for blob_id in stage.sick:
        if stage.sick_since[blob_id] < since:
            assert outcomes.get(blob_id) == Outcome.QUARANTINED, f"{blob_id} is not quarantined"


def _migrated(stage: Stage, campaign: Campaign, blob_id: str, outcome: str | None) -> None:
    assert _version(stage, blob_id), f"{campaign.id} is {campaign.state}, {blob_id} is legacy yet"
    if outcome in _MOVED:
        _require_target(stage, campaign, blob_id)


def _rotated(stage: Stage, campaign: Campaign, blob_id: str, _outcome: str | None) -> None:
    if _version(stage, blob_id):
        _require_target(stage, campaign, blob_id)


def _reencrypted(stage: Stage, campaign: Campaign, blob_id: str, _outcome: str | None) -> None:
    assert "object" in stage.sidecar(blob_id), f"{campaign.id}: {blob_id} has its old data key"


def _sealed(stage: Stage, campaign: Campaign, blob_id: str, outcome: str | None) -> None:
    if outcome in _MOVED:
        left = stage.sidecar(blob_id)
        assert "previous" not in left, f"{campaign.id}: {blob_id} is not sealed"


def _undone(stage: Stage, campaign: Campaign, blob_id: str, outcome: str | None) -> None:
    if outcome == Outcome.REWRAPPED and stage.written[blob_id] < stage.opened_at[campaign.id]:
        was = stage.previous[campaign.id].get(blob_id)
        now = stage.sidecar(blob_id).get("key_id", "")
        assert now == was, f"{campaign.id}: {blob_id} is under {now} and was under {was}"


_JUDGES = {
    Kind.MIGRATE: _migrated,
    Kind.ROTATE: _rotated,
    Kind.REENCRYPT: _reencrypted,
    Kind.SEAL: _sealed,
    Kind.UNDO: _undone,
}
assert set(REWRAPPING) < set(_JUDGES)


def _version(stage: Stage, blob_id: str) -> int:
    """Return the number of the KEK version that wraps a blob; 0 where a legacy key does."""
    _, marker, version = str(stage.sidecar(blob_id).get("key_id", "")).partition("?version=")
    return int(version.partition("-")[0]) if marker else 0


def _require_target(stage: Stage, campaign: Campaign, blob_id: str) -> None:
    assert campaign.target is not None
    wanted = int(campaign.target.version.partition("-")[0])
    found = _version(stage, blob_id)
    assert found >= wanted, f"{campaign.id}: {blob_id} is under version {found}, not {wanted}"
