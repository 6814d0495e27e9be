"""Text of others, made safe to print."""


def plain(text: str) -> str:
    """Return text whose control characters are escaped, so that an id cannot forge a line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
