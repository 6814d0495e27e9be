import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scheduler.kmslogs import LogError, Logged, LoggedUse, read

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER = ARN.replace("1234abcd", "9876fedc")
AT = datetime(2026, 11, 27, 11, 12, 55, 681178, UTC)


def transit(path: str = "transit/decrypt/k", **more: Any) -> dict[str, Any]:
    """An entry as OpenBao 2.7.2 wrote it, shortened."""
    entry: dict[str, Any] = {
        "time": "2026-11-27T11:12:55.681178868Z",
        "type": "response",
        "auth": {"client_token": "hmac-sha256:c3", "display_name": "token", "policies": ["root"]},
        "request": {
            "id": "20339fed-11da-7cbd-fb65-97761a3b4895",
            "operation": "update",
            "mount_point": "transit/",
            "mount_type": "transit",
            "path": path,
            "data": {"batch_input": [{"ciphertext": "hmac-sha256:6a"}] * 2},
            "remote_address": "127.0.0.1",
        },
        "response": {"data": {"batch_results": [{"plaintext": "hmac-sha256:5e"}] * 2}},
    }
    return entry | more


def cloudtrail(name: str = "Decrypt", **more: Any) -> dict[str, Any]:
    """A record in the form of AWS's own examples of Decrypt and ReEncrypt."""
    record: dict[str, Any] = {
        "eventVersion": "1.08",
        "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/ann"},
        "eventTime": "2026-11-27T11:12:55Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": name,
        "sourceIPAddress": "192.0.2.0",
        "requestParameters": {
            "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "encryptionContext": {"blob_id": "tenants/7/a"},
        },
        "responseElements": None,
        "requestID": "12345126-30d5-4b28-98b9-9153da559963",
        "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": ARN}],
    }
    return record | more


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    file = folder / "log"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def uses(file: Path) -> list[LoggedUse]:
    return [entry.use for entry in read(file) if entry.use]


def test_a_batch_of_transit_counts_what_came_out_of_it(tmp_path: Path) -> None:
    one_bad = {"data": {"batch_results": [{"plaintext": "h"}, {"error": "h", "plaintext": "h"}]}}
    found = uses(written(tmp_path, transit(), transit(response=one_bad)))
    assert found[0] == LoggedUse(
        AT,
        "unwrap",
        "hcvault://transit/k",
        2,
        request_id="20339fed-11da-7cbd-fb65-97761a3b4895",
        who="token at 127.0.0.1",
    )
    assert [use.count for use in found] == [2, 1]


@pytest.mark.parametrize(
    ("path", "operation", "key"),
    [
        ("transit/decrypt/k", "unwrap", "hcvault://transit/k"),
        ("transit/encrypt/k", "wrap", "hcvault://transit/k"),
        ("a/b/rewrap/k.1", "rewrap", "hcvault://a/b/k.1"),
        ("transit/datakey/plaintext/k", "wrap", "hcvault://transit/k"),
    ],
)
def test_each_operation_of_transit_is_known_by_its_path(
    tmp_path: Path, path: str, operation: str, key: str
) -> None:
    (use,) = uses(written(tmp_path, transit(path)))
    assert (use.operation, use.key) == (operation, key)


def test_requests_and_other_paths_are_no_uses_and_show_how_far_the_log_reaches(
    tmp_path: Path,
) -> None:
    file = written(
        tmp_path, transit(type="request"), transit("transit/keys/k"), transit("sys/health")
    )
    assert list(read(file)) == [Logged(AT, "hcvault:", None)] * 3


def test_a_single_request_of_transit_counts_unless_it_was_refused(tmp_path: Path) -> None:
    done = transit(response={"data": {"plaintext": "hmac-sha256:5e"}})
    refused = transit(response={"data": {"error": "hmac-sha256:0a"}}, error="permission denied")
    assert [use.count for use in uses(written(tmp_path, done, refused))] == [1, 0]


def test_a_batch_whose_answer_is_hashed_as_a_whole_may_have_opened_all(tmp_path: Path) -> None:
    (use,) = uses(written(tmp_path, transit(response={"data": {"http_raw_body": "hmac-sha256:0"}})))
    assert (use.count, use.is_certain) == (2, False)


def test_a_record_of_cloudtrail_names_blob_key_and_who(tmp_path: Path) -> None:
    assert uses(written(tmp_path, cloudtrail())) == [
        LoggedUse(
            AT.replace(microsecond=0),
            "unwrap",
            f"aws-kms://{ARN}",
            1,
            request_id="12345126-30d5-4b28-98b9-9153da559963",
            blob_id="tenants/7/a",
            who="arn:aws:iam::111122223333:user/ann at 192.0.2.0",
        )
    ]


def test_a_re_encrypt_counts_for_its_destination(tmp_path: Path) -> None:
    moved = cloudtrail(
        "ReEncrypt",
        requestParameters={
            "sourceKeyId": ARN,
            "destinationKeyId": OTHER,
            "destinationEncryptionContext": {"blob_id": "b"},
            "sourceEncryptionContext": {"blob_id": "b"},
        },
        resources=[{"ARN": ARN}, {"ARN": OTHER}],
    )
    (use,) = uses(written(tmp_path, moved))
    assert (use.operation, use.key, use.blob_id) == ("rewrap", f"aws-kms://{OTHER}", "b")


def test_what_kms_refused_and_what_is_no_use_is_told_apart(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        cloudtrail(errorCode="AccessDenied", requestParameters=None, resources=[]),
        cloudtrail("DescribeKey"),
        cloudtrail(eventSource="s3.amazonaws.com", eventName="GetObject"),
    )
    found = list(read(file))
    assert [entry.use and entry.use.count for entry in found] == [0, None, None]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_as_cloudtrail_delivers_it_is_read(
    tmp_path: Path, *, indent: int | None, zipped: bool
) -> None:
    data = json.dumps({"Records": [cloudtrail(), cloudtrail("Encrypt")]}, indent=indent).encode()
    file = tmp_path / "log"
    file.write_bytes(gzip.compress(data) if zipped else data)
    assert [use.operation for use in uses(file)] == ["unwrap", "wrap"]


def test_a_line_that_is_being_written_ends_the_log(tmp_path: Path) -> None:
    file = written(tmp_path, transit())
    file.write_text(file.read_text() + '{"time":"2026-11')
    assert len(uses(file)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"not a log\n",
        b"7\n",
        b"[]\n",
        b"{}\n",
        b'{"Records": 7}\n',
        b'{\n"Records": [7]}\n',
        b'{\n"Others": []}\n',
        b'{"type":"response","time":"x","request":{}}\n',
        b'{"type":"response","time":7,"request":{}}\n',
        b'{"eventSource":"kms.amazonaws.com","eventTime":null,"eventName":"Decrypt"}\n',
        b'{"type":"response","time":"2026-11-27T11:12:55Z","request":[]}\n',
        b"\x1f\x8b broken",
        gzip.compress(b"{}\n" * 1000)[:-9],
        b"\xff\xfe\x00",
        json.dumps(transit()).encode() + b"\nno\n",
        json.dumps(transit(auth=7)).encode() + b"\n",
        json.dumps(transit(response={"data": {"batch_results": [7]}})).encode() + b"\n",
        json.dumps(cloudtrail(resources=7)).encode() + b"\n",
        json.dumps(cloudtrail(eventName=[])).encode() + b"\n",
    ],
)
def test_what_is_no_log_is_an_error_that_says_so(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "log"
    file.write_bytes(data)
    with pytest.raises(LogError, match="log"):
        list(read(file))


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        list(read(tmp_path / "none"))
