"""The versions of one KEK in a PKCS#11 token: AES-256 keys labelled `FAMILY:v1`, `FAMILY:v2`.

A wrap carries no version of its own, and a label is neither unique nor fixed. So nothing is done
under a label that two keys bear, whose key has another check value than it had, or whose `CKA_ID`
names another version of the family.

Everything here is called with the process's lock held, and raises `PKCS11Error` where the module
or the token does not work.
"""

import os
import re
from collections.abc import Mapping

from pkcs11 import Attribute, KeyType, ObjectClass, SecretKey, Session
from pkcs11 import exceptions as p11

from keywrap.datakey import KEY_BYTES
from keywrap.kms import DeniedError
from keywrap.providers.pkcs11_errors import INTEGRITY, is_fixed
from keywrap.providers.pkcs11_mechanisms import WrapMechanism
from keywrap.providers.telling import Telling

KEK_BITS = 256

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_KIND = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES}


class TokenKeys(Telling):
    """Finds, checks and makes the versions of a KEK.

    Args:
        name: what the labels begin with.
        key: URI of the KEK, for errors.
        mechanism: how its versions wrap.
        check_values: what `CKA_CHECK_VALUE` of a version must be, three bytes in hexadecimal, by
            version. For other versions the one that is seen first counts, in this process.
    """

    def __init__(
        self, name: str, key: str, mechanism: WrapMechanism, check_values: Mapping[str, str]
    ) -> None:
        self._name = name
        self.key = key
        self._mechanism = mechanism
        self._check_values = dict(check_values)
        self._session: Session | None = None
        # Handles: a search reads every object of the token. They end with their session.
        self._found: dict[str, SecretKey] = {}
        self._examined: set[str] = set()
        self._newest = ""
        self._known_good: dict[str, tuple[bytes, bytes]] = {}

    def newest(self, session: Session) -> str:
        """Look through the whole token for the newest version.

        Raises:
            DeniedError: there is no version at all.
        """
        versions = self.versions(session)
        if not versions and self._found:
            # SoftHSM finds nothing, without an error, in a token that was taken out.
            raise p11.SessionClosed
        if not versions:
            raise self.denied(
                f"the token has no key {self._name}:v1; make it: rewrap create-kek {self.key}",
                "key_not_found",
            )
        self._newest = versions[-1]
        return self._newest

    def versions(self, session: Session) -> list[str]:
        """Look through the whole token for all versions, the oldest first."""
        self._attend(session)
        label = re.compile(rf"{re.escape(self._name)}:v({_VERSION.pattern})")
        matches = (label.fullmatch(_label_of(each)) for each in self._search(session))
        return sorted({match[1] for match in matches if match}, key=int)

    def current(self, session: Session) -> str:
        """Return the newest version, looking only for what came after the last that was seen.

        Raises:
            DeniedError: as in `newest`, and `find`.
        """
        self._attend(session)
        version = self._newest or self.newest(session)
        while self.find(session, following := str(int(version) + 1)):
            version = self._newest = following
        return version

    def find(self, session: Session, version: str) -> SecretKey | None:
        """Return the key of a version, or None where there is none.

        Raises:
            DeniedError: it cannot be told which key is that version.
        """
        self._attend(session)
        if version not in self._found and _VERSION.fullmatch(version):
            found = self._search(session, {Attribute.LABEL: self._label(version)})
            if len(found) > 1:
                raise self.denied(
                    f"{len(found)} keys are labelled {self._label(version)}, and wraps do not say "
                    "which of them they need; nothing was changed. Find out and relabel the others",
                    "key_version_duplicate",
                )
            for key in found:
                self._check(version, key)
                self._found[version] = key
        return self._found.get(version)

    def opening(self, session: Session, version: str) -> SecretKey | None:
        """Return the key of a version for opening, or None where there is none.

        Raises:
            DeniedError: it is disabled; and as in `find`.
        """
        key = self.find(session, version)
        if key is not None and not self._mechanism.can_open(key):
            # It may have been enabled since.
            del self._found[version]
            key = self.find(session, version)
        if key is not None and not self._mechanism.can_open(key):
            raise self._disabled(version)
        return key

    def wrapping(self, session: Session, version: str) -> SecretKey:
        """Return the key of a version for wrapping, examined once.

        Raises:
            DeniedError: it is disabled or not fit to wrap; and as in `find`.
        """
        key = self.opening(session, version)
        if key is None or not self._mechanism.can_wrap(key):
            raise self._disabled(version)
        if version not in self._examined:
            self._examine(version, key)
            self._examined.add(version)
        return key

    def generate(self, session: Session, version: str) -> None:
        """Make the key of a version; it never leaves the token.

        Args:
            session: one that may write.
            version: a version that there is not yet.

        Raises:
            DeniedError: the token lacks the mechanism. Nothing was made.
        """
        if missing := self._mechanism.needs - session.token.slot.get_mechanisms():
            names = ", ".join(sorted(f"CKM_{each.name}" for each in missing))
            raise self.denied(f"the token does not offer {names}", "mechanism_missing")
        key = session.generate_key(
            KeyType.AES,
            KEK_BITS,
            label=f"{self._name}:new",
            id=self._label(version).encode(),
            store=True,  # or it would go with the session
            capabilities=self._mechanism.capabilities,
            template={
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
            },
        )
        # SoftHSM 2.6.1 stores a key before it has a value: who is killed then leaves one that
        # does nothing. So it becomes a version last, when it is seen to work.
        self._examine(version, key)
        key[Attribute.LABEL] = self._label(version)

    def switch(self, session: Session, version: str, *, on: bool) -> None:
        """Let a version wrap and open, or not.

        Args:
            session: one that may write.
            version: a version that there is.
            on: which.

        Raises:
            DeniedError: the token does not let these attributes be changed.
        """
        (key,) = self._search(session, {Attribute.LABEL: self._label(version)})
        switches = self._mechanism.switches
        try:
            # Opening last when it is disabled, first when enabled: where this ends half-way, it
            # still opens, and may be done again.
            for attribute in reversed(switches) if on else switches:
                key[attribute] = on
            done = all(key[attribute] is on for attribute in switches)
        except p11.PKCS11Error as error:
            if not is_fixed(error):
                raise
            done = False
        self._found.pop(version, None)
        if not done:
            names = " and ".join(f"CKA_{attribute.name}" for attribute in switches)
            raise self.denied(
                f"the token does not let {names} of version {version} be changed; do it with the "
                "HSM's own tool",
                "version_not_switchable",
            )

    def remember(self, version: str, wrap: bytes, context: bytes) -> None:
        """Keep the first sound wrap of a version, as its canary in this process."""
        self._known_good.setdefault(version, (wrap, context))

    def canary(self, session: Session, version: str) -> None:
        """Wrap and open something now, under a version or else the current one.

        Raises:
            PKCS11Error: the token does not work, so that nothing is said about any wrap.
            DeniedError: that version is not fit to wrap, or is another key than it was.
        """
        key = self.find(session, version)
        if key is not None:
            self._open_known_good(version, key)
        if key is None or not self._mechanism.can_wrap(key):
            key = self.wrapping(session, self.current(session))
        self._round_trip(key)

    def _open_known_good(self, version: str, key: SecretKey) -> None:
        """See that a version still opens what it opened before; a label can move to another key."""
        if version not in self._known_good:
            return
        try:
            self._mechanism.open(key, *self._known_good[version])
        except INTEGRITY:
            self._round_trip(key)  # where this fails too, it is the token
            raise self.denied(
                f"version {version} does not open what it opened before: it is another key than "
                "it was",
                "key_changed",
            ) from None

    def _round_trip(self, key: SecretKey) -> None:
        probe, context, other = os.urandom(max(KEY_BYTES)), os.urandom(16), os.urandom(16)
        wrap = self._mechanism.wrap(key, probe, context)
        if self._mechanism.open(key, wrap, context) != probe:
            raise self.denied("a wrap does not open to what was wrapped", "token_unsound")
        try:
            self._mechanism.open(key, wrap, other)
        except p11.PKCS11Error:
            return
        raise self.denied("a wrap opens with any context: it binds nothing", "token_unsound")

    def _examine(self, version: str, key: SecretKey) -> None:
        """See that a key is fit to wrap, before its first wrap."""
        if key.key_length != KEK_BITS:
            raise self.denied(f"version {version} is not AES-256", "key_unfit")
        if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
            raise self.denied(
                f"version {version} may leave the token: CKA_SENSITIVE must be true and "
                "CKA_EXTRACTABLE false",
                "key_unfit",
            )
        self._open_known_good(version, key)
        self._round_trip(key)

    def _check(self, version: str, key: SecretKey) -> None:
        """See that a key is what its label says, as far as the token tells."""
        named = re.fullmatch(
            rf"{re.escape(self._name)}:v({_VERSION.pattern})".encode(), key[Attribute.ID] or b""
        )
        if named and named[1].decode() != version:
            raise self.denied(
                f"the key labelled {self._label(version)} has the CKA_ID of version "
                f"{named[1].decode()}; was it relabelled?",
                "key_version_relabelled",
            )
        try:
            check_value = bytes(key[Attribute.CHECK_VALUE]).hex()
        except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
            return  # the token does not tell it
        expected = self._check_values.setdefault(version, check_value)
        if check_value and check_value != expected:
            raise self.denied(
                f"version {version} has the check value {check_value}, and not {expected}: it is "
                "another key than it was",
                "key_check_value",
            )

    def _attend(self, session: Session) -> None:
        """Forget the handles of another session."""
        if session is not self._session:
            self._session = session
            self._found.clear()
            self._examined.clear()
            self._newest = ""

    def _search(
        self, session: Session, also: Mapping[Attribute, str] | None = None
    ) -> list[SecretKey]:
        # In a session that is gone, python-pkcs11 0.10 cannot even end a search without a traceback
        # on stderr: ask for something else first.
        session.generate_random(64)
        # To its end, always: a search that is left open blocks the session.
        return [
            each
            for each in list(session.get_objects({**_KIND, **(also or {})}))
            if isinstance(each, SecretKey)
        ]

    def _label(self, version: str) -> str:
        return f"{self._name}:v{version}"

    def _disabled(self, version: str) -> DeniedError:
        return self.denied(
            f"version {version} is disabled, or was made for another mechanism than "
            f"{self._mechanism.name}",
            "version_disabled",
        )


def _label_of(key: SecretKey) -> str:
    try:
        return str(key[Attribute.LABEL])
    except UnicodeDecodeError:
        return ""  # another application's
