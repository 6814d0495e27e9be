"""The KEKs of the strict reference KMS: their material, their states, and what they seal."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ACCOUNT = "111122223333"
"""The account that AWS's own documentation uses in examples."""

ON_DEMAND_ROTATIONS = 25
"""Most on-demand rotations in a key's lifetime (KMS developer guide, "Quotas")."""

_HEADER = bytes.fromhex("0102020078")  # every symmetric blob seen in life: base64 AQICAH
_LOCATOR = slice(5, 37)
_ENVELOPE_BYTES = 136  # with the tag of 16, a wrap of 32 bytes has AWS's 184
_NONCE = slice(37, 49)


class KmsServiceError(Exception):
    """An answer of the service that is an error.

    Args:
        code: the error's name, such as `DisabledException`.
        message: its text.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class KeyState(StrEnum):
    """The key states that tests need (KMS developer guide, "Key states")."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@dataclass(frozen=True, slots=True)
class Material:
    """One key material of a KEK; its id is what `KeyMaterialId` names.

    Attributes:
        id: 64 hexadecimal digits.
        made_at: when it became the current one, in seconds since 1970.
        on_demand: whether a person asked for it.
    """

    id: str
    made_at: float
    on_demand: bool
    cipher: AESGCM = field(repr=False)


@dataclass(slots=True)
class Kek:
    """A symmetric KMS key.

    Attributes:
        arn: its key ARN.
        multi_region: whether it is a multi-Region key.
        spec: its KeySpec; anything but SYMMETRIC_DEFAULT takes no part in wrapping.
        state: see `KeyState`.
        materials: all of its key material, the current one last.
        on_demand_rotations: how many were asked for.
        rotating_since: when the rotation that is in progress began, in seconds since 1970.
        polls_left: after so many more looks that rotation is done.
    """

    arn: str
    multi_region: bool = False
    spec: str = "SYMMETRIC_DEFAULT"
    state: KeyState = KeyState.ENABLED
    materials: list[Material] = field(default_factory=list)
    on_demand_rotations: int = 0
    rotating_since: float | None = None
    polls_left: int = 0

    def __post_init__(self) -> None:
        self.add_material(on_demand=False)

    @property
    def id(self) -> str:
        """The part of the ARN behind `key/`."""
        return self.arn.rpartition("/")[2]

    def add_material(self, *, on_demand: bool) -> None:
        """Give the key new material, which becomes the current one."""
        last = self.materials[-1].made_at if self.materials else 0.0
        secret = AESGCM.generate_key(256)
        self.materials.append(
            Material(
                id=hashlib.sha256(os.urandom(32)).hexdigest(),
                made_at=max(time.time(), last + 0.001),
                on_demand=on_demand,
                cipher=AESGCM(secret),
            )
        )

    def rotate_on_demand(self, polls: int) -> None:
        """Begin a rotation that is done after so many looks at it.

        Raises:
            KmsServiceError: one is in progress, or there were too many.
        """
        if self.rotating_since is not None:
            raise KmsServiceError("ConflictException", "an on-demand rotation is in progress")
        if self.on_demand_rotations >= ON_DEMAND_ROTATIONS:
            raise KmsServiceError("LimitExceededException", "no on-demand rotation is left")
        self.on_demand_rotations += 1
        self.rotating_since, self.polls_left = time.time(), polls
        if not polls:
            self._finish_rotation()

    def look(self) -> None:
        """Count a look at the key towards the end of its rotation."""
        if self.rotating_since is not None:
            self.polls_left -= 1
            if self.polls_left <= 0:
                self._finish_rotation()

    def _finish_rotation(self) -> None:
        self.rotating_since = None
        self.add_material(on_demand=True)

    def check_usable(self) -> None:
        """See that the key's state and kind let it wrap.

        Raises:
            KmsServiceError: they do not.
        """
        if self.state is KeyState.DISABLED:
            raise KmsServiceError("DisabledException", f"{self.arn} is disabled.")
        if self.state is KeyState.PENDING_DELETION:
            raise KmsServiceError("KMSInvalidStateException", f"{self.arn} is pending deletion.")
        if self.spec != "SYMMETRIC_DEFAULT":
            raise KmsServiceError(
                "InvalidKeyUsageException", f"{self.arn} key usage is SIGN_VERIFY"
            )

    def locator(self, material: Material) -> bytes:
        """Return what names key and material inside a wrap, and tells a reader neither."""
        return hashlib.sha256(f"{self.arn} {material.id}".encode()).digest()

    def seal(self, plaintext: bytes, context: Mapping[str, str], material: Material) -> bytes:
        """Wrap bytes under one of the key's materials, bound to the context."""
        rest = os.urandom(_ENVELOPE_BYTES - _LOCATOR.stop)
        envelope = _HEADER + self.locator(material) + rest
        bound = envelope + canonical(context)
        return envelope + material.cipher.encrypt(envelope[_NONCE], plaintext, bound)

    def open(self, wrap: bytes, context: Mapping[str, str], material: Material) -> bytes:
        """Open a wrap of one of the key's materials.

        Raises:
            KmsServiceError: it was altered, or made with another context; which, is not told.
        """
        envelope, sealed = wrap[:_ENVELOPE_BYTES], wrap[_ENVELOPE_BYTES:]
        bound = envelope + canonical(context)
        try:
            return material.cipher.decrypt(envelope[_NONCE], sealed, bound)
        except (InvalidTag, ValueError):
            raise KmsServiceError("InvalidCiphertextException") from None


def canonical(context: Mapping[str, str]) -> bytes:
    """Encode an encryption context: exact, whatever the order of its pairs."""
    return json.dumps(dict(context), sort_keys=True).encode()


class Keks:
    """All KEKs of a service, by ARN, id and alias.

    Args:
        region: the Region of its keys.
    """

    def __init__(self, region: str) -> None:
        self.region = region
        self._keks: dict[str, Kek] = {}
        self._aliases: dict[str, str] = {}
        self._locators: dict[bytes, tuple[Kek, Material]] = {}

    def create(self, *, multi_region: bool = False, spec: str = "SYMMETRIC_DEFAULT") -> Kek:
        """Create a key in its first material."""
        name = f"mrk-{uuid.uuid4().hex}" if multi_region else str(uuid.uuid4())
        kek = Kek(f"arn:aws:kms:{self.region}:{ACCOUNT}:key/{name}", multi_region, spec)
        self._keks[kek.arn] = self._keks[kek.id] = kek
        return kek

    def point(self, alias: str, key_id: str) -> None:
        """Let an alias, such as `alias/blobs`, stand for a key."""
        self._aliases[alias] = self._aliases[f"arn:aws:kms:{self.region}:{ACCOUNT}:{alias}"] = (
            self.resolve(key_id).arn
        )

    def resolve(self, key_id: str) -> Kek:
        """Find a key by its ARN, its id, or an alias's name or ARN.

        Raises:
            KmsServiceError: there is none.
        """
        kek = self._keks.get(self._aliases.get(key_id, key_id))
        if kek is None:
            raise KmsServiceError("NotFoundException", f"Key {key_id!r} does not exist")
        return kek

    def find(self, wrap: bytes) -> tuple[Kek, Material]:
        """Find the key and the material that a wrap was made under.

        Raises:
            KmsServiceError: it is none of this service.
        """
        locator = wrap[_LOCATOR] if wrap.startswith(_HEADER) else b""
        if locator not in self._locators:
            self._locators = {
                kek.locator(material): (kek, material)
                for kek in self._keks.values()
                for material in kek.materials
            }
        if locator not in self._locators:
            raise KmsServiceError("InvalidCiphertextException")
        return self._locators[locator]
