import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import azure.identity
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import ContainerClient, ContentSettings, generate_container_sas

import keywrap.azurecredentials
from embedded.azurite import ACCOUNT, Azurite
from keywrap.azurecredentials import AccountKey, SharedAccessSignature
from keywrap.azurestore import open_azure
from keywrap.conditions import UnconditionalStoreError, require_conditional_writes
from keywrap.objectmarks import MARKS
from keywrap.objectretries import ATTEMPTS
from keywrap.objectstore import ObjectStore
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreUnavailableError,
)
from keywrap.tables.store import StoreConfig, check_store, open_store
from keywrap.testing.stores import StoreConformance
from tests.buckets import azure_store
from tests.clouds import CannedServer
from tests.cutting import CuttingProxy

Canned = Callable[[Callable[[bytes], bytes | None]], CannedServer]

KEY = "c2VjcmV0"
FULL_ANSWER = (
    b'HTTP/1.1 200 OK\r\netag: "0x8DC"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
    b"content-length: 5\r\n\r\nhello"
)


def canned_store(server: CannedServer) -> ObjectStore:
    return azure_store(server.address, KEY, "blobs")


def refusal(status: int, code: str) -> bytes:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'.encode()
    head = f"HTTP/1.1 {status} No\r\nx-ms-error-code: {code}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def listing(entries: str, following: str = "") -> bytes:
    body = (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="x">'
        f"<Blobs>{entries}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def signature(azurite: Azurite, container: str, permission: str) -> str:
    return generate_container_sas(
        ACCOUNT,
        container,
        account_key=azurite.key,
        permission=permission,
        expiry=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
    )


class TestAzureStore(StoreConformance):
    increments = 10  # Azurite makes some 150 writes a second

    @pytest.fixture
    def store(self, azure_blobs: ObjectStore) -> ObjectStore:
        return azure_blobs


class TestAzureStoreThatLosesReplies(StoreConformance):
    """Each promise holds although every tenth write is made and not answered."""

    increments = 5

    @pytest.fixture
    def store(
        self, cutting: CuttingProxy, azurite: Azurite, azure_client: ContainerClient
    ) -> ObjectStore:
        cutting.cut(every=10)
        return azure_store(cutting.address, azurite.key, azure_client.container_name, "tenant")


# Names


def test_no_name_in_azure_is_mistaken_for_another(
    azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    odd = {
        "a//b",
        "trailing/",
        "per%2Fcent",
        "  spaces ",
        "plus+and&amp;<xml>",
        "\u202e",
        "ÿ" * 500,
    }
    for name in odd:
        azure_client.upload_blob(f"tenant/{name}", name.encode())
    plain = {"a/b", "trailing", "a"}
    for name in plain:
        azure_blobs.create(name, b"another")
    assert sorted(azure_blobs.names()) == sorted(odd | plain)
    for name in odd:
        try:
            assert azure_blobs.read(name).data == name.encode()
        except NotAnObjectError:
            assert name in {"a//b", "trailing/"}


def test_a_backslash_which_azure_takes_for_a_slash_is_not_sent(
    azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    azure_blobs.create("a/b", b"1")
    for call in (
        lambda: azure_blobs.read("a\\b"),
        lambda: azure_blobs.create("a\\c", b"2"),
        lambda: azure_blobs.delete("a\\b"),
    ):
        with pytest.raises(NotAnObjectError):
            call()
    assert [blob.name for blob in azure_client.list_blobs()] == ["tenant/a/b"]


def test_thousands_of_odd_names_in_azure_are_listed_once_each(
    azure_blobs: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keywrap.azurecontainer.PAGE", 100)  # so that Azurite need hold fewer
    names = {f"mandant {n % 7}/größe + 50%/dokument #{n:05}?.pdf" for n in range(900)}
    names |= {f"flach-{n:05} 文" for n in range(300)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: azure_blobs.create(name, b""), names))
    listed = list(azure_blobs.names())
    assert len(listed) == len(names)
    assert set(listed) == names
    assert set(azure_blobs.names("mandant 3")) == {n for n in names if n.startswith("mandant 3")}


def test_directories_of_azure_are_no_blobs_and_encoded_names_are_decoded(canned: Canned) -> None:
    entries = (
        "<BlobPrefix><Name>tenant/</Name></BlobPrefix>"
        "<Blob><Name>a</Name><Properties><Content-Length>0</Content-Length>"
        "<ResourceType>directory</ResourceType></Properties></Blob>"
        "<Blob><Name>b/</Name><Properties><Content-Length>0</Content-Length></Properties></Blob>"
        "<Blob><Name>c/</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>"
        '<Blob><Name Encoded="true">d%EF%BF%BE%25</Name></Blob><Blob><Name>e%25</Name></Blob>'
    )
    server = canned(lambda _head: listing(entries))
    assert sorted(canned_store(server).names()) == ["c/", "d\ufffe%", "e%25"]


@pytest.mark.parametrize(
    "answer",
    [
        listing('<Blob><Name Encoded="true">%FF</Name></Blob>'),
        listing("", following="m") and listing("<Blob>"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n<other/>"[:-1],
        b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n<other/>",
    ],
)
def test_what_is_no_page_of_azure_is_no_listing(canned: Canned, answer: bytes) -> None:
    with pytest.raises(StoreUnavailableError, match="a listing came as"):
        list(canned_store(canned(lambda _head: answer)).names())


def test_a_page_of_azure_that_is_followed_by_itself_is_refused(canned: Canned) -> None:
    server = canned(lambda _head: listing("<Blob><Name>a</Name></Blob>", following="again"))
    with pytest.raises(StoreUnavailableError, match="followed by itself"):
        list(canned_store(server).names())


def test_an_azure_store_ends_at_its_folder(
    azurite: Azurite, azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    for name in ("tenant", "tenant.txt", "tenant2/a", "tenant/a", "other"):
        azure_client.upload_blob(name, b"1")
    azure_blobs.create(".rewrap/control.json", b"{}")
    assert sorted(azure_blobs.names()) == ["a"]
    assert list(azure_blobs.names(".rewrap/")) == [".rewrap/control.json"]
    whole = azure_store(azurite.address, azurite.key, azure_client.container_name)
    assert len(list(whole.names("tenant"))) == 5


# Writes


def test_headers_and_metadata_survive_a_replacement_in_azure(
    azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    azure_client.upload_blob(
        "tenant/a",
        b"1",
        metadata={"owner": "billing"},
        content_settings=ContentSettings(content_type="text/json", cache_control="no-store"),
    )
    for data in (b"2", b"3"):
        azure_blobs.replace("a", data, azure_blobs.read("a"))
    found = azure_client.get_blob_client("tenant/a").get_blob_properties()
    assert found.content_settings.content_type == "text/json"
    assert found.content_settings.cache_control == "no-store"
    assert found.metadata["owner"] == "billing"
    assert len(found.metadata[MARKS].split(",")) == 2


def test_a_foreign_writer_in_azure_wins(
    azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    azure_blobs.create("a", b"1")
    read = azure_blobs.read("a")
    azure_client.upload_blob("tenant/a", b"1", overwrite=True)  # the same bytes, written anew
    with pytest.raises(ChangedError):
        azure_blobs.replace("a", b"ours", read)
    with pytest.raises(AlreadyExistsError):
        azure_blobs.create("a", b"ours")
    assert azure_blobs.read("a").data == b"1"


def test_every_lost_reply_of_azurite_is_found_out(
    cutting: CuttingProxy, azurite: Azurite, azure_client: ContainerClient
) -> None:
    store = azure_store(cutting.address, azurite.key, azure_client.container_name)
    cutting.cut(every=1)

    def work(number: int) -> None:
        store.create(f"blob-{number}", b"0")
        for count in range(1, 10):
            store.replace(f"blob-{number}", b"%d" % count, store.read(f"blob-{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(10)))
    assert cutting.cuts == 100
    assert {store.read(f"blob-{number}").data for number in range(10)} == {b"9"}
    marks = [store.read(f"blob-{number}").marks for number in range(10)]  # type: ignore[attr-defined]  # of a bucket
    assert all(len(set(one)) == 10 for one in marks)


def test_every_write_to_azure_is_conditional_and_sent_once(canned: Canned) -> None:
    server = canned(lambda head: None if head.startswith(b"PUT") else FULL_ANSWER)
    store = canned_store(server)
    with pytest.raises(StoreUnavailableError):
        store.replace("a", b"2", Stored(b"hello", '"0x8DC"'))
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"2")
    puts = [head for head in server.heads if head.startswith(b"PUT")]
    assert len(puts) == ATTEMPTS + 1
    assert all(b'\r\nif-match: "0x8DC"\r\n' in head for head in puts[:-1])
    assert b"\r\nif-none-match: *\r\n" in puts[-1]


@pytest.mark.parametrize(
    ("status", "code", "create", "replace"),
    [
        (409, "BlobAlreadyExists", AlreadyExistsError, ChangedError),
        (412, "ConditionNotMet", AlreadyExistsError, ChangedError),
        (404, "BlobNotFound", AlreadyExistsError, ChangedError),
        (412, "LeaseIdMissing", StoreUnavailableError, StoreUnavailableError),
        (409, "BlobImmutableDueToPolicy", StoreUnavailableError, StoreUnavailableError),
        (404, "ContainerNotFound", StoreUnavailableError, StoreUnavailableError),
        (403, "AuthorizationFailure", StoreUnavailableError, StoreUnavailableError),
    ],
)
def test_a_first_refusal_of_azure_is_final_and_asked_for_once(
    canned: Canned, status: int, code: str, create: type[Exception], replace: type[Exception]
) -> None:
    server = canned(lambda _head: refusal(status, code))
    store = canned_store(server)
    with pytest.raises(create):
        store.create("a", b"2")
    with pytest.raises(replace):
        store.replace("a", b"2", Stored(b"1", '"1"'))
    assert len(server.heads) == 2


# Conditions


def test_azurite_is_seen_to_keep_conditions(azure_blobs: ObjectStore) -> None:
    azure_blobs.create("mark", b"as it is")
    before = azure_blobs.read("mark")
    require_conditional_writes(azure_blobs, "mark")
    assert azure_blobs.read("mark") == before


@pytest.mark.parametrize("kept", [b"if-none-match", b"if-match", b"nothing"])
def test_a_careless_imitation_of_azure_is_refused(canned: Canned, kept: bytes) -> None:
    def reply(head: bytes) -> bytes:
        return refusal(412, "ConditionNotMet") if b"\r\n" + kept in head else FULL_ANSWER

    with pytest.raises(UnconditionalStoreError):
        require_conditional_writes(canned_store(canned(reply)), "mark")


# Deleting


def test_a_blob_of_azure_is_deleted_and_its_snapshots_are_not(
    azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    for name in ("a b/ö+%?#", "kept"):
        azure_blobs.create(name, b"1")
    azure_blobs.delete("a b/ö+%?#")
    azure_blobs.delete("a b/ö+%?#")
    with pytest.raises(NotFoundError):
        azure_blobs.read("a b/ö+%?#")
    azure_client.get_blob_client("tenant/kept").create_snapshot()
    with pytest.raises(StoreUnavailableError, match="snapshots"):
        azure_blobs.delete("kept")
    assert azure_blobs.read("kept").data == b"1"


# Refusals


def test_an_azure_container_that_vanished_is_no_empty_store(
    azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    azure_blobs.create("a", b"1")
    read = azure_blobs.read("a")
    azure_client.delete_container()
    for call in (
        azure_blobs.check,
        lambda: azure_blobs.read("a"),
        lambda: azure_blobs.read_range("a", 0, 1),
        lambda: azure_blobs.create("b", b"1"),
        lambda: azure_blobs.replace("a", b"2", read),
        lambda: azure_blobs.delete("a"),
        lambda: list(azure_blobs.names()),
    ):
        with pytest.raises(StoreUnavailableError, match="no such container"):
            call()


@pytest.mark.parametrize(
    ("granted", "denied"),
    [("cwdl", "read"), ("rld", "write"), ("rcwl", "delete"), ("rcwd", "list")],
)
def test_what_a_shared_access_signature_does_not_grant_is_denied_with_the_permission(
    azurite: Azurite,
    azure_client: ContainerClient,
    azure_blobs: ObjectStore,
    granted: str,
    denied: str,
) -> None:
    azure_blobs.create("a", b"1")
    read = azure_blobs.read("a")
    sas = signature(azurite, azure_client.container_name, granted)
    store = open_azure(
        azure_client.container_name,
        "tenant",
        account=ACCOUNT,
        endpoint=azurite.address,
        allow_http=True,
        credentials=SharedAccessSignature(lambda: f"?{sas}\n"),
    )
    calls: dict[str, list[Callable[[], object]]] = {
        "read": [lambda: store.read("a"), lambda: store.read_range("a", 0, 1)],
        "write": [lambda: store.create("b", b"1"), lambda: store.replace("a", b"2", read)],
        "list": [store.check, lambda: list(store.names())],
        "delete": [lambda: store.delete("a")],
    }
    for operation in ("read", "write", "list", "delete"):
        for call in calls[operation]:
            if operation != denied:
                call()
                continue
            with pytest.raises(StoreUnavailableError, match=r"Storage Blob Data Contrib") as caught:
                call()
            assert "sig=" not in str(caught.value)
            assert sas not in str(caught.value)


def test_a_wrong_account_key_is_told_and_changes_nothing(
    azurite: Azurite, azure_client: ContainerClient, azure_blobs: ObjectStore
) -> None:
    azure_blobs.create("a", b"1")
    store = azure_store(azurite.address, KEY, azure_client.container_name, "tenant")
    for call in (
        store.check,
        lambda: store.read("a"),
        lambda: store.create("b", b""),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreUnavailableError, match="AuthorizationFailure"):
            call()
    assert list(azure_blobs.names()) == ["a"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(404, ""), "404"),
        (refusal(404, "ResourceNotFound"), "404"),
        (refusal(503, "ServerBusy"), "fewer requests"),
        (refusal(403, "AuthenticationFailed"), "not valid"),
        (refusal(409, "ContainerBeingDeleted"), "being deleted"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "."),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi", "."),
    ],
)
def test_what_is_no_answer_of_azure_is_never_taken_for_an_absent_blob(
    canned: Canned, answer: bytes, sentence: str
) -> None:
    store = canned_store(canned(lambda _head: answer))
    for call in (
        lambda: store.read("a"),
        lambda: store.read_range("a", 0, 1),
        lambda: store.create("a", b"1"),
        lambda: store.replace("a", b"2", Stored(b"1", '"1"')),
        store.check,
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match=sentence):
            call()


@pytest.mark.parametrize(
    ("scheme", "up", "sentence"),
    [("http", False, "Connection refused"), ("https", True, "Azure"), ("http", True, "Azure")],
    ids=["refused", "no TLS", "no answer"],
)
def test_a_signature_is_in_no_message_when_nobody_answers(
    canned: Canned,
    scheme: str,
    up: bool,  # noqa: FBT001 - a case
    sentence: str,
) -> None:
    server = canned(lambda _head: None)
    store = open_azure(
        "blobs",
        account=ACCOUNT,
        endpoint=server.address.replace("http", scheme),
        allow_http=True,
        credentials=SharedAccessSignature(lambda: "sv=1&sig=SECRETSIGNATURE"),
        timeout_s=0.5,
    )
    if not up:
        server.stop()
    for call in (
        store.check,
        lambda: store.read("a"),
        lambda: store.create("a", b"1"),
        lambda: store.delete("a"),
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match=sentence) as caught:
            call()
        error: BaseException | None = caught.value
        while error is not None:
            assert "SECRETSIGNATURE" not in f"{error} {error!r}"
            error = error.__cause__


def test_a_signed_request_follows_nobody_elsewhere(canned: Canned) -> None:
    elsewhere = canned(lambda _head: listing(""))
    moved = f"HTTP/1.1 307 Moved\r\nlocation: {elsewhere.address}/\r\ncontent-length: 0\r\n\r\n"
    store = canned_store(canned(lambda _head: moved.encode()))
    for call in (store.check, lambda: list(store.names()), lambda: store.delete("a")):
        with pytest.raises(StoreUnavailableError, match="307"):
            call()
    assert elsewhere.heads == []


# What the environment says


def test_the_environment_chooses_neither_endpoint_nor_signing_of_azure(
    azurite: Azurite,
    azure_client: ContainerClient,
    canned: Canned,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    trap = canned(lambda _head: None)
    for name in (
        "AZURE_STORAGE_ENDPOINT",
        "AZURE_ENDPOINT",
        "AZURE_PROXY_URL",
        "AZURITE_BLOB_STORAGE_URL",
        "AZURE_MSI_ENDPOINT",
        "IDENTITY_ENDPOINT",
        "AZURE_FABRIC_TOKEN_SERVICE_URL",
        "AZURE_AUTHORITY_HOST",
    ):
        monkeypatch.setenv(name, trap.address)
    for name in (
        "AZURE_ALLOW_HTTP",
        "AZURE_ALLOW_INVALID_CERTIFICATES",
        "AZURE_SKIP_SIGNATURE",
        "AZURE_STORAGE_USE_EMULATOR",
        "AZURE_USE_FABRIC_ENDPOINT",
        "AZURE_USE_AZURE_CLI",
    ):
        monkeypatch.setenv(name, "true")
    for name in (
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_CONTAINER_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_TENANT_ID",
        "AZURE_FABRIC_WORKLOAD_HOST",
        "AZURE_FABRIC_SESSION_TOKEN",
        "AZURE_FABRIC_CLUSTER_IDENTIFIER",
    ):
        monkeypatch.setenv(name, "b3RoZXI=")
    monkeypatch.setenv("AZURE_CREDENTIAL_TYPE", "managed_identity")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    store = azure_store(azurite.address, azurite.key, azure_client.container_name)
    store.check()
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))
    store.delete("a")
    assert list(store.names()) == []
    assert trap.heads == []


@pytest.mark.parametrize("name", ["AZURE_ENCRYPTION_KEY", "AZURE_encryption_key"])
def test_a_key_to_encrypt_with_is_not_taken_from_the_environment_of_azure(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ValueError, match=name):
        open_azure("blobs", account=ACCOUNT)


@pytest.mark.usefixtures("no_cloud_settings")
def test_azure_is_asked_at_the_accounts_endpoint_over_tls() -> None:
    for endpoint, url in (
        ("", f"https://{ACCOUNT}.blob.core.windows.net"),
        (
            "https://rewrap.blob.core.usgovcloudapi.net/",
            "https://rewrap.blob.core.usgovcloudapi.net",
        ),
        ("https://host:1/rewrap", "https://host:1/rewrap"),
    ):
        store: Any = open_azure("blobs", account=ACCOUNT, endpoint=endpoint)._client
        assert store.config["endpoint"] == url
        assert store.client_options["allow_http"] == "false"
        assert store.retry_config["max_retries"] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"container": "../x"}, "container"),
        ({"container": "a--b"}, "container"),
        ({"account": "a.evil.example"}, "account"),
        ({"endpoint": "http://127.0.0.1:1"}, "allow_http"),
        ({"endpoint": "https://user:secret@host"}, "endpoint"),
        ({"endpoint": "https://host/other"}, "endpoint"),
        ({"prefix": "a/../b"}, "prefix"),
    ],
)
@pytest.mark.usefixtures("no_cloud_settings")
def test_what_is_no_address_of_an_azure_container_is_refused(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        open_azure(**{"container": "blobs", "account": ACCOUNT, **arguments})
    assert "secret" not in str(caught.value)


# Credentials


@pytest.mark.usefixtures("no_cloud_settings")
def test_opening_an_azure_container_needs_no_credentials_and_using_it_does(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nobody:
        def get_token(self, _scope: str) -> AccessToken:
            raise ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token")

    monkeypatch.setattr(keywrap.azurecredentials, "DefaultAzureCredential", Nobody)
    server = canned(lambda _head: None)
    store = open_azure("blobs", account=ACCOUNT, endpoint=server.address, allow_http=True)
    for call in (
        store.check,
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: store.delete("a"),
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match="Azure credentials: DefaultAzure"):
            call()
    with pytest.raises(StoreUnavailableError, match="nothing was changed"):
        store.create("a", b"")
    assert server.heads == []


@pytest.mark.usefixtures("no_cloud_settings")
def test_an_entra_token_signs_whatever_is_asked(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Somebody(azure.identity.DefaultAzureCredential):
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            assert scopes == ("https://storage.azure.com/.default",)
            return AccessToken("entra", 2**33)

    monkeypatch.setattr(keywrap.azurecredentials, "DefaultAzureCredential", Somebody)
    server = canned(lambda head: listing("") if b"comp=list" in head else FULL_ANSWER)
    store = open_azure("blobs", account=ACCOUNT, endpoint=server.address, allow_http=True)
    store.check()
    store.replace("a", b"1", store.read("a"))
    store.delete("a")
    assert len(server.heads) == 4
    assert all(b"authorization: bearer entra\r\n" in head.lower() for head in server.heads)
    assert all(b"x-ms-version: 20" in head.lower() for head in server.heads)


@pytest.mark.parametrize(
    ("credentials", "sentence"),
    [
        (AccountKey(ACCOUNT, lambda: "not base64!"), "not base64"),
        (AccountKey(ACCOUNT, lambda: ""), "not base64"),
        (SharedAccessSignature(lambda: KEY), "no `sig`"),
    ],
)
def test_a_secret_that_is_none_is_told_and_not_shown(
    canned: Canned, credentials: Any, sentence: str
) -> None:
    store = open_azure(
        "blobs",
        account=ACCOUNT,
        endpoint=canned(lambda _head: None).address,
        allow_http=True,
        credentials=credentials,
    )
    for call in (store.check, lambda: store.read("a"), lambda: store.create("a", b"")):
        with pytest.raises(StoreUnavailableError, match=sentence) as caught:
            call()
        assert "not base64!" not in str(caught.value)
        assert KEY not in str(caught.value)


def test_the_table_opens_azurite_by_a_secret_in_variable_or_file(
    azurite: Azurite,
    azure_client: ContainerClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sas = signature(azurite, azure_client.container_name, "rcwdl")
    monkeypatch.setenv("AZURITE_KEY", azurite.key)
    monkeypatch.setenv("AZURITE_SAS", sas)
    (tmp_path / "key").write_text(f"{azurite.key}\n")
    (tmp_path / "sas").write_text(f"?{sas}\n")
    for number, secret in enumerate(
        (
            {"account_key_env": "AZURITE_KEY"},
            {"account_key_file": str(tmp_path / "key")},
            {"sas_env": "AZURITE_SAS"},
            {"sas_file": str(tmp_path / "sas")},
        )
    ):
        table = StoreConfig(
            f"az://{azure_client.container_name}/by%20{number}",
            account=ACCOUNT,
            endpoint=azurite.address,
            **secret,
        )
        check_store(table)
        store = open_store(table)
        store.create("a", b"1")
        assert list(store.names()) == ["a"]
        store.replace("a", b"2", store.read("a"))
        store.delete("a")


def test_an_empty_blob_of_azure_has_no_range(azure_blobs: ObjectStore) -> None:
    azure_blobs.create("a", b"")
    assert azure_blobs.read("a").data == b""
    assert azure_blobs.read_range("a", 0, 10) == b""
    assert azure_blobs.read_range("a", 0, 0) == b""
