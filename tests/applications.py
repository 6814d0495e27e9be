"""What an application gives `EncryptedBlobs`, as tests need it: an audit sink, a control source."""

from collections.abc import Mapping
from typing import Any

from keywrap.control import Control, ControlError, Cutover
from keywrap.keys import KeyVersion


class Kept:
    """A sink that keeps events, or fails."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def event(self, event: Mapping[str, object]) -> None:
        if self.failure:
            raise self.failure
        self.events.append(dict(event))

    def said(self, *fields: str) -> list[tuple[Any, ...]]:
        names = fields or ("event", "key_id", "reason_code")
        return [tuple(event.get(name) for name in names) for event in self.events]


class Published:
    """What a control file would say; an error says that it cannot be read."""

    def __init__(self) -> None:
        self.says: Control | ControlError = Control(1, None, Cutover.OFF)
        self.asked = 0

    def current(self) -> Control:
        self.asked += 1
        if isinstance(self.says, ControlError):
            raise self.says
        return self.says

    def cutover(self, cutover: Cutover) -> None:
        self.says = Control(2, None, cutover)

    def primary(self, version: KeyVersion) -> None:
        self.says = Control(2, version, Cutover.OFF)
