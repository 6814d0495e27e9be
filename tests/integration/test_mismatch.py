"""A wrong `[store] legacy_content`: the real scheduler and ledger, blobs and keys in memory."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from keywrap.providers.local import create_key_file
from ledger import progress
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import mismatch, starts, status
from scheduler.commands.starting import start
from scheduler.desk import REFUSED, Desk, DeskError
from scheduler.starts import Start
from tests.rotations import STORE, desk_at
from tests.worlds import World
from tests.yards import Yard

PROBABLY = "4 of 4 contents do not open: [store] legacy_content is probably wrong"


def _yard(ledger: Ledger, legacy_content: str) -> Yard:
    world = World()
    world.legacy_content = legacy_content
    return Yard(ledger, world)


def _plan(yard: Yard, desk: Desk, prefix: str = "") -> int:
    store = desk.settings.keywrap.store.place
    yard.runtime = replace(yard.runtime, store=store)
    wanted = {"sample_size": 500, "target": yard.world.target, "prefix": prefix, "store": store}
    plan = yard.start(Kind.PLAN, plan_of=Kind.MIGRATE, prove="all", **wanted)
    assert yard.run(plan).is_finished
    return plan


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    return desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()))


def _refusal(desk: Desk, prefix: str = "", kind: Kind = Kind.MIGRATE) -> DeskError:
    with pytest.raises(DeskError) as refused:
        mismatch.require_none(desk, kind, prefix)
    return refused.value


def test_after_a_plan_whose_contents_do_not_open_a_start_is_refused_until_one_opens(
    ledger: Ledger, desk: Desk
) -> None:
    mismatch.require_none(desk, Kind.MIGRATE, "")  # nothing was planned
    wrong = _yard(ledger, "gcm-v1")
    wrong.plant(4, ("direct",))
    plan = _plan(wrong, desk)
    refused = _refusal(desk)
    assert (refused.exit_code, refused.reason_code) == (REFUSED, "contents_do_not_open")
    assert str(refused).startswith(f'plan {plan}: {PROBABLY}. It is "gcm-v1" now: ')
    assert refused.next_command == "rewrap preflight, then: rewrap plan migrate"
    with pytest.raises(DeskError, match="legacy_content"):  # in Flower as at the desk
        starts.request_of(desk, Start(kind="migrate"), "flower: ann")
    for kind, prefix in ((Kind.ROTATE, ""), (Kind.MIGRATE, "elsewhere/")):
        mismatch.require_none(desk, kind, prefix)
    wrong.world.legacy_content = "records-v1"
    _plan(Yard(ledger, wrong.world), desk)
    mismatch.require_none(desk, Kind.MIGRATE, "")


def test_a_start_goes_on_where_the_operator_accepts_it(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "kek.json"
    create_key_file(file, "blobs")
    keys = f'[keys]\nprimary = "local:blobs"\n[keys.local.blobs]\nfile = "{file}"\n'
    desk = desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()) + keys)
    yard = _yard(ledger, "gcm-v1")
    yard.plant(4, ("direct",))
    _plan(yard, desk)
    words = ["migrate", "--yes"]
    refused = CliRunner().invoke(start, words, obj=desk).exception
    accepted = CliRunner().invoke(start, [*words, "--accept-unopenable"], obj=desk)
    assert isinstance(refused, DeskError)
    assert refused.reason_code == "contents_do_not_open"
    assert "(migrate)" in accepted.output, accepted


def test_the_command_that_plans_again_names_the_prefix(ledger: Ledger, desk: Desk) -> None:
    yard = _yard(ledger, "gcm-v1")
    for n in range(3):
        yard.world.plant("direct", f"a b/{n}")
    _plan(yard, desk, "a b/")
    again = _refusal(desk, "a b/").next_command
    assert again == "rewrap preflight, then: rewrap plan migrate --prefix 'a b/'"


@pytest.mark.parametrize(("sound", "is_told"), [(1, True), (2, False)])
def test_nearly_all_blobs_tell_of_the_configuration_and_fewer_of_themselves(
    ledger: Ledger, desk: Desk, sound: int, *, is_told: bool
) -> None:
    yard = _yard(ledger, "gcm-v1")
    yard.plant(10, ("direct",))
    for n in range(sound):
        yard.world.plant("wrapped", f"sound-{n}")
    plan = _plan(yard, desk)
    with ledger.begin() as connection:
        failures = progress.failures(connection, plan)
    assert mismatch.is_likely(10 + sound, failures) is is_told
    now = status.read(ledger, plan, keeps_previous=True)
    assert now is not None
    assert (now.wait.reason_code == "contents_do_not_open") is is_told
    assert now.wait.next_command == (
        "rewrap preflight" if is_told else f"rewrap blobs {plan} --outcome quarantined"
    )


def test_one_or_two_damaged_blobs_tell_of_themselves(ledger: Ledger, desk: Desk) -> None:
    yard = _yard(ledger, "gcm-v1")
    yard.plant(2, ("direct",))
    assert yard.counts(_plan(yard, desk)) == {"quarantined": 2}
    mismatch.require_none(desk, Kind.MIGRATE, "")


def test_blobs_that_are_bad_for_another_reason_do_not_tell_of_the_format(
    ledger: Ledger, desk: Desk
) -> None:
    yard = Yard(ledger)
    for blob_id in yard.plant(4, ("wrapped",)):
        yard.world.edit(blob_id, wrapped_dek="A" * 80)
    plan = _plan(yard, desk)
    assert yard.counts(plan) == {"quarantined": 4}
    mismatch.require_none(desk, Kind.MIGRATE, "")


def test_a_campaign_that_ends_so_says_what_is_probably_wrong(ledger: Ledger) -> None:
    yard = _yard(ledger, "gcm-v1")
    yard.plant(4, ("direct",))
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    now = status.read(ledger, campaign, keeps_previous=True)
    assert now is not None
    assert now.wait.reason == PROBABLY
