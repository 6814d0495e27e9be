"""Matching a data key against its blob's content: what proves a wrap that binds nothing."""

from functools import partial

from keywrap.contents import ContentError, ContentFormat, Proof, RangedRead, content_format
from keywrap.keyring import KeyRing
from keywrap.moves import Move
from keywrap.reading import SidecarReader
from keywrap.sidecar import Sidecar


def find_content(
    reader: SidecarReader, legacy_content: str, blob_id: str, sidecar: Sidecar
) -> tuple[ContentFormat, RangedRead]:
    """Return how a blob's content is encrypted, and what reads parts of it; reads nothing yet.

    Args:
        reader: names the store and its layout.
        legacy_content: the content format of blobs whose sidecar does not say.
        blob_id: the blob.
        sidecar: what its sidecar says.

    Raises:
        ContentError: there is no such format.
        UnsafeBlobIdError: the sidecar names what cannot be content.
    """
    name = reader.layout.content_name(blob_id, sidecar.object)
    form = content_format(sidecar.content or legacy_content)
    return form, partial(reader.store.read_range, name)


def require_match(reader: SidecarReader, keys: KeyRing, legacy_content: str, move: Move) -> None:
    """See that a data key opens its blob's content.

    Args:
        reader: names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        move: a blob whose sidecar was read and whose data key is open.

    Raises:
        ContentError: it does not, or nothing tells.
        NotFoundError: the content that the sidecar names is not there.
        NotAnObjectError, UnsafeBlobIdError: it cannot be content.
        StoreUnavailableError: the store did not answer.
    """
    assert move.data_key is not None  # noqa: S101 - steps run in order
    form, read = find_content(reader, legacy_content, move.blob_id, move.sidecar)
    proof = form.proves(move.data_key, read)
    if proof is Proof.EMPTY and not _is_tied(keys, move):
        raise ContentError(
            "the content is empty, so it proves no data key, and the wrap is bound to no "
            "blob: it may be another's",
            "content_proves_nothing",
        )


def _is_tied(keys: KeyRing, move: Move) -> bool:
    """Whether a wrap cannot be another blob's: its key binds it, or is every blob's."""
    old = keys.provider(move.old.key_version.key)
    return old.binds_context or not move.old.ciphertext
