"""Sidecars as broken writers, uploads, editors and attackers leave them; each with its reason.

`MALFORMED` never gets past the parser. What it cannot know is refused further in: `UNLISTED` by
the list of keys, `NO_DPAPI` by a look at the wrap, `NAMELESS` where the configuration says of no
key that it is the default.
"""

import base64
import json
from dataclasses import dataclass, field

from keywrap.sidecar import MAX_DEK_VERSION, MAX_WRAP_BYTES
from tests.texts import KEK, SOUND, TEXTS, WRAP, sidecar


@dataclass(frozen=True, slots=True)
class Shape:
    """A sidecar that must be refused.

    Attributes:
        name: what is wrong with it.
        data: its bytes.
        reason_code: why it is refused.
    """

    name: str
    data: bytes = field(repr=False)
    reason_code: str


def _field(name: str, value: object) -> bytes:
    return json.dumps({"key_id": str(KEK), "wrapped_dek": WRAP, name: value}).encode()


_FIELDS: dict[tuple[str, str], tuple[object, ...]] = {
    ("key_id_malformed", "key_id"): (
        "",
        "aws",
        "ENV",
        "env ",
        "env:",
        "dpapi:",
        "HCVAULT://transit/blob-kek?version=3",
        "direct",
        "env:A\n",
        "env:A\r\nX-Vault-Token: x",
        "env:A\0",
        "hcvault://transit/blob kek",
        "hcvault:\\\\transit\\blob-kek",
        'hcvault://transit/blob-kek"',
        "env:$(id)",
        "env:${BLOB_KEY}",
        "env:BLOB_KEY\u200b",
        "env:\u202eYEK",
        "hcvault://tr\u0430nsit/blob-kek",
        "hcvault://bücher.example/k",
        "env:\ud800",
        "https://evil.example/key",
        "file:///etc/passwd",
        "vault:v3:AAAA",
        "arn:aws:kms:eu-west-1:1:key/a",
        "kms://blob-kek",
        "/transit/keys/blob-kek",
        *("aws-kms://arn:aws:kms:eu-west-1:1:key/a?endpoint=x",),
        "hcvault://t/k?version=1&region=x",
        "hcvault://t/k?region=x&version=1",
        "pkcs11:object=k?pin-value=1234",
        "hcvault://memory/*?version=1",
        "hcvault://t/k#f",
        "hcvault://t/k?version=1#f",
        "hcvault://t/k?version=1?version=2",
        "hcvault://t/k?version=",
        "hcvault://t/k?VERSION=1",
        "hcvault://t/k?version=1 ",
        "hcvault://t/k?version=1\n",
        "hcvault://t/k?version=1%00",
        "hcvault://t/k?version=../1",
        "hcvault://t/k?version=٣",
        "hcvault://t/k?version=" + "1" * 129,
        "env:" + "A" * 2_000,
    ),
    ("field_wrong_type", "key_id"): (None, 1, True, 1.5, ["env:A"], {"id": "env:A"}),
    ("field_wrong_type", "provider"): (None, 1, ["env"], {}),
    ("field_wrong_type", "wrapped_dek"): (None, 7, False, [WRAP], {"b64": WRAP}, [1, 2, 3]),
    ("field_wrong_type", "content"): (None, 1, ["gcm-v1"], {"format": "gcm-v1"}),
    ("field_wrong_type", "object"): (None, 0, ["0" * 32], {"name": "0" * 32}),
    ("provider_invalid", "provider"): (
        *("", " ", "env\n", "ümlaut", "a b", "../env", "-env", "env\0", "\ud800", "x" * 65),
    ),
    ("provider_contradicts_key_id", "provider"): ("env", "dpapi", "hcvault", "VAULT", "aws"),
    ("wrapped_dek_empty", "wrapped_dek"): ("",),
    ("wrapped_dek_not_base64", "wrapped_dek"): (
        *("canary", "AA", "AA=", "AA===", "AB==", "AAB=", "AA==AA==", "AA==AAAA", "====", "="),
        *("AAAA\n", "AAAA\r\n", " AAAA", "AAAA ", "AAAA AAAA", "AAAA\nAAAA", "AAAA\tAAAA"),
        *("AA-_", "AA%3D%3D", "AAé=", "ＡＡＡＡ", "AAAA\0", "\ud800", "AAAA.", "'AAAA'", "\\x00"),  # noqa: RUF001 - the defect
        *("gAAAA-+A", "gAAAA-_", "gAAAA-B=", "gAAA-AAA", "gAAAA_AA\n"),  # as Fernet nearly has it
        *("vault:v3:AAAA", "data:;base64,AAAA", "b'AAAA'", "-----BEGIN-----AAAA", "…AAAA", "***"),
    ),
    ("wrapped_dek_too_long", "wrapped_dek"): (
        base64.b64encode(b"x" * (MAX_WRAP_BYTES + 1)).decode(),
    ),
    ("dek_version_invalid", "dek_version"): (
        *(None, True, False, 1.0, 0.5, "1", "", -1, MAX_DEK_VERSION + 1, 2**63, 2**64),
        *([], [1], {"n": 1}),
    ),
    ("context_invalid", "context"): (
        *(None, "blob", 1, True, [], [["blob_id", "a"]], [{"blob_id": "a"}]),
        *({"blob_id": v} for v in (1, None, True, 1.5, ["a"], {"a": "b"}, "\ud800")),
        *({"\udfff": "a"}, {"blob_id": "a", "tenant": 7}, {"": None}),
    ),
    ("content_invalid", "content"): (
        *("", "stream v1", "strëam", "stream-v1\n", "../gcm-v1", ".gcm", "gcm/v1", "gcm-v1\0"),
        *("\ud800", "x" * 65),
    ),
    ("object_invalid", "object"): (
        *("", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "../" + "0" * 29, "/" + "0" * 31),
        *("0" * 32 + "\n", " " + "0" * 31, "０" * 32, "0" * 31 + "\0", ".~" + "0" * 30),  # noqa: RUF001 - the defect
        *("b.~" + "0" * 32, "https://evil.example/" + "0" * 11, "0" * 8 + "-" + "0" * 23),
    ),
    ("previous_invalid", "previous"): (
        *(None, "env:A", 1, [], [{"key_id": "env:A"}], {}, {"wrapped_dek": WRAP}),
        *({"key_id": v} for v in ("env", "dpapi", "", None, 1, "https://evil.example", str(KEK))),
        *({"key_id": "env:A", "wrapped_dek": v} for v in ("", "canary", "AA", None, 1)),
        *({"key_id": "env:A", k: v} for k, v in (("note", "kept?"), ("provider", "env"))),
        *({"key_id": "env:A", k: {}} for k in ("previous", "context")),
        {"key_id": "env:A", "wrapped_dek": "AAAA" * MAX_WRAP_BYTES},
    ),
}
"""Wrong values of one field of a sidecar that is sound otherwise."""

MALFORMED = tuple(
    Shape(name, data, reason_code)
    for reason_code, texts in TEXTS.items()
    for name, data in texts.items()
) + tuple(
    Shape(f"{name}={value!a:.40}".replace("\\", "/"), _field(name, value), reason_code)
    for (reason_code, name), values in _FIELDS.items()
    for value in values
)

UNLISTED = tuple(
    Shape(uri[:70], _field("key_id", uri), "key_not_listed")
    for uri in (
        str(KEK),
        "hcvault://evil.example:8200/transit/blob-kek?version=3",
        "hcvault://root:token@transit/blob-kek?version=3",
        "hcvault://memory/blob-kek/?version=1",
        "hcvault://memory//blob-kek?version=1",
        "hcvault://memory/./blob-kek?version=1",
        "hcvault://memory/x/../blob-kek?version=1",
        "hcvault://memory/%62lob-kek?version=1",
        "hcvault://memory/Blob-kek?version=1",
        "hcvault://MEMORY/blob-kek?version=1",
        "hcvault:memory/blob-kek?version=1",
        "hcvault://memory/blob-kek-2?version=1",
        "hcvault://memory/blob-ke?version=1",
        "hcvault://memory/blob-kek;version=1",
        "aws-kms://arn:aws:kms:eu-west-1:999999999999:key/11111111-2222-3333-4444-555555555555",
        "aws-kms://arn:aws:kms:eu-west-1:111122223333:alias/blob-kek",
        "aws-kms://alias/blob-kek",
        "aws-kms://AKIAEXAMPLE:secret@arn:aws:kms:eu-west-1:111122223333:key/a",
        "gcp-kms://projects/evil/locations/global/keyRings/r/cryptoKeys/k?version=1",
        "azure-kv://evil.vault.azure.net/keys/k?version=1",
        "pkcs11:module-path=/tmp/evil.so;object=k",
        "local:../../etc/passwd",
        "env:PATH",
        "env:blob_key",
        "dpapi:another",
    )
)
"""Keys that could be named so, and that the tests' installations do not list."""

NO_DPAPI = tuple(
    Shape(
        f"no wrap of DPAPI, named by {name}", sidecar(**named, wrapped_dek=WRAP), "dpapi_malformed"
    )
    for name, named in {
        "key": {"key_id": "dpapi"},
        "provider": {"provider": "dpapi"},
        "both": {"key_id": "dpapi", "provider": "dpapi"},
    }.items()
)
"""A DPAPI wrap says itself which master key it is of; these say nothing."""

NAMELESS = tuple(
    Shape(name, data, "no_key_named")
    for name, data in {
        "nothing": b"{}",
        "our names in another case": sidecar(KeyID=str(KEK), WrappedDek=WRAP),
        "our names with hyphens": sidecar(**{"key-id": str(KEK), "wrapped-dek": WRAP}),
        "our record one level down": sidecar(sidecar=json.loads(SOUND)),
        "a wrap and no key": sidecar(wrapped_dek=WRAP),
        "an instruction file of S3": sidecar(**{"x-amz-key-v2": WRAP, "x-amz-iv": "AAAA"}),
        "sops": sidecar(data="ENC[AES256_GCM,data:AAAA]", sops={"version": "3.9.0"}),
        "an answer of Transit": sidecar(data={"ciphertext": "vault:v3:AAAA"}),
        "an error as JSON": sidecar(error="AccessDenied", status=403),
        "a JSON Web Key": sidecar(kty="oct", k="AAAA"),
        "a provider alone": sidecar(provider="env", wrapped_dek=WRAP),
        "DPAPI without a wrap": sidecar(key_id="dpapi"),
    }.items()
)
"""JSON objects that name no key of ours."""
