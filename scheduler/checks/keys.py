"""Checks of keys: each managed one wraps, opens and binds; each legacy one opens a blob."""

from collections.abc import Iterator
from functools import partial

from keywrap.canary import require_bound, require_usable
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider
from keywrap.tables.dpapi import claims
from scheduler.checks import staging
from scheduler.checks.check import Check, Finding, Needed, passed, skipped, warned
from scheduler.checks.ground import Ground

_MEND = "check the key's table in [keys], its credentials and what they may do"


def checks(ground: Ground) -> Iterator[Check]:
    """Yield the checks of the listed keys."""
    yield Check("primary", lambda: _primary(ground))
    for key in ground.keys_of(legacy=False):
        current = Needed(f"a usable {key}", partial(_current, ground, key))
        yield Check(f"key {key}", partial(_usable, current), _MEND)
        yield Check(f"binding of {key}", partial(_bound, ground, key, current), _MEND)
    for key in ground.keys_of(legacy=True):
        yield Check(f"legacy key {key}", partial(_legacy, ground, key), _MEND)
    for name, table in ground.settings.keywrap.keys.dpapi.items():
        if table.master_keys is None:
            look = partial(_family, ground, name, table.queue)
            yield Check(f"legacy keys of [keys.dpapi.{name}]", look, _MEND)


def _primary(ground: Ground) -> Finding:
    primary = ground.settings.keywrap.keys.primary
    if primary:
        return passed(f"new wraps use {primary}")
    managed = ground.keys_of(legacy=False)
    step = f'primary = "{managed[0]}"' if managed else "list a managed key in [keys]"
    return warned("no_primary", "[keys] names no primary: each campaign needs --to KEY", step)


def _current(ground: Ground, key: str) -> KeyVersion:
    """See that a KEK wraps and opens under its current version, and return that."""
    provider = ground.provider(key).get()
    version = provider.current_version()
    require_usable(provider, version)
    return version


def _usable(current: Needed[KeyVersion]) -> Finding:
    return passed(f"a canary is wrapped under {current.get()} and opens")


def _bound(ground: Ground, key: str, current: Needed[KeyVersion]) -> Finding:
    current.get()
    return bound(ground.provider(key).get())


def bound(provider: KeyProvider) -> Finding:
    """See that a KEK that binds contexts refuses a wrong one.

    Raises:
        ProofFailedError: it does not.
        KmsError: the key service did not answer.
    """
    if not provider.binds_context:
        return skipped("key_binds_nothing", "this kind of key binds a wrap to no context")
    require_bound(provider)
    return passed("a canary is refused with the context of another blob")


def _legacy(ground: Ground, key: str) -> Finding:
    if queue := ground.elsewhere(ground.settings.keywrap.keys.queue_of(key)):
        return _skipped(queue)
    ground.provider(key).get()
    return staging.of_keys(ground, lambda other: other == key)


def _family(ground: Ground, name: str, queue: str) -> Finding:
    """See that the master keys open blobs that a table claims without listing them."""
    if ground.elsewhere(queue):
        return _skipped(queue)
    return staging.of_keys(ground, claims(name, ground.settings.keywrap.keys.dpapi))


def _skipped(queue: str) -> Finding:
    return skipped(
        "key_elsewhere",
        f"only hosts of the queue {queue} can use it: not checked from here",
        f"REWRAP_WORKERS_QUEUES=rewrap,{queue} rewrap preflight (on such a host)",
    )
