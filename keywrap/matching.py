"""Matching a data key against its blob's content: what proves a wrap that binds nothing."""

from keywrap.contents import ContentError, Proof, content_format
from keywrap.keyring import KeyRing
from keywrap.moves import Move
from keywrap.reading import SidecarReader


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
    assert move.seen is not None  # noqa: S101 - steps run in order
    assert move.data_key is not None  # noqa: S101 - the same
    sidecar = move.seen.sidecar
    name = reader.layout.content_name(move.blob_id, sidecar.object)
    proof = content_format(sidecar.content or legacy_content).proves(
        move.data_key, lambda start, length: reader.store.read_range(name, start, length)
    )
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
