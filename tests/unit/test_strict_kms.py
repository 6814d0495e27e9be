import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from unittest import SkipTest

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from keywrap.testing.aws_conformance import CONTEXT, PLAINTEXT, AwsKmsConformance
from keywrap.testing.aws_kms import Corruption, LostReplyError, StrictKms
from keywrap.testing.aws_kms_hook import attach
from keywrap.testing.aws_kms_keys import KeyState


def client_of(kms: StrictKms) -> Any:
    client = boto3.client(
        "kms",
        region_name="eu-west-1",
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="never-sent",
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
    )
    attach(client, kms)
    return client


@pytest.fixture
def kms() -> StrictKms:
    return StrictKms()


@pytest.fixture
def client(kms: StrictKms) -> Any:
    return client_of(kms)


@pytest.fixture
def key(kms: StrictKms) -> str:
    return kms.create_key()


def wrap_of(client: Any, key: str) -> bytes:
    answer = client.encrypt(KeyId=key, Plaintext=PLAINTEXT, EncryptionContext=CONTEXT)
    wrap = answer["CiphertextBlob"]
    assert isinstance(wrap, bytes)
    return wrap


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as refused:
        act()
    return str(refused.value.response["Error"]["Code"])


class TestStrictKms(AwsKmsConformance):
    @pytest.fixture
    def client(self) -> Any:
        return client_of(StrictKms())


def test_a_wrap_looks_like_one_of_the_service(client: Any, key: str) -> None:
    wrap = wrap_of(client, key)
    assert len(wrap) == 184
    assert wrap.startswith(bytes.fromhex("0102020078"))
    assert wrap != wrap_of(client, key)
    assert PLAINTEXT not in wrap


def test_a_rotation_ends_after_as_many_looks_as_asked_and_only_one_runs(
    kms: StrictKms, client: Any, key: str
) -> None:
    kms.rotation_polls = 2
    before = client.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    client.rotate_key_on_demand(KeyId=key)
    assert code_of(lambda: client.rotate_key_on_demand(KeyId=key)) == "ConflictException"
    assert "OnDemandRotationStartDate" in client.get_key_rotation_status(KeyId=key)
    assert client.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] != before
    assert "OnDemandRotationStartDate" not in client.get_key_rotation_status(KeyId=key)


def test_the_26th_rotation_on_demand_is_refused(client: Any, key: str) -> None:
    for _ in range(25):
        client.rotate_key_on_demand(KeyId=key)
    assert code_of(lambda: client.rotate_key_on_demand(KeyId=key)) == "LimitExceededException"


@pytest.mark.parametrize(
    ("action", "held_up"), [("ReEncryptFrom", "away from"), ("ReEncryptTo", "to")]
)
def test_a_rewrap_needs_leave_on_both_keys(
    kms: StrictKms, client: Any, key: str, action: str, held_up: str
) -> None:
    other = kms.create_key()
    moves = {"away from": (key, other), "to": (other, key)}

    def move(way: str) -> object:
        source, destination = moves[way]
        return client.re_encrypt(
            CiphertextBlob=wrap_of(client, source),
            SourceKeyId=source,
            DestinationKeyId=destination,
            SourceEncryptionContext=CONTEXT,
            DestinationEncryptionContext=CONTEXT,
        )

    kms.deny(action, key)
    assert code_of(lambda: move(held_up)) == "AccessDeniedException"
    for way in moves.keys() - {held_up}:
        move(way)
    kms.allow(action, key)
    move(held_up)


def test_a_denied_operation_names_what_is_missing(kms: StrictKms, client: Any, key: str) -> None:
    kms.deny("Decrypt")
    wrap = wrap_of(client, key)
    with pytest.raises(ClientError, match=rf"kms:Decrypt on resource: {key}"):
        client.decrypt(CiphertextBlob=wrap, EncryptionContext=CONTEXT)


def test_without_a_key_id_the_wrap_itself_chooses_the_key_and_leave_is_still_needed(
    kms: StrictKms, client: Any, key: str
) -> None:
    wrap = wrap_of(client, key)
    opened = client.decrypt(CiphertextBlob=wrap, EncryptionContext=CONTEXT)
    assert opened["KeyId"] == key
    kms.set_state(key, KeyState.DISABLED)
    act = lambda: client.decrypt(CiphertextBlob=wrap, EncryptionContext=CONTEXT)  # noqa: E731
    assert code_of(act) == "DisabledException"


def test_faults_come_as_often_as_asked_to_the_operation_that_is_meant(
    kms: StrictKms, client: Any, key: str
) -> None:
    kms.faults.fail_next("KMSInternalException", times=2, operation="Encrypt")
    client.describe_key(KeyId=key)
    for _ in range(2):
        assert code_of(lambda: wrap_of(client, key)) == "KMSInternalException"
    wrap_of(client, key)


def test_a_lost_reply_is_of_an_operation_that_was_done(
    kms: StrictKms, client: Any, key: str
) -> None:
    kms.faults.lose_next_reply(operation="RotateKeyOnDemand")
    before = client.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    with pytest.raises(ReadTimeoutError):
        client.rotate_key_on_demand(KeyId=key)
    assert client.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] != before
    kms.faults.lose_next_reply()
    with pytest.raises(LostReplyError):
        kms.answer("TrentService.DescribeKey", json.dumps({"KeyId": key}).encode())


def test_each_corruption_changes_what_it_says_and_once_only(
    kms: StrictKms, client: Any, key: str
) -> None:
    old = kms.key(key).materials[-1].id
    new = kms.rotate(key)
    made = lambda: client.generate_data_key(KeyId=key, KeySpec="AES_256")  # noqa: E731
    opened = lambda blob: client.decrypt(KeyId=key, CiphertextBlob=blob)  # noqa: E731
    for corruption in (Corruption.ANOTHER_PLAINTEXT, Corruption.ANOTHER_DATA_KEY):
        kms.faults.corrupt_next(corruption, operation="GenerateDataKey")
        answer = made()
        assert opened(answer["CiphertextBlob"])["Plaintext"] != answer["Plaintext"]
    kms.faults.corrupt_next(Corruption.ALTERED_CIPHERTEXT)
    altered = made()["CiphertextBlob"]
    assert code_of(lambda: opened(altered)) == "InvalidCiphertextException"
    kms.faults.corrupt_next(Corruption.WRONG_MATERIAL)
    assert made()["KeyMaterialId"] not in {old, new}
    kms.faults.corrupt_next(Corruption.WRONG_KEY)
    assert made()["KeyId"] != key
    kms.faults.corrupt_next(Corruption.STALE_MATERIAL)
    stale = made()
    assert stale["KeyMaterialId"] == opened(stale["CiphertextBlob"])["KeyMaterialId"] == old
    sound = made()
    assert sound["KeyMaterialId"] == new
    assert opened(sound["CiphertextBlob"])["Plaintext"] == sound["Plaintext"]


def test_a_corruption_that_cannot_concern_an_operation_is_a_mistake(kms: StrictKms) -> None:
    with pytest.raises(ValueError, match="Encrypt"):
        kms.faults.corrupt_next(Corruption.WRONG_MATERIAL, operation="Encrypt")


def test_a_quota_throttles_what_is_too_fast_and_management_not_at_all(
    kms: StrictKms, client: Any, key: str
) -> None:
    kms.faults.limit_rate(20)
    codes = []
    for _ in range(12):
        try:
            wrap_of(client, key)
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
        client.describe_key(KeyId=key)
    assert set(codes) == {"ThrottlingException"}
    time.sleep(0.1)
    wrap_of(client, key)


def test_latency_holds_up_the_operation_that_is_meant_and_no_other_thread(
    kms: StrictKms, client: Any, key: str
) -> None:
    wrap_of(client, key)
    kms.faults.delay(0.2, operation="Encrypt")
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: wrap_of(client, key), range(4)))
    assert 0.2 <= time.monotonic() - began < 0.7
    client.describe_key(KeyId=key)


def test_the_trail_says_what_cloudtrail_would_and_shows_no_key(
    kms: StrictKms, client: Any, key: str
) -> None:
    other = kms.create_key()
    wrap = wrap_of(client, key)
    answer = client.re_encrypt(
        CiphertextBlob=wrap,
        SourceKeyId=key,
        DestinationKeyId=other,
        SourceEncryptionContext=CONTEXT,
        DestinationEncryptionContext=CONTEXT,
    )
    code_of(lambda: client.decrypt(KeyId=other, CiphertextBlob=wrap, EncryptionContext=CONTEXT))
    encrypted, moved, refused = kms.trail
    assert (encrypted.name, encrypted.keys, encrypted.error) == ("Encrypt", (key,), "")
    assert moved.request_id == answer["ResponseMetadata"]["RequestId"]
    assert moved.keys == (key, other)
    assert moved.contexts == (CONTEXT, CONTEXT)
    assert moved.materials == (answer["SourceKeyMaterialId"], answer["DestinationKeyMaterialId"])
    assert (refused.name, refused.error) == ("Decrypt", "IncorrectKeyException")
    shown = repr(list(kms.trail)) + repr(kms.key(key))
    assert PLAINTEXT.hex() not in shown
    assert wrap.hex() not in shown


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"KeyId":1,"Plaintext":1}'])
def test_what_is_no_request_is_an_error_of_the_service(kms: StrictKms, body: bytes) -> None:
    status, headers, answer = kms.answer("TrentService.Encrypt", body)
    assert status == 400
    assert headers["x-amzn-requestid"]
    assert json.loads(answer)["__type"] == "SerializationException"


def test_an_operation_that_is_not_there_is_an_error_of_the_service(kms: StrictKms) -> None:
    status, _, answer = kms.answer("TrentService.DeleteEverything", b"{}")
    assert (status, json.loads(answer)["__type"]) == (400, "UnknownOperationException")


def test_many_threads_get_sound_answers(kms: StrictKms, client: Any, key: str) -> None:
    stop = threading.Event()

    def rotating() -> None:
        while not stop.wait(0.01):
            kms.rotate(key)

    rotator = threading.Thread(target=rotating)
    rotator.start()

    def round_trip(number: int) -> bool:
        plaintext = number.to_bytes(32, "big")
        blob = client.encrypt(KeyId=key, Plaintext=plaintext)["CiphertextBlob"]
        opened = client.decrypt(KeyId=key, CiphertextBlob=blob)["Plaintext"]
        return bool(opened == plaintext)

    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(round_trip, range(300)))
    finally:
        stop.set()
        rotator.join()


def test_a_declared_gap_that_is_none_fails_and_a_true_one_is_skipped_with_its_reason() -> None:
    class Gapped(AwsKmsConformance):
        known_gaps: ClassVar = {
            "test_encrypt_does_not_name_its_key_material": "mistaken",
            "test_an_altered_wrap_is_refused_at_every_byte": "a reason",
        }

    kms = StrictKms()
    sound = client_of(kms)
    with pytest.raises(AssertionError, match="no gap any more"):
        Gapped().test_encrypt_does_not_name_its_key_material(sound)
    kms.faults.fail_next("KMSInternalException")
    with pytest.raises(SkipTest, match="a reason"):
        Gapped().test_an_altered_wrap_is_refused_at_every_byte(sound)
