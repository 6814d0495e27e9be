"""Rolling a new KEK version out to the applications, before any wrap is moved to it."""

from dataclasses import replace

import click

from keywrap.canary import require_usable
from keywrap.control import Control
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider, KmsError, ProofFailedError
from scheduler import publishing
from scheduler.desk import REFUSED, UNREACHABLE, DeskError
from scheduler.publishing import Press


def roll_out(
    press: Press, provider: KeyProvider, new: KeyVersion, journal: Journal = NO_JOURNAL
) -> None:
    """Tell every application to wrap under the new version, and wait until all do.

    Cut off anywhere in here, it is done again: what is published already is not published twice,
    and the ledger's clock tells how much of the wait is left.

    Args:
        press: where it is published.
        provider: the KEK.
        new: its new version.
        journal: where each use of the KEK is noted.

    Raises:
        DeskError: the new version cannot be used; or nothing can be published from here.
        ControlError: the control file is not to be trusted.
        StoreError: the store did not answer.
    """
    _require_usable(provider, new, journal)  # before anybody writes what nobody could read
    publication = press.publish(lambda base: _moved(base, new))
    publishing.say(publication)
    try:
        publishing.wait_until_obeyed(publication)
    except KeyboardInterrupt:
        click.echo(
            f"\n{new} is published and no wrap is moved yet; run it again, and it goes on\n"
            f"next: rewrap rotate-kek {new.key}"
        )
        raise
    # Once more: a service of many replicas may have shown it on some only.
    _require_usable(provider, new, journal)


def _moved(base: Control, new: KeyVersion) -> Control:
    is_there = base.primary is not None and base.primary.satisfies(new)
    return base if is_there else replace(base, primary=new)


def _require_usable(provider: KeyProvider, new: KeyVersion, journal: Journal) -> None:
    try:
        require_usable(provider, new, journal)
    except (ProofFailedError, KmsError) as error:
        raise DeskError(
            f"a canary wrap under {new} failed: {error}; no wrap was moved",
            exit_code=UNREACHABLE if isinstance(error, KmsError) else REFUSED,
            reason_code=getattr(error, "reason_code", "canary_failed"),
            next_command=f"rewrap rotate-kek {new.key} (it goes on, and asks for no second)",
        ) from error
