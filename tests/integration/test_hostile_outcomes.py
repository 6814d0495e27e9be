"""Attacks that must not end in quarantine, or cannot; each test's name says why.

What these tests call moved has lost nothing that the store still had: the wrap opened for its own
blob, or the blob's content opened.
"""

from collections.abc import Iterator

import pytest

from keywrap.kms import DeniedError, ProofFailedError, UnavailableError
from keywrap.rewrapping import Outcome, Prove
from tests.installations import AwsInstallation, Installation, MemoryInstallation, strike
from tests.worlds import at, by_id

REWRAPPED = (Outcome.REWRAPPED, "")
CURRENT = (Outcome.CURRENT, "")
NOT_MANAGED = (Outcome.EXCLUDED, "not_managed")


@pytest.fixture(params=[MemoryInstallation, AwsInstallation], ids=["memory", "aws"])
def world(request: pytest.FixtureRequest, aws_credentials: None) -> Iterator[Installation]:  # noqa: ARG001 - boto3 wants some
    return request.param()


def _quarantined(reason_code: str) -> tuple[Outcome, str]:
    return Outcome.QUARANTINED, reason_code


# Moved, for nothing is lost by it


@pytest.mark.parametrize("prove", Prove)
def test_a_poisoned_previous_is_never_opened_and_gives_way_to_the_wrap_that_was_proved(
    world: Installation, prove: Prove
) -> None:
    for blob_id in ("a", "b", "victim"):
        world.plant("managed", blob_id)
    wrap = world.sidecar("victim")["wrapped_dek"]
    olds = {b: world.sidecar(b) for b in ("a", "b")}
    world.edit("a", previous={"key_id": str(world.attacker.current_version()), "wrapped_dek": wrap})
    world.edit("b", previous={"key_id": olds["b"]["key_id"], "wrapped_dek": wrap})
    world.turn()
    assert strike(world, "a", "b", prove=prove) == {"a": REWRAPPED, "b": REWRAPPED}
    for blob_id, old in olds.items():
        previous = world.sidecar(blob_id)["previous"]
        assert previous == {"key_id": old["key_id"], "wrapped_dek": old["wrapped_dek"]}
        assert world.verifier().keeps_data_key(blob_id)
    assert world.wrong() == []


def test_a_poisoned_previous_proves_nothing_about_a_data_key(world: Installation) -> None:
    world.plant("managed", "a")
    stolen = world.sidecar(world.plant("managed", "victim"))["wrapped_dek"]
    unlisted = str(world.attacker.current_version())
    for key_id in (unlisted, str(world.target)):
        world.edit("a", previous={"key_id": key_id, "wrapped_dek": stolen})
        world.forget()
        assert world.verifier().keeps_data_key("a") is False
        assert world.attacker.key not in world.asked()


@pytest.mark.parametrize("prove", Prove)
def test_more_in_a_context_than_the_blob_does_no_harm_since_the_binding_is_never_read_from_it(
    world: Installation, prove: Prove
) -> None:
    world.plant("managed", "a")
    world.edit("a", context={"blob_id": "a", "tenant": "evil", "aws:bucket": "evil"})
    world.turn()
    assert strike(world, "a", prove=prove) == {"a": REWRAPPED}
    assert world.sidecar("a")["context"] == {"blob_id": "a"}


@pytest.mark.parametrize("prove", Prove)
def test_a_sidecar_rolled_back_to_an_older_wrap_of_the_same_data_key_is_moved_again(
    world: Installation, prove: Prove
) -> None:
    older = world.raw(world.plant("managed", "a"))
    world.turn()
    strike(world, "a", prove=prove)
    world.write_sidecar("a", older)
    for n in range(3):  # what this campaign has moved is current to the next
        world.plant("managed", f"good/managed-{n}")
    world.turn()
    assert strike(world, "a", prove=prove) == {"a": REWRAPPED}
    assert world.wrong() == []
    assert world.sidecar("a")["dek_version"] == 2


def test_a_rollback_past_a_writer_to_a_whole_older_blob_is_moved_since_it_opens_its_own_content(
    world: Installation,
) -> None:
    world.put("a", b"older")
    older = world.raw("a")
    world.put("a", b"newer")
    world.write_sidecar("a", older)
    world.turn()
    assert strike(world, "a", prove=Prove.CONTENT) == {"a": REWRAPPED}
    assert world.app.get("a") == b"older"


@pytest.mark.parametrize("prove", Prove)
def test_a_rollback_past_a_writer_of_a_bound_wrap_is_told_only_by_proving_the_content(
    world: Installation, prove: Prove
) -> None:
    older = world.raw(world.plant("managed", "a"))
    world.plant("managed", "a")  # the same place, a new data key
    world.write_sidecar("a", older)
    world.turn()
    expected = _quarantined("content_does_not_open") if prove is Prove.CONTENT else REWRAPPED
    assert strike(world, "a", prove=prove) == {"a": expected}
    previous = world.sidecar("a").get("previous", world.sidecar("a"))
    assert previous["wrapped_dek"] in older.decode(), "and the old wrap is kept in either case"


@pytest.mark.parametrize("prove", Prove)
def test_a_wrap_that_an_insider_bound_to_another_blob_in_the_kms_is_told_only_by_its_content(
    world: Installation, prove: Prove
) -> None:
    world.plant("managed", "victim")
    world.plant("managed", "evil")
    world.relabel("evil", world.kek, world.data_key("victim"))
    world.turn()
    expected = _quarantined("content_does_not_open") if prove is Prove.CONTENT else REWRAPPED
    assert strike(world, "evil", prove=prove) == {"evil": expected}


@pytest.mark.parametrize("prove", Prove)
def test_a_wrap_that_an_insider_bound_under_another_key_is_told_by_its_content_where_it_is_opened(
    world: Installation, prove: Prove
) -> None:
    world.plant("managed", "victim")
    world.plant("managed", "evil")
    world.relabel("evil", world.other_kek, world.data_key("victim"))
    world.turn()
    unopened = prove is Prove.SAMPLE and isinstance(world, AwsInstallation)  # one ReEncrypt
    expected = REWRAPPED if unopened else _quarantined("content_does_not_open")
    assert strike(world, "evil", prove=prove) == {"evil": expected}


def test_a_legacy_blob_copied_whole_is_moved_since_nothing_tells_it_from_its_original(
    world: Installation,
) -> None:
    world.write_sidecar("copy", world.raw(world.plant("wrapped", "victim")))
    world.store._objects["copy"] = world.store._objects["victim"]
    world.originals["copy"] = world.originals["victim"]
    expected = {"copy": REWRAPPED, "victim": REWRAPPED}
    assert strike(world, "copy", "victim", migrate=True) == expected
    assert world.wrong() == []


# Left alone, for it is not this campaign's business


@pytest.mark.parametrize("prove", Prove)
def test_a_wrap_that_says_it_is_at_the_target_is_left_unopened_and_verifying_names_it(
    world: Installation, prove: Prove
) -> None:
    world.plant("managed", "older")
    world.plant("wrapped", "legacy")
    target = world.turn()
    for blob_id in ("older", "legacy"):
        world.edit(blob_id, key_id=str(target))
    assert strike(world, "older", "legacy", prove=prove) == {"older": CURRENT, "legacy": CURRENT}
    results = by_id(world.verifier().verify(["older", "legacy"]))
    assert results["older"].reason_code == world.unopened["another version"]
    assert results["legacy"].reason_code == "wrap_does_not_open"


def test_a_managed_blob_relabelled_or_stripped_to_look_legacy_is_excluded_and_not_opened(
    world: Installation,
) -> None:
    for blob_id in ("relabelled", "nameless", "stripped"):
        world.plant("managed", blob_id)
    world.edit("relabelled", key_id="env:OLD_KEK")
    world.edit("nameless", key_id=None, wrapped_dek=None)
    del world.store._objects["stripped.sidecar.json"]
    world.turn()
    assert set(strike(world, "relabelled", "nameless", "stripped").values()) == {NOT_MANAGED}


def test_a_blob_of_ours_without_its_sidecar_is_gone_and_never_taken_for_a_legacy_one(
    world: Installation,
) -> None:
    world.put("a", b"under a generation")
    del world.store._objects["a.sidecar.json"]
    assert strike(world, "a", migrate=True) == {"a": (Outcome.GONE, "")}


# The batch waits or stops, and nothing is blamed


@pytest.mark.parametrize("prove", Prove)
def test_a_wrap_under_a_barred_key_waits_unblamed_and_holds_up_no_neighbour(
    world: Installation, prove: Prove
) -> None:
    world.plant("managed", "a")
    world.bar_key_of("a")
    world.turn()
    world.plant("managed", "neighbour")
    world.turn()
    barred = world.raw("a")
    report = world.rotate("a", "neighbour", prove=prove)
    assert isinstance(report.interruption, DeniedError)
    assert [(r.blob_id, r.outcome) for r in report.results] == [("neighbour", Outcome.REWRAPPED)]
    assert world.raw("a") == barred


@pytest.mark.parametrize("migrates", [True, False])
@pytest.mark.parametrize("prove", Prove)
def test_an_answer_under_another_version_than_the_target_is_waited_out_and_nothing_is_written(
    world: Installation, prove: Prove, *, migrates: bool
) -> None:
    world.turn()
    world.answer_late()
    before = world.snapshot()
    kind = "wrapped" if migrates else "managed"
    campaign = world.migrate if migrates else world.rotate
    report = campaign(f"good/{kind}-0", f"good/{kind}-1", prove=prove)
    assert isinstance(report.interruption, UnavailableError)
    assert report.interruption.reason_code == "version_not_current"
    assert report.results == []
    assert world.snapshot() == before
    assert campaign(f"good/{kind}-0", prove=prove).results[0].outcome is Outcome.REWRAPPED


@pytest.mark.parametrize("prove", [Prove.ALL, Prove.CONTENT])
def test_a_new_wrap_of_another_data_key_stops_the_batch_before_anything_is_written(
    world: Installation, prove: Prove
) -> None:
    world.turn()
    world.answer_wrongly()
    before = world.snapshot()
    report = world.rotate("good/managed-0", "good/managed-1", prove=prove)
    assert isinstance(report.interruption, ProofFailedError)
    assert report.results == []
    assert world.snapshot() == before


# Races


@pytest.mark.parametrize("step", ["open", "match", "wrap", "prove", "replace"])
@pytest.mark.parametrize("prove", Prove)
def test_a_sidecar_swapped_during_a_step_is_never_overwritten_and_judged_anew(
    world: Installation, step: str, prove: Prove
) -> None:
    world.plant("managed", "a")
    world.plant("managed", "b")
    world.turn()
    swapped = world.raw("b")
    report = world.rotate(
        "a", "b", prove=prove, before=at(step, lambda: world.write_sidecar("a", swapped))
    )
    results = by_id(report)
    assert (results["a"].outcome, results["a"].reason_code) == _quarantined("context_mismatch")
    assert results["b"].outcome is Outcome.REWRAPPED
    assert world.raw("a") == swapped


@pytest.mark.parametrize("step", ["open", "match", "wrap", "prove", "replace"])
def test_a_sidecar_that_appears_beside_a_bare_blob_during_a_step_is_not_overwritten(
    world: Installation, step: str
) -> None:
    world.plant("bare", "a")
    stolen = world.raw(world.plant("wrapped", "victim"))
    report = world.migrate("a", before=at(step, lambda: world.write_sidecar("a", stolen)))
    assert by_id(report)["a"].reason_code == "content_does_not_open"
    assert world.raw("a") == stolen


# Empty content, which any key opens


@pytest.mark.parametrize("prove", Prove)
def test_a_stolen_legacy_wrap_beside_an_empty_content_is_not_bound_to_the_thiefs_blob(
    world: Installation, prove: Prove
) -> None:
    stolen = world.sidecar(world.plant("wrapped", "tenants/7/secret"))
    world.store._objects["tenants/8/mine"] = b""
    world.write_sidecar("tenants/8/mine", stolen | {"content": "records-v1"})
    outcomes = strike(world, "tenants/8/mine", migrate=True, prove=prove)
    assert outcomes["tenants/8/mine"] == (Outcome.QUARANTINED, "content_proves_nothing")


def test_a_stolen_legacy_wrap_is_not_bound_by_an_object_that_is_empty(
    world: Installation,
) -> None:
    world.plant("wrapped", "a")
    stolen = world.sidecar(world.plant("wrapped", "victim"))
    generation = "0" * 32
    world.store._objects[world.layout.content_name("a", generation)] = b""
    world.write_sidecar("a", stolen | {"content": "records-v1", "object": generation})
    assert strike(world, "a", migrate=True)["a"][0] is Outcome.QUARANTINED
