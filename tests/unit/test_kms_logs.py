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


GOOGLE_KEY = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/blobs"


def google(method: str = "Decrypt", **more: Any) -> dict[str, Any]:
    """An entry in the form of Google's reference of LogEntry and AuditLog."""
    return {
        "insertId": "1k2m3n",
        "logName": "projects/p/logs/cloudaudit.googleapis.com%2Fdata_access",
        "protoPayload": {
            "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
            "authenticationInfo": {"principalEmail": "w@p.iam.gserviceaccount.com"},
            "methodName": method,
            "request": {"name": GOOGLE_KEY},
            "requestMetadata": {"callerIp": "192.0.2.7"},
            "resourceName": f"{GOOGLE_KEY}/cryptoKeyVersions/3",
            "serviceName": "cloudkms.googleapis.com",
            "status": {},
            **more,
        },
        "resource": {"type": "cloudkms_cryptokeyversion"},
        "severity": "INFO",
        "timestamp": "2026-11-27T11:12:55.681178868Z",
    }


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("Decrypt", "unwrap"),
        ("Encrypt", "wrap"),
        ("google.cloud.kms.v1.KeyManagementService.Decrypt", "unwrap"),
        ("GetCryptoKey", None),
        ("google.cloud.kms.v1.KeyManagementService.UpdateCryptoKeyVersion", None),
    ],
)
def test_google_names_the_key_and_who_asked(
    tmp_path: Path, method: str, operation: str | None
) -> None:
    (entry,) = read(written(tmp_path, google(method)))
    assert (entry.scheme, entry.time) == ("gcp-kms:", AT)
    if operation is None:
        assert entry.use is None
        return
    assert entry.use is not None
    assert (entry.use.operation, entry.use.key) == (operation, f"gcp-kms://{GOOGLE_KEY}")
    assert (entry.use.count, entry.use.request_id) == (1, "1k2m3n")
    assert entry.use.who == "w@p.iam.gserviceaccount.com at 192.0.2.7"


def test_what_google_refused_gave_nothing_and_other_services_are_no_use(tmp_path: Path) -> None:
    denied = google(status={"code": 7, "message": "permission denied"})
    storage = google(serviceName="storage.googleapis.com", methodName="storage.objects.get")
    (refused,) = uses(written(tmp_path, denied, storage))
    assert refused.count == 0


def test_a_list_as_gcloud_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text(json.dumps([google(), google("Encrypt")], indent=2))
    assert [use.operation for use in uses(file)] == ["unwrap", "wrap"]


def azure(operation: str = "KeyUnwrap", **properties: Any) -> dict[str, Any]:
    """A record in the form of Microsoft's own example."""
    return {
        "time": "2026-11-27T11:12:55.6811788Z",
        "resourceId": "/SUBSCRIPTIONS/X/RESOURCEGROUPS/G/PROVIDERS/MICROSOFT.KEYVAULT/VAULTS/V",
        "operationName": operation,
        "operationVersion": "7.4",
        "category": "AuditEvent",
        "resultType": "Success",
        "resultSignature": "OK",
        "durationMs": "78",
        "callerIpAddress": "192.0.2.9",
        "correlationId": "",
        "identity": {"claim": {"appid": "1950a258-227b-4e31-a9cf-717495945fc2"}},
        "properties": {
            "clientInfo": "azsdk-python-keyvault-keys",
            "requestUri": f"https://MY-vault.vault.azure.net:443/keys/Blobs/{'0' * 32}/unwrapkey",
            "id": f"https://my-vault.vault.azure.net/keys/Blobs/{'0' * 32}",
            "httpStatusCode": 200,
            **properties,
        },
    }


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("KeyUnwrap", "unwrap"),
        ("KeyWrap", "wrap"),
        ("KeyDecrypt", "unwrap"),
        ("KeyEncrypt", "wrap"),
        ("KeyGet", None),
        ("VaultGet", None),
    ],
)
def test_azure_names_the_key_and_who_asked(
    tmp_path: Path, name: str, operation: str | None
) -> None:
    file = tmp_path / "PT1H.json"
    file.write_text(json.dumps({"records": [azure(name)]}, indent=1))
    (entry,) = read(file)
    assert (entry.scheme, entry.use is None) == ("azure-kv:", operation is None)
    if entry.use:
        assert (entry.use.operation, entry.use.count) == (operation, 1)
        assert entry.use.key == "azure-kv://my-vault.vault.azure.net/keys/Blobs"
        assert entry.use.who == "1950a258-227b-4e31-a9cf-717495945fc2 at 192.0.2.9"


def test_what_azure_refused_gave_nothing(tmp_path: Path) -> None:
    (use,) = uses(written(tmp_path, azure(httpStatusCode=403)))
    assert use.count == 0


def test_a_row_of_a_workspace_is_the_same_as_a_record(tmp_path: Path) -> None:
    row = {
        "TimeGenerated": "2026-11-27T11:12:55.6811788Z",
        "OperationName": "KeyUnwrap",
        "CallerIpAddress": "192.0.2.9",
        "Identity": azure()["identity"],
        "Id": azure()["properties"]["id"],
        "RequestUri": azure()["properties"]["requestUri"],
        "HttpStatusCode": 200,
    }
    assert uses(written(tmp_path, row)) == uses(written(tmp_path, azure()))


@pytest.mark.parametrize(
    "entry",
    [
        {**google(), "protoPayload": 7},
        {**google(), "timestamp": "soon"},
        google(methodName=None) | {"protoPayload": {"serviceName": "cloudkms.googleapis.com"}},
        google(status=7),
        google(status={"code": "0"}),
        google(status={"code": [1]}),
        google(authenticationInfo="x"),
        {**azure(), "properties": None},
        azure(httpStatusCode="none"),
        azure(requestUri="https://my-vault.vault.azure.net/secrets/x"),
        {**azure(), "identity": 7},
        {**azure(), "time": 9},
        {"OperationName": "KeyUnwrap"},
    ],
)
def test_what_is_no_entry_of_google_or_azure_is_an_error(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    with pytest.raises(LogError, match="entry 1"):
        uses(written(tmp_path, entry))


def test_a_log_that_nests_without_end_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "log"
    for data in (b"[" * 100_000, b'{"records":' * 50_000, b'{"time":"2026-11-27T11:12:55Z"'):
        file.write_bytes(data)
        with pytest.raises(LogError):
            uses(file)
