"""`rewrap policy`: what a role must be allowed, in the form that the key service takes."""

from collections.abc import Iterator, Mapping
from types import ModuleType

import click

from keywrap.config import KeysConfig
from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.permissions import ON_TARGETS, Role, StorePower
from scheduler.desk import USAGE, Desk, DeskError
from scheduler.policies import Place, Subject, aws, azure, gcp, vault

_VENDORS: Mapping[str, ModuleType] = {"aws": aws, "gcp": gcp, "azure": azure, "vault": vault}

_PLACEHOLDERS = Place()


@click.command()
@click.argument("vendor", type=click.Choice(list(_VENDORS)))
@click.option(
    "--role", type=click.Choice([role.value for role in Role]), required=True, help="Who it is for."
)
@click.option(
    "--to",
    multiple=True,
    metavar="KEY",
    help="A worker's target, if not the primary; may be repeated.",
)
@click.option(
    "--principal",
    default=_PLACEHOLDERS.principal,
    metavar="WHO",
    help="Who gets it: a member of Google's IAM, an assignee of Azure's.",
)
@click.option("--subscription", default=_PLACEHOLDERS.subscription, help="Azure's.", metavar="ID")
@click.option(
    "--resource-group", default=_PLACEHOLDERS.resource_group, help="Azure's.", metavar="NAME"
)
@click.pass_obj
def policy(desk: Desk, /, vendor: str, role: str, to: tuple[str, ...], **place: str) -> None:
    """Print a least-privilege policy for exactly the keys and the store of the configuration.

    It allows what the code of this version calls and no more. No role may delete a key.

    Example: rewrap policy vault --role worker > worker.hcl
    """
    config = desk.settings.keywrap
    targets = _targets(config.keys, vendor, Role(role), to)
    sweeps = desk.settings.reencrypt.sweep
    subject = Subject(config, Role(role), targets, Place(**place), sweeps)
    document: str = _VENDORS[vendor].document(subject)
    if not document:
        raise _nothing(config.keys, vendor, role)
    click.echo(document)
    for note in _notes(subject, vendor):
        click.echo(f"note: {note}", err=True)


def _targets(keys: KeysConfig, vendor: str, role: Role, to: tuple[str, ...]) -> frozenset[str]:
    """Return the keys that new wraps use.

    Raises:
        DeskError: one that is given is no listed key of this vendor.
        click.UsageError: some are given, and the role has none.
    """
    if to and role is not Role.WORKER:
        raise click.UsageError("--to goes with --role worker")
    for key in to:
        if key not in _listed(keys, vendor):
            listed = ", ".join(_listed(keys, vendor)) or "none"
            raise DeskError(
                f"{key!a} is no listed key of {vendor}, without its version; "
                f"those that are: {listed}",
                exit_code=USAGE,
                reason_code="key_not_usable",
                next_command=f"rewrap policy {vendor} --role {role}",
            )
    return frozenset(to or ({keys.primary} if keys.primary else ()))


def _listed(keys: KeysConfig, vendor: str) -> list[str]:
    return [uri for uri in keys.uris() if _provider(uri) == vendor]


def _provider(uri: str) -> str:
    try:
        return KeyVersion.parse(uri).provider
    except BadKeyIdError:  # a PKCS#11 URI may be longer than key ids are
        return ""


def _nothing(keys: KeysConfig, vendor: str, role: str) -> DeskError:
    listed = ", ".join(keys.uris()) or "none"
    others = [kind for kind in _VENDORS if _listed(keys, kind)]
    step = f"rewrap policy {others[0]} --role {role}" if others else "list a key in [keys]"
    return DeskError(
        f"the configuration lists no key of {vendor}, and no store there that a {role} uses; "
        f"keys that are listed: {listed}",
        exit_code=USAGE,
        reason_code="no_such_keys",
        next_command=step,
    )


def _notes(subject: Subject, vendor: str) -> Iterator[str]:
    """Yield what whoever applies the policy should know."""
    role = subject.role
    if role in ON_TARGETS and subject.targets.isdisjoint(_listed(subject.config.keys, vendor)):
        yield f"new wraps are under no key of {vendor}: this {role} only opens here"
    if role is Role.OPERATOR and subject.config.control is not None:
        yield (
            "with [control], rotate-kek wraps and opens a canary: "
            "who types it needs the role writer besides"
        )
    if StorePower.REMOVE in subject.store_powers and vendor != "vault":
        yield "[reencrypt] sweep = true: it may delete contents; without it, it may not"
    if vendor == "vault" and vault.servers(subject) > 1:
        yield "the keys lie on several servers or namespaces: give each its own part"
    if vendor in {"gcp", "azure"} and subject.place.has_placeholders(vendor):
        yield "replace what is in capitals; --help names the options that fill it in"
