# ruff: noqa: S101, D102 - a conformance suite asserts; a test's name is its sentence
"""What AWS KMS does, as tests over a boto3 client: of the service, an emulator or our reference.

The service's own word: https://docs.aws.amazon.com/kms/latest/APIReference/.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import SkipTest

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time

PLAINTEXT = bytes(range(32))
CONTEXT = {"blob_id": "tenants/7/Rechnung März.pdf", "b": "2"}

_ROTATED_WITHIN_S = 5.0


class AwsKmsConformance:
    """What a KMS must do for its wraps to be trusted.

    A test class inherits from it and has a fixture `client`; it creates its own keys. Where an
    emulator differs, the gap is declared with its reason. A declared gap that is none any more
    fails, so the list stays true.
    """

    known_gaps: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name, reason in cls.known_gaps.items():
            setattr(cls, name, _gap(getattr(cls, name), reason))

    def test_a_wrap_opens_with_its_context_in_any_order(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        turned = dict(reversed(CONTEXT.items()))
        opened = client.decrypt(KeyId=key, CiphertextBlob=wrap, EncryptionContext=turned)
        assert opened["Plaintext"] == PLAINTEXT
        assert opened["KeyId"] == key

    def test_another_context_is_refused(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        for context in ({}, {**CONTEXT, "c": "3"}, {**CONTEXT, "b": "3"}, {"B": "2"}):
            with _refuses("InvalidCiphertextException"):
                client.decrypt(KeyId=key, CiphertextBlob=wrap, EncryptionContext=context)
            with _refuses("InvalidCiphertextException"):
                _move(client, wrap, key, key, SourceEncryptionContext=context)

    def test_an_altered_wrap_is_refused_at_every_byte(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        for place in range(0, len(wrap), 7):
            altered = bytearray(wrap)
            altered[place] ^= 1
            with _refuses("InvalidCiphertextException"):
                client.decrypt(KeyId=key, CiphertextBlob=bytes(altered), EncryptionContext=CONTEXT)

    def test_what_is_no_wrap_is_refused(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        for foreign in (b"\0" * 184, wrap[:-1], wrap + b"\0", wrap[:1]):
            with _refuses("InvalidCiphertextException"):
                client.decrypt(KeyId=key, CiphertextBlob=foreign, EncryptionContext=CONTEXT)

    def test_a_wrap_of_another_key_is_refused_by_name(self, client: "KMSClient") -> None:
        key, other = _key(client), _key(client)
        with _refuses("IncorrectKeyException"):
            client.decrypt(
                KeyId=other, CiphertextBlob=_wrap(client, key), EncryptionContext=CONTEXT
            )

    def test_a_wrong_source_key_is_refused_by_name(self, client: "KMSClient") -> None:
        key, other = _key(client), _key(client)
        with _refuses("IncorrectKeyException"):
            _move(client, _wrap(client, key), other, other)

    def test_a_moved_wrap_opens_under_its_new_key_alone(self, client: "KMSClient") -> None:
        old, new = _key(client), _key(client)
        moved = _move(client, _wrap(client, old), old, new)
        assert (moved["SourceKeyId"], moved["KeyId"]) == (old, new)
        wrap = moved["CiphertextBlob"]
        opened = client.decrypt(KeyId=new, CiphertextBlob=wrap, EncryptionContext=CONTEXT)
        assert opened["Plaintext"] == PLAINTEXT

    def test_a_disabled_key_neither_wraps_nor_opens(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        client.disable_key(KeyId=_id(key))
        _all_refuse(client, key, wrap, "DisabledException")
        client.enable_key(KeyId=_id(key))
        client.decrypt(KeyId=key, CiphertextBlob=wrap, EncryptionContext=CONTEXT)

    def test_a_key_that_waits_for_deletion_neither_wraps_nor_opens(
        self, client: "KMSClient"
    ) -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        client.schedule_key_deletion(KeyId=_id(key), PendingWindowInDays=7)
        assert client.describe_key(KeyId=key)["KeyMetadata"].get("KeyState") == "PendingDeletion"
        _all_refuse(client, key, wrap, "KMSInvalidStateException")
        client.cancel_key_deletion(KeyId=_id(key))
        _all_refuse(client, key, wrap, "DisabledException")

    def test_a_key_that_is_not_there_is_not_found(self, client: "KMSClient") -> None:
        key = _key(client)
        missing = key[:-36] + "00000000-0000-0000-0000-000000000000"
        for act in (
            lambda: client.describe_key(KeyId=missing),
            lambda: client.encrypt(KeyId=missing, Plaintext=PLAINTEXT),
        ):
            with _refuses("NotFoundException"):
                act()

    def test_a_dry_run_does_nothing_and_says_what_would_be(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = _wrap(client, key)
        for act in (
            lambda: client.encrypt(KeyId=key, Plaintext=PLAINTEXT, DryRun=True),
            lambda: client.decrypt(
                KeyId=key, CiphertextBlob=wrap, EncryptionContext=CONTEXT, DryRun=True
            ),
            lambda: _move(client, wrap, key, key, DryRun=True),
            lambda: client.generate_data_key(KeyId=key, KeySpec="AES_256", DryRun=True),
        ):
            with _refuses("DryRunOperationException"):
                act()
        with _refuses("InvalidCiphertextException"):
            client.decrypt(KeyId=key, CiphertextBlob=wrap, DryRun=True)

    def test_a_dry_run_needs_no_wrap(self, client: "KMSClient") -> None:
        key = _key(client)
        # The installed stubs know neither the parameter nor that the wrap may be left out.
        untyped: Any = client
        dry: dict[str, Any] = {"DryRun": True, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
        with _refuses("DryRunOperationException"):
            untyped.decrypt(KeyId=key, **dry)
        with _refuses("DryRunOperationException"):
            untyped.re_encrypt(SourceKeyId=key, DestinationKeyId=key, **dry)

    def test_a_plaintext_has_4096_bytes_at_most(self, client: "KMSClient") -> None:
        key = _key(client)
        wrap = client.encrypt(KeyId=key, Plaintext=bytes(4096))["CiphertextBlob"]
        assert client.decrypt(KeyId=key, CiphertextBlob=wrap)["Plaintext"] == bytes(4096)
        with _refuses("ValidationException"):
            client.encrypt(KeyId=key, Plaintext=bytes(4097))

    def test_a_wrap_has_6144_bytes_at_most(self, client: "KMSClient") -> None:
        with _refuses("ValidationException"):
            client.decrypt(KeyId=_key(client), CiphertextBlob=bytes(6145))

    def test_encrypt_does_not_name_its_key_material(self, client: "KMSClient") -> None:
        answer = client.encrypt(KeyId=_key(client), Plaintext=PLAINTEXT)
        assert "KeyMaterialId" not in answer

    def test_decrypt_rewrap_and_new_data_keys_name_the_key_material(
        self, client: "KMSClient"
    ) -> None:
        key = _key(client)
        current = _current(client, key)
        assert len(bytes.fromhex(current)) == 32  # noqa: PLR2004
        wrap = _wrap(client, key)
        opened = client.decrypt(KeyId=key, CiphertextBlob=wrap, EncryptionContext=CONTEXT)
        moved = _move(client, wrap, key, key)
        made = client.generate_data_key(KeyId=key, KeySpec="AES_256")
        hidden = client.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
        assert {
            opened["KeyMaterialId"],
            moved["SourceKeyMaterialId"],
            moved["DestinationKeyMaterialId"],
            made["KeyMaterialId"],
            hidden["KeyMaterialId"],
        } == {current}

    def test_a_data_key_opens_from_its_wrap(self, client: "KMSClient") -> None:
        key = _key(client)
        for spec, size in (("AES_256", 32), ("AES_128", 16)):
            made = client.generate_data_key(
                KeyId=key,
                KeySpec=spec,  # type: ignore[arg-type] # one of two literals
                EncryptionContext=CONTEXT,
            )
            opened = client.decrypt(
                KeyId=key, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT
            )
            assert opened["Plaintext"] == made["Plaintext"]
            assert len(made["Plaintext"]) == size

    def test_a_rotation_moves_new_wraps_to_new_material_and_old_ones_still_open(
        self, client: "KMSClient"
    ) -> None:
        key = _key(client)
        old, wrap = _current(client, key), _wrap(client, key)
        new = _rotate(client, key)
        assert new != old
        opened = client.decrypt(KeyId=key, CiphertextBlob=wrap, EncryptionContext=CONTEXT)
        assert (opened["Plaintext"], opened["KeyMaterialId"]) == (PLAINTEXT, old)
        moved = _move(client, wrap, key, key)
        assert moved["SourceKeyMaterialId"] == old
        assert moved["DestinationKeyMaterialId"] == new

    def test_every_material_is_listed_only_where_that_is_asked_for(
        self, client: "KMSClient"
    ) -> None:
        key = _key(client)
        materials = [_current(client, key), _rotate(client, key), _rotate(client, key)]
        whole = client.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")
        states = {each["KeyMaterialId"]: each["KeyMaterialState"] for each in whole["Rotations"]}
        assert states == dict(zip(materials, ["NON_CURRENT"] * 2 + ["CURRENT"], strict=True))
        rotations = client.list_key_rotations(KeyId=key)["Rotations"]
        assert {each["KeyMaterialId"] for each in rotations} == set(materials[1:])
        assert all("RotationDate" in each for each in rotations)

    def test_the_list_of_rotations_comes_in_pages(self, client: "KMSClient") -> None:
        key = _key(client)
        for _ in range(2):
            _rotate(client, key)
        pages = client.get_paginator("list_key_rotations").paginate(
            KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL", PaginationConfig={"PageSize": 1}
        )
        found = [each["KeyMaterialId"] for page in pages for each in page["Rotations"]]
        assert len(set(found)) == len(found) == 3  # noqa: PLR2004

    def test_an_alias_stands_for_the_key_it_points_at(self, client: "KMSClient") -> None:
        first, second = _key(client), _key(client)
        alias = f"alias/conformance-{first[-12:]}"
        client.create_alias(AliasName=alias, TargetKeyId=first)
        assert client.encrypt(KeyId=alias, Plaintext=PLAINTEXT)["KeyId"] == first
        client.update_alias(AliasName=alias, TargetKeyId=second)
        assert client.encrypt(KeyId=alias, Plaintext=PLAINTEXT)["KeyId"] == second

    def test_every_answer_has_a_request_id_of_its_own(self, client: "KMSClient") -> None:
        key = _key(client)
        ids = {client.describe_key(KeyId=key)["ResponseMetadata"]["RequestId"] for _ in range(3)}
        assert len(ids) == 3  # noqa: PLR2004


def _key(client: "KMSClient") -> str:
    return client.create_key()["KeyMetadata"]["Arn"]


def _id(key: str) -> str:
    # Management by id, as every emulator knows it: an ARN crashes moto.
    return key.rpartition("/")[2]


def _wrap(client: "KMSClient", key: str) -> bytes:
    answer = client.encrypt(KeyId=key, Plaintext=PLAINTEXT, EncryptionContext=CONTEXT)
    return answer["CiphertextBlob"]


def _move(
    client: "KMSClient", wrap: bytes, source: str, destination: str, **more: object
) -> Mapping[str, Any]:
    request: dict[str, Any] = {
        "CiphertextBlob": wrap,
        "SourceKeyId": source,
        "DestinationKeyId": destination,
        "SourceEncryptionContext": CONTEXT,
        "DestinationEncryptionContext": CONTEXT,
        **more,
    }
    return client.re_encrypt(**request)


def _current(client: "KMSClient", key: str) -> str:
    return client.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]


def _rotate(client: "KMSClient", key: str) -> str:
    """Rotate a key on demand and wait until it has new material, whose id is returned."""
    before = _current(client, key)
    client.rotate_key_on_demand(KeyId=key)
    deadline = time.monotonic() + _ROTATED_WITHIN_S
    while (current := _current(client, key)) == before:
        assert time.monotonic() < deadline, "the rotation does not end"
        time.sleep(0.01)
    return current


def _all_refuse(client: "KMSClient", key: str, wrap: bytes, code: str) -> None:
    for act in (
        lambda: client.encrypt(KeyId=key, Plaintext=PLAINTEXT),
        lambda: client.decrypt(KeyId=key, CiphertextBlob=wrap, EncryptionContext=CONTEXT),
        lambda: _move(client, wrap, key, key),
        lambda: client.generate_data_key(KeyId=key, KeySpec="AES_256"),
    ):
        with _refuses(code):
            act()


class _refuses:  # noqa: N801 - reads as the sentence it stands in
    """Sees that a call is refused with exactly one error code."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> bool:
        assert error is not None, f"not refused; expected {self._code}"
        if not isinstance(error, ClientError):
            return False
        assert error.response["Error"]["Code"] == self._code
        return True


def _gap(test: Callable[..., None], reason: str) -> Callable[..., None]:
    def gap(self: AwsKmsConformance, client: "KMSClient") -> None:
        try:
            test(self, client)
        except (AssertionError, ClientError, KeyError) as error:
            raise SkipTest(reason) from error
        raise AssertionError(f"no gap any more; take it off the list: {reason}")

    return gap
