"""Using keys, each use noted in a journal before anybody gets what came out.

The blob of an item is the `blob_id` of its context, to which its wrap is or will be bound.
"""

from collections.abc import Sequence

from keywrap import kms
from keywrap.datakey import DataKey
from keywrap.journal import Journal, Operation, Use
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, KeyProvider, KmsError, RequestNamer, ServerSideRewrap, only


def unwrap_many(
    provider: KeyProvider,
    items: Sequence[tuple[WrappedKey, Context]],
    journal: Journal,
    operation: Operation = "unwrap",
) -> list[DataKey | KmsError]:
    """Open many wraps; see `keywrap.kms.unwrap_many` and `Journal.used`."""
    named = [(wrapped.key_version, context) for wrapped, context in items]
    try:
        results = kms.unwrap_many(provider, items)
    except KmsError as error:
        journal.used(operation, _failed(named, error))
        raise
    journal.used(operation, _uses(provider, named, results))
    return results


def wrap_many(
    provider: KeyProvider,
    items: Sequence[tuple[DataKey, Context]],
    target: KeyVersion,
    journal: Journal,
) -> list[WrappedKey | KmsError]:
    """Wrap many data keys; see `keywrap.kms.wrap_many` and `Journal.used`.

    Args:
        provider: the provider of the KEK.
        items: what to wrap.
        target: the version that is meant, for events of what failed.
        journal: where it is noted.
    """
    named = [(target, context) for _key, context in items]
    try:
        results = kms.wrap_many(provider, items)
    except KmsError as error:
        journal.used("wrap", _failed(named, error))
        raise
    made = _uses(provider, _versions(named, results), results)
    journal.used("wrap", made)
    if provider.proves_wraps:  # it has opened each, too, by a request that has another name
        journal.used("prove", [(*use[:3], "") for use in made if isinstance(use[2], WrappedKey)])
    return results


def rewrap_many(
    provider: ServerSideRewrap,
    items: Sequence[tuple[WrappedKey, Context]],
    target: KeyVersion,
    journal: Journal,
) -> list[WrappedKey | KmsError]:
    """Move many wraps; see `ServerSideRewrap.rewrap_many` and `Journal.used`."""
    named = [(target, context) for _wrapped, context in items]
    try:
        results = provider.rewrap_many(items)
    except KmsError as error:
        journal.used("rewrap", _failed(named, error))
        raise
    journal.used("rewrap", _uses(provider, _versions(named, results), results))
    return results


def unwrap(
    provider: KeyProvider,
    wrapped: WrappedKey,
    context: Context,
    journal: Journal,
    operation: Operation = "unwrap",
) -> DataKey:
    """Open one wrap; see `KeyProvider.unwrap` and `Journal.used`."""
    return only(unwrap_many(provider, [(wrapped, context)], journal, operation))


def wrap(
    provider: KeyProvider, data_key: DataKey, context: Context, journal: Journal
) -> WrappedKey:
    """Wrap one data key; see `KeyProvider.wrap` and `Journal.used`."""
    items = [(data_key, context)]
    return only(wrap_many(provider, items, KeyVersion(provider.key), journal))


def _versions(
    named: Sequence[tuple[KeyVersion, Context]], results: Sequence[object]
) -> list[tuple[KeyVersion, Context]]:
    """Put the version that an answer names in place of the one that was meant."""
    return [
        (result.key_version if isinstance(result, WrappedKey) else version, context)
        for (version, context), result in zip(named, results, strict=True)
    ]


def _uses(
    provider: object,
    named: Sequence[tuple[KeyVersion, Context]],
    results: Sequence[object],
) -> list[Use]:
    requests = provider.last_requests() if isinstance(provider, RequestNamer) else ()
    if len(requests) != len(results):
        requests = ("",) * len(results)
    return [
        (context["blob_id"], version, result, request)
        for (version, context), result, request in zip(named, results, requests, strict=True)
    ]


def _failed(named: Sequence[tuple[KeyVersion, Context]], error: KmsError) -> list[Use]:
    return [(context["blob_id"], version, error, "") for version, context in named]
