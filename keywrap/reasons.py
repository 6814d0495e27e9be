"""What errors have that a person is told of: a code, a sentence, and what to type next."""


class ReasonedError(Exception):
    """Something cannot be done; the message never holds key material.

    Args:
        reason_code: a short stable code, such as `control_forged`.
        message: a sentence for the operator.
        next_command: what to type next; None for what usually helps, which may be nothing.
    """

    usual_command = ""

    def __init__(self, reason_code: str, message: str, next_command: str | None = None) -> None:
        super().__init__(message)
        self.reason_code = reason_code
        self.next_command = self.usual_command if next_command is None else next_command
