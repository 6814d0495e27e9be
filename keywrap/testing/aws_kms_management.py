"""What the strict reference KMS can be asked about its keys themselves."""

import time
from collections.abc import Callable
from typing import Any

from keywrap.testing.aws_kms_keys import ACCOUNT, Kek, Keks, KeyState, KmsServiceError, Material

Document = dict[str, Any]
"""A JSON object."""

_PAGE = 100
_DAY_S = 86_400
_WINDOW_DAYS = 30


class KeyManagement:
    """Creates, describes, rotates, disables and schedules keys for deletion.

    Args:
        keks: the keys.

    Attributes:
        rotation_polls: how many looks at a key an on-demand rotation takes.
    """

    def __init__(self, keks: Keks) -> None:
        self.rotation_polls = 0
        self._keks = keks
        self._operations: dict[str, Callable[[Document], Document]] = {
            "CreateKey": self._create_key,
            "DescribeKey": self._describe_key,
            "ListKeyRotations": self._list_key_rotations,
            "RotateKeyOnDemand": self._rotate_key_on_demand,
            "GetKeyRotationStatus": self._get_key_rotation_status,
            "EnableKey": self._enable_key,
            "DisableKey": self._disable_key,
            "ScheduleKeyDeletion": self._schedule_key_deletion,
            "CancelKeyDeletion": self._cancel_key_deletion,
            "CreateAlias": self._point_alias,
            "UpdateAlias": self._point_alias,
        }

    def operation(self, name: str) -> Callable[[Document], Document]:
        """Return what answers an operation.

        Raises:
            KmsServiceError: there is no such operation here.
        """
        if name not in self._operations:
            raise KmsServiceError("UnknownOperationException", f"no operation {name}")
        return self._operations[name]

    def _kek(self, parameters: Document) -> Kek:
        return self._keks.resolve(parameters.get("KeyId", ""))

    def _create_key(self, parameters: Document) -> Document:
        kek = self._keks.create(
            multi_region=bool(parameters.get("MultiRegion")),
            spec=parameters.get("KeySpec", "SYMMETRIC_DEFAULT"),
        )
        return {"KeyMetadata": _metadata(kek)}

    def _describe_key(self, parameters: Document) -> Document:
        kek = self._kek(parameters)
        kek.look()
        return {"KeyMetadata": _metadata(kek)}

    def _list_key_rotations(self, parameters: Document) -> Document:
        kek = self._kek(parameters)
        _refuse_deletion(kek)
        materials = list(enumerate(kek.materials))
        if parameters.get("IncludeKeyMaterial", "ROTATIONS_ONLY") == "ROTATIONS_ONLY":
            materials = materials[1:]  # the first material came by no rotation
        materials.reverse()  # no order is promised, so none is kept
        try:
            start = int(parameters.get("Marker", "0"))
        except ValueError:
            raise KmsServiceError("InvalidMarkerException") from None
        end = start + int(parameters.get("Limit", _PAGE))
        page = [_rotation(kek, *material) for material in materials[start:end]]
        more = {"NextMarker": str(end)} if end < len(materials) else {}
        return {"Rotations": page, "Truncated": bool(more), **more}

    def _rotate_key_on_demand(self, parameters: Document) -> Document:
        kek = self._kek(parameters)
        if kek.spec != "SYMMETRIC_DEFAULT":
            raise KmsServiceError("UnsupportedOperationException")
        kek.check_usable()
        kek.rotate_on_demand(self.rotation_polls)
        return {"KeyId": kek.arn}

    def _get_key_rotation_status(self, parameters: Document) -> Document:
        kek = self._kek(parameters)
        _refuse_deletion(kek)
        kek.look()
        since = kek.rotating_since
        more = {} if since is None else {"OnDemandRotationStartDate": since}
        return {"KeyId": kek.arn, "KeyRotationEnabled": False, **more}

    def _enable_key(self, parameters: Document) -> Document:
        return self._switch(parameters, KeyState.ENABLED)

    def _disable_key(self, parameters: Document) -> Document:
        return self._switch(parameters, KeyState.DISABLED)

    def _switch(self, parameters: Document, state: KeyState) -> Document:
        kek = self._kek(parameters)
        _refuse_deletion(kek)
        kek.state = state
        return {}

    def _schedule_key_deletion(self, parameters: Document) -> Document:
        kek = self._kek(parameters)
        _refuse_deletion(kek)
        kek.state = KeyState.PENDING_DELETION
        days = int(parameters.get("PendingWindowInDays", _WINDOW_DAYS))
        return {
            "KeyId": kek.arn,
            "KeyState": kek.state,
            "PendingWindowInDays": days,
            "DeletionDate": time.time() + days * _DAY_S,
        }

    def _cancel_key_deletion(self, parameters: Document) -> Document:
        kek = self._kek(parameters)
        if kek.state is not KeyState.PENDING_DELETION:
            raise KmsServiceError("KMSInvalidStateException", f"{kek.arn} is not pending deletion.")
        kek.state = KeyState.DISABLED
        return {"KeyId": kek.arn}

    def _point_alias(self, parameters: Document) -> Document:
        self._keks.point(parameters["AliasName"], parameters["TargetKeyId"])
        return {}


def _refuse_deletion(kek: Kek) -> None:
    if kek.state is KeyState.PENDING_DELETION:
        raise KmsServiceError("KMSInvalidStateException", f"{kek.arn} is pending deletion.")


def _metadata(kek: Kek) -> Document:
    symmetric = kek.spec == "SYMMETRIC_DEFAULT"
    material = {"CurrentKeyMaterialId": kek.materials[-1].id} if symmetric else {}
    return {
        "AWSAccountId": ACCOUNT,
        "KeyId": kek.id,
        "Arn": kek.arn,
        "CreationDate": kek.materials[0].made_at,
        "Enabled": kek.state is KeyState.ENABLED,
        "KeyUsage": "ENCRYPT_DECRYPT" if symmetric else "SIGN_VERIFY",
        "KeyState": kek.state,
        "KeyManager": "CUSTOMER",
        "Origin": "AWS_KMS",
        "KeySpec": kek.spec,
        "CustomerMasterKeySpec": kek.spec,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"] if symmetric else [],
        "MultiRegion": kek.multi_region,
        **material,
    }


def _rotation(kek: Kek, place: int, material: Material) -> Document:
    rotated = {
        "RotationDate": material.made_at,
        "RotationType": "ON_DEMAND" if material.on_demand else "AUTOMATIC",
    }
    return {
        "KeyId": kek.arn,
        "KeyMaterialId": material.id,
        "KeyMaterialState": "CURRENT" if material is kek.materials[-1] else "NON_CURRENT",
        **(rotated if place else {}),
    }
