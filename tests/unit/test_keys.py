import pytest

from keywrap.keys import BadKeyIdError, KeyVersion, WrappedKey

KEY_IDS = {
    "env:BLOB_KEY": "env",
    "dpapi:df9d8cd0-1501-11d1-8c7a-00c04fc297eb": "dpapi",
    "local:/etc/keys/a.key?version=2": "local",
    "hcvault://transit/blob-kek?version=3": "vault",
    "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k?version=12": "gcp",
    "azure-kv://vault.example/keys/k?version=0123456789abcdef0123456789abcdef": "azure",
    "aws-kms://arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab?version=0a1b2c": "aws",
    "pkcs11:token=blobs;object=kek?version=1": "pkcs11",
}


@pytest.mark.parametrize(("key_id", "provider"), KEY_IDS.items())
def test_a_key_id_is_read_and_written_alike(key_id: str, provider: str) -> None:
    key_version = KeyVersion.parse(key_id)
    assert str(key_version) == key_id
    assert key_version.provider == provider
    assert key_version.is_legacy == (provider in {"env", "dpapi"})


@pytest.mark.parametrize(
    "key_id",
    [
        "",
        "env",
        "env:",
        ":BLOB_KEY",
        "ENV:BLOB_KEY",
        "nosuch://kek?version=1",
        "hcvault://transit/kek?version=",
        "hcvault://transit/kek?version=1?version=2",
        "hcvault://transit/kek?version=1&version=2",
        "hcvault://transit/kek?version=a/b",
        "hcvault://transit/kek?version=" + "1" * 129,
        "hcvault://transit/kek?other=1",
        "hcvault://transit/kek?",
        "hcvault://transit/kek#3",
        "env:BLOB KEY",
        "env:BLOB_KEY\n",
        "\nenv:BLOB_KEY",
        "env:BLOB\0KEY",
        "env:BLÖB",
        "env:\uff22LOB",
        "hcvault://transit/kek?version=٣",
        "env:" + "A" * 961,
        "env:" + "A" * 1021,
    ],
)
def test_what_is_no_key_id_is_refused(key_id: str) -> None:
    with pytest.raises(BadKeyIdError):
        KeyVersion.parse(key_id)


@pytest.mark.parametrize(
    ("has", "target", "satisfies"),
    [
        ("hcvault://t/k?version=3", "hcvault://t/k?version=3", True),
        ("hcvault://t/k?version=10", "hcvault://t/k?version=9", True),
        ("hcvault://t/k?version=9", "hcvault://t/k?version=10", False),
        ("hcvault://t/k?version=10", "hcvault://t/other?version=9", False),
        ("hcvault://t/k", "hcvault://t/k?version=1", False),
        ("hcvault://t/k?version=1", "hcvault://t/k", False),
        ("azure-kv://v/keys/k?version=ff", "azure-kv://v/keys/k?version=ee", False),
        ("azure-kv://v/keys/k?version=10", "azure-kv://v/keys/k?version=e", False),
        ("env:BLOB_KEY", "env:BLOB_KEY", True),
    ],
)
def test_a_wrap_at_or_beyond_the_target_satisfies_it(
    has: str, target: str, *, satisfies: bool
) -> None:
    assert KeyVersion.parse(has).satisfies(KeyVersion.parse(target)) is satisfies


def test_a_wrap_hides_its_bytes() -> None:
    wrapped = WrappedKey(KeyVersion("env:BLOB_KEY"), b"secret bytes")
    assert repr(wrapped) == "WrappedKey(env:BLOB_KEY, 12 bytes)"
