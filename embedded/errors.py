"""The one error of this room."""


class EmbeddedError(Exception):
    """A server could not be installed, started or stopped; the message ends with the next step."""
