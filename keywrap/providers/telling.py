"""What speaks for one KEK, and names it in each of its errors."""

from keywrap.kms import DeniedError, RefusedError, UnavailableError


class Telling:
    """Makes errors that are about one KEK.

    Attributes:
        key: its URI.
    """

    key: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"

    def refused(self, message: str, reason_code: str) -> RefusedError:
        """Return the error for a wrap that does not open."""
        return RefusedError.about(self.key, message, reason_code)

    def denied(self, message: str, reason_code: str) -> DeniedError:
        """Return the error for a key that refuses as a whole."""
        return DeniedError.about(self.key, message, reason_code)

    def unavailable(self, message: str, reason_code: str = "") -> UnavailableError:
        """Return the error for a service that does not answer, or not as it should."""
        return UnavailableError.about(self.key, message, reason_code)
