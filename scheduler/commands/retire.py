"""`rewrap retire`: take a KEK version out of use, after proof that nothing needs it."""

import os
from dataclasses import replace
from typing import Any

import click

from keywrap.config import open_key
from keywrap.keyring import UnlistedKeyError
from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.kms import KeyProvider, KeySwitch, VersionSwitch
from ledger import retirements
from ledger.approvals import Action
from ledger.retirements import Retirement, Step
from scheduler import approving, showing
from scheduler.approving import NO_PERMIT, Permit, break_glass
from scheduler.commands.reading import as_json, status_of
from scheduler.commands.starting import confirm, yes
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, USAGE, Desk, DeskError
from scheduler.retiring import Retiring

_UNSEEN = "replicas, copies that are kept elsewhere, and old versions outside of S3"


@click.command()
@click.argument("key_version")
@click.option("--status", is_flag=True, help="Only say how far it is.")
@click.option(
    "--accept-unopenable",
    is_flag=True,
    help="Leave wraps in older backups without a key; wants a fresh verified backup.",
)
@break_glass
@yes
@as_json
@click.pass_obj
def retire(
    desk: Desk,
    key_version: str,
    *,
    status: bool,
    accept_unopenable: bool,
    break_glass: str,
    yes: bool,
    as_json: bool,
) -> int:
    """Disable a KEK version for good, once nothing needs it: reversible, and it deletes nothing.

    KEY_VERSION is as sidecars name it, such as hcvault://transit/blob-kek?version=2; a key of AWS
    is named without one, since KMS disables the whole key. Closes
    campaigns towards it, stops wrapping, scans the store, disables, drains, scans again and soaks;
    whatever is found, the version is enabled again. Run again after being cut off, it goes on.

    Example: rewrap retire 'hcvault://transit/blob-kek?version=2'
    """
    version = _parse(key_version)
    if status:
        return _show(desk, version, as_json=as_json)
    if as_json:
        raise click.UsageError("--json goes with --status")
    provider = _provider(desk, version)
    retiring = Retiring(
        desk,
        provider,
        version,
        desk.settings.retire,
        accept_unopenable,
        lambda scan: showing.until_finished(lambda: status_of(desk, scan)),
        click.echo,
    )
    desk.ledger  # noqa: B018 - unreachable is said before the question
    confirm(lambda: _say_plan(retiring), yes=yes)
    replace(retiring, permit=_permit(desk, retiring, break_glass)).run()
    click.echo(f"{version} is retired; what no scan could see: {_UNSEEN}")
    return DONE


def _permit(desk: Desk, retiring: Retiring, reason: str) -> Permit:
    """Return what permits to begin; whoever goes on with one that was begun needs nothing."""
    version, waits = retiring.version, retiring.waits
    with desk.ledger.begin() as connection:
        known = retirements.newest(connection, version)
    if known is not None and known.step not in retirements.ENDED:
        return NO_PERMIT
    plan = {
        "key_version": str(version),
        "closes": [str(other) for other in retiring.closes()],
        "accept_unopenable": retiring.accepted,
        "store": desk.settings.keywrap.store.place,
        "drain_s": int(waits.drain_s),
        "soak_s": int(waits.soak_s),
    }
    return approving.permit(desk, Action.RETIRE, plan, reason)


def _parse(text: str) -> KeyVersion:
    try:
        return KeyVersion.parse(text)
    except BadKeyIdError as error:
        raise _bad(f"{text!r} is no key version: {error}") from error


def _bad(message: str) -> DeskError:
    return DeskError(
        f"{message}; nothing was changed",
        exit_code=USAGE,
        reason_code="key_version_invalid",
        next_command="rewrap inventory",
    )


def _provider(desk: Desk, version: KeyVersion) -> KeyProvider:
    """Return the KEK, seen to be one whose service can do what is asked for.

    Raises:
        DeskError: it is not listed, or closes versions one by one, or only as a whole.
    """
    try:
        provider = open_key(desk.settings.keywrap, version.key, os.environ)
    except UnlistedKeyError as error:
        raise _bad(str(error)) from error
    if isinstance(provider, KeySwitch if not version.version else VersionSwitch):
        return provider
    if not version.version:
        raise _bad(f"{version} names no version: this key is retired version by version")
    raise _not_alone(version, is_primary=desk.settings.keywrap.keys.primary == version.key)


def _not_alone(version: KeyVersion, *, is_primary: bool) -> DeskError:
    closes = (
        f"{version.key}: its service disables a key as a whole, and so would close every version "
        "of it, the current one too; nothing was changed"
    )
    move = "Make a new key, list it in [keys] as the primary, and move all wraps to it"
    return DeskError(
        f"{closes}. {move}; then the old key is retired as a whole" if is_primary else closes,
        exit_code=REFUSED,
        reason_code="version_not_alone",
        next_command=(
            "rewrap start rotate --to NEW_KEY --wait"
            if is_primary
            else f"rewrap retire '{version.key}'"
        ),
    )


def _say_plan(retiring: Retiring) -> None:
    waits = retiring.waits
    click.echo(f"retire {retiring.version}")
    if retiring.is_whole:
        click.echo("  the whole key: every version of it closes, and is looked for")
    if closes := retiring.closes():
        names = ", ".join(str(version) for version in closes)
        click.echo(f"  its service has a floor: {names} close with it, and are looked for as well")
    click.echo("  campaigns towards it are refused from now on, and so is every undo meanwhile")
    click.echo(
        "  the whole store is scanned; one wrap that needs it ends this with nothing disabled"
    )
    click.echo(
        f"  then it is disabled (reversible), after {waits.drain_s:g} s scanned again, and after "
        f"{waits.soak_s:g} s of soaking once more"
    )
    click.echo(f"  not seen: {_UNSEEN}")


def _show(desk: Desk, version: KeyVersion, *, as_json: bool) -> int:
    with desk.ledger.begin() as connection:
        found = retirements.newest(connection, version)
    if as_json:
        showing.document(_document(version, found))
    elif found is None:
        click.echo(f"{version} was never retired\nnext: rewrap retire '{version}'")
    else:
        why = f": {found.reason}" if found.reason else ""
        click.echo(f"{version}: {found.step}{why}")
        if found.step not in retirements.ENDED:
            click.echo(f"it goes on when it is typed again\nnext: rewrap retire '{version}'")
    return EXCEPTIONS if found and found.step is Step.REFUSED else DONE


def _document(version: KeyVersion, found: Retirement | None) -> dict[str, Any]:
    again = found is None or found.step is not Step.RETIRED
    return {
        "key_version": str(version),
        "step": found.step if found else None,
        "closes": list(found.closes) if found else [],
        "reason_code": found.reason_code if found else None,
        "reason": found.reason if found else None,
        "requested_by": found.requested_by if found else None,
        "backup_wraps": found.backup_wraps if found else None,
        "object_versions": found.object_versions if found else None,
        "next_command": f"rewrap retire '{version}'" if again else None,
    }
