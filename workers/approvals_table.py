"""The table `[approvals]`: what needs a second person, and whose signatures count."""

from itertools import combinations
from typing import Annotated

import msgspec
from msgspec import Meta

from keywrap.config import ConfigError
from keywrap.signing import PublicKey
from keywrap.tables.common import read_table
from ledger.approvals import Action

_NEW_KEY = "rewrap approval-key --out FILE"
_TWO = 2

PersonName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]


class Approvals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What needs a second person. No environment variable changes these.

    Attributes:
        required: the actions that do.
        people: whose signatures count: names, and the Ed25519 public key of each.
        expires_s: seconds from the request until an approval stops to count.
        break_glass: whether one person alone may go ahead with a reason, loudly.
    """

    required: tuple[Action, ...] = ()
    people: dict[PersonName, str] = {}
    expires_s: Annotated[int, Meta(ge=60, le=30 * 86_400)] = 86_400
    break_glass: bool = True

    def key_of(self, person: str) -> PublicKey | None:
        """Return a person's public key; None where nobody of that name is listed."""
        text = self.people.get(person)
        return PublicKey.parse(text) if text else None

    def person_of(self, key: PublicKey) -> str | None:
        """Return whose public key it is; None where it is nobody's."""
        return next((name for name, text in self.people.items() if text == str(key)), None)


def read_approvals(value: object) -> Approvals:
    """Read and check the table.

    Raises:
        ConfigError: something is unknown, of another form, or contradicts the rest.
    """
    table = read_table("[approvals]", value, Approvals)
    for name, key in table.people.items():
        try:
            PublicKey.parse(key)
        except ValueError as error:
            raise ConfigError(
                f"[approvals.people] {name}", str(error), next_command=_NEW_KEY
            ) from None
    for (one, key), (other, same) in combinations(table.people.items(), 2):
        if key == same:
            # Two names for one key would be two people in one.
            raise ConfigError("[approvals.people]", f"{one} and {other} have the same key")
    if table.required and len(table.people) < _TWO:
        raise ConfigError(
            "[approvals.people]",
            "two people are needed: whoever asks does not approve",
            next_command=_NEW_KEY,
        )
    return table
