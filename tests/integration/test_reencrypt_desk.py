"""What the desk says of a re-encryption, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from keywrap.config import KeywrapConfig
from keywrap.rewrapping import Prove
from keywrap.testing.kms import MemoryKeyProvider, MemoryKms
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import showing, status
from scheduler.commands.unwinding import undo
from scheduler.desk import USAGE, Desk, DeskError
from scheduler.proofs import Proof, default_proof
from scheduler.proposals import Proposal, propose
from tests.rotations import STORE, desk_at
from tests.worlds import KEK
from tests.yards import Yard


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    return desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()))


def _finished(ledger: Ledger) -> int:
    yard = Yard(ledger)
    yard.plant(3)
    campaign = yard.start(Kind.REENCRYPT)
    assert yard.run(campaign).state is State.COMPLETE
    return campaign


@pytest.mark.parametrize("prove", [Prove.SAMPLE, Prove.CONTENT])
def test_no_weaker_or_other_proof_can_be_asked_for(desk: Desk, prove: Prove) -> None:
    with pytest.raises(DeskError) as refused:
        propose(desk, Kind.REENCRYPT, "", None, Proof(prove, 0.01))
    assert refused.value.exit_code == USAGE
    assert refused.value.reason_code == "proof_not_for_reencrypt"


def test_there_is_nothing_to_undo(desk: Desk, ledger: Ledger) -> None:
    campaign = _finished(ledger)
    refused = CliRunner().invoke(undo, [str(campaign), "--yes"], obj=desk).exception
    assert isinstance(refused, DeskError)
    assert refused.reason_code == "nothing_to_unwind"


def test_start_says_what_it_costs_and_what_it_leaves() -> None:
    provider = MemoryKeyProvider(MemoryKms(), KEK)
    config = KeywrapConfig.from_table({"store": {"url": "file:///blobs"}})
    proof = default_proof(Kind.REENCRYPT, provider)
    target = provider.current_version()
    proposal = Proposal(Kind.REENCRYPT, "", None, provider, target, proof, config)
    said = "\n".join([*proposal.lines(), *proposal.notes()])
    assert "a new data key for every blob" in said
    assert "NONE: an old wrap opens no new content" in said
    assert "read two to four times and written once" in said
    assert "old contents stay in the store" in said
    assert "old contents only" not in said
    escrowed = replace(proposal, backs_up=True, escrow=True)
    assert "open the old contents only" in "\n".join(escrowed.notes())


def test_status_says_that_old_contents_stay_and_that_nothing_is_unsealed(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = status.read(ledger, _finished(ledger), keeps_previous=True)
    assert found is not None
    assert found.document()["unsealed"] == 0
    showing.status(found)
    assert "old contents stay in the store" in capsys.readouterr().out


def test_status_says_of_a_prefix_of_no_blob_no_word_of_old_contents(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    yard = Yard(ledger)
    yard.plant(1)
    campaign = yard.start(Kind.REENCRYPT, prefix="no such/")
    yard.run(campaign)
    found = status.read(ledger, campaign, keeps_previous=True)
    assert found is not None
    showing.status(found)
    said = capsys.readouterr().out
    assert "0 scanned" in said
    assert "old contents" not in said
