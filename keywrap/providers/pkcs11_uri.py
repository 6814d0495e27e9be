"""How a KEK in a PKCS#11 token is named: `pkcs11:token=TOKEN;object=FAMILY` (RFC 7512)."""

from urllib.parse import quote, unquote

SCHEME = "pkcs11:"

MAX_TOKEN_BYTES = 32
"""Size of the label in `CK_TOKEN_INFO` (PKCS #11 v2.40, section 3.2)."""

MAX_FAMILY_BYTES = 128
"""Ours; a label has no limit of its own, a key id has."""


def key_path(token: str, family: str) -> str:
    """Return the path that names a KEK: the URI without its scheme.

    Args:
        token: the token's label.
        family: what its keys' labels, `FAMILY:v1`, `FAMILY:v2` and so on, begin with.

    Raises:
        ValueError: one of them cannot be such a name.
    """
    for name, limit in ((token, MAX_TOKEN_BYTES), (family, MAX_FAMILY_BYTES)):
        sized = 0 < len(name.encode()) <= limit
        if not sized or not name.isprintable() or name != name.strip():
            raise ValueError(
                f"the label of a token has up to {MAX_TOKEN_BYTES} bytes of UTF-8 and that of a "
                f"key up to {MAX_FAMILY_BYTES}, printable and without blanks around"
            )
    return f"token={quote(token, safe='')};object={quote(family, safe='')}"


def read_path(path: str) -> tuple[str, str]:
    """Read the path that names a KEK.

    A KEK has one name only, or it could be listed twice: the two attributes stand in this order,
    and what RFC 3986 does not call unreserved is percent-encoded in upper case.

    Args:
        path: such as `token=hsm-1;object=blob-kek`.

    Returns:
        The token's label and the family.

    Raises:
        ValueError: it is not of that form.
    """
    token, _, family = path.partition(";object=")
    names = unquote(token.removeprefix("token="), errors="replace"), unquote(family)
    if key_path(*names) != path:
        raise ValueError(
            "a key in a token is named token=LABEL;object=FAMILY, other characters than letters, "
            f"digits and ._~- percent-encoded; did you mean {key_path(*names)}"
        )
    return names
