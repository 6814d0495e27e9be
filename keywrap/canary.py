"""A canary: a wrap of no blob, which shows that a KEK version wraps and opens."""

from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider, ProofFailedError, RefusedError, UnavailableError
from keywrap.layout import RESERVED
from keywrap.noted import unwrap, wrap

CONTEXT = {"blob_id": f"{RESERVED}canary"}
"""No blob has such an id, so a canary is never a blob's wrap."""

_ANOTHER = {"blob_id": f"{RESERVED}another-canary"}


def require_usable(
    provider: KeyProvider, version: KeyVersion, journal: Journal = NO_JOURNAL
) -> None:
    """See that a KEK wraps under a version, or a later one, and that such a wrap opens.

    Args:
        provider: the KEK, with the credentials that are tried.
        version: the version that new wraps are to have.
        journal: where each use of the KEK is noted.

    Raises:
        ProofFailedError: the wrap opens to something else.
        UnavailableError: it still wraps under an older version.
        KmsError: it does not wrap, or the wrap does not open.
    """
    data_key = DataKey.generate()
    wrapped = wrap(provider, data_key, CONTEXT, journal)
    if not KeyRing([provider]).reaches(wrapped.key_version, version):
        raise UnavailableError(
            f"{version.key} still wraps under {wrapped.key_version}, not yet under {version}",
            key=version.key,
            reason_code="version_not_in_use",
        )
    if unwrap(provider, wrapped, CONTEXT, journal, "prove") != data_key:
        raise ProofFailedError(f"a wrap under {wrapped.key_version} opens to another data key")


def require_bound(provider: KeyProvider) -> None:
    """See that a wrap opens with no other context than the one that it was made with.

    Args:
        provider: a KEK that says it binds contexts.

    Raises:
        ProofFailedError: it opens with another.
        KmsError: it does not wrap, or the key service did not answer.
    """
    wrapped = provider.wrap(DataKey.generate(), CONTEXT)
    try:
        provider.unwrap(wrapped, _ANOTHER)
    except RefusedError:
        return
    raise ProofFailedError(
        f"a wrap under {wrapped.key_version} opens with the context of another blob: it is not "
        "bound, and a swapped sidecar would go unseen"
    )
