import base64
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import Node, assert_balanced
from tests.roads import Road
from tests.sites import Site, campaign_in

GOOD = 60
MOVE_ANYWAY = ["wrapped ☃ snow man", "wrapped-Ünïcødé-日本語", "wrapped-'quoted', with commas"]


def record(site: Site, blob_id: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(sidecar(site, blob_id).read_bytes())
    return loaded


def sidecar(site: Site, blob_id: str) -> Path:
    return site.store / f"{blob_id}.blob.meta"


def with_fields(site: Site, blob_id: str, **fields: Any) -> bytes:
    return json.dumps(record(site, blob_id) | fields).encode()


def without(site: Site, blob_id: str, *fields: str) -> bytes:
    kept = {name: v for name, v in record(site, blob_id).items() if name not in fields}
    return json.dumps(kept).encode()


def damaged_wrap(site: Site, blob_id: str) -> bytes:
    wrap = bytearray(base64.b64decode(record(site, blob_id)["wrapped_dek"]))
    wrap[20] ^= 1
    return with_fields(site, blob_id, wrapped_dek=base64.b64encode(wrap).decode())


BAD_SIDECARS: dict[str, tuple[str, Callable[[Site, str], bytes]]] = {
    "empty": ("sidecar_empty", lambda _s, _b: b""),
    "truncated": ("sidecar_not_json", lambda s, b: sidecar(s, b).read_bytes()[:-7]),
    "oversized": (
        "sidecar_too_large",
        lambda s, b: with_fields(s, b, filling="x" * 70_000),
    ),
    "not-json": ("sidecar_not_json", lambda _s, _b: b"key_id: env:BLOB_WRAP_KEY\n"),
    "not-utf8": ("sidecar_not_utf8", lambda _s, _b: b'{"key_id": "\xff"}'),
    "an-array": ("sidecar_not_object", lambda _s, _b: b"[]"),
    "wrong-type": ("field_wrong_type", lambda s, b: with_fields(s, b, key_id=7)),
    "version-as-text": ("dek_version_invalid", lambda s, b: with_fields(s, b, dek_version="1")),
    "wrap-not-base64": (
        "wrapped_dek_not_base64",
        lambda s, b: with_fields(s, b, wrapped_dek="not base64!"),
    ),
    "key-given-twice": (
        "sidecar_duplicate_key",
        lambda s, b: b'{"key_id": "env:OTHER", ' + sidecar(s, b).read_bytes()[1:],
    ),
    "unknown-provider": (
        "key_id_malformed",
        lambda s, b: with_fields(s, b, key_id="acme-kms://keys/1"),
    ),
    "unlisted-key": ("key_not_listed", lambda s, b: with_fields(s, b, key_id="env:OTHER_KEY")),
    "names-no-key": ("no_key_named", lambda s, b: without(s, b, "key_id", "provider")),
    "wrap-does-not-open": ("wrap_does_not_open", damaged_wrap),
    "wrap-too-short": ("wrap_length", lambda s, b: with_fields(s, b, wrapped_dek="AAAA")),
    "bound-to-another": (
        "context_mismatch",
        lambda s, b: with_fields(s, b, context={"blob_id": "wrapped-another"}),
    ),
    "object-elsewhere": (
        "object_invalid",
        lambda s, b: with_fields(s, b, object="../../../etc/passwd"),
    ),
}

NAMES: dict[str, str] = {
    "wrapped-new\nline": "blob_id_control_character",
    "folder/..": "blob_id_traversal",
    "wrapped-\u202etxt.exe": "blob_id_control_character",
    "wrapped\\back\\slash": "blob_id_not_portable",
}
"""Ids that a file name can spell and that are never used."""


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site], road: Road) -> Iterator[Node]:
    """A node whose store has everything in it that can be wrong with a blob."""
    node = Node(new_site("bad", address=road.address, legacy_default=""), workers=1)
    yield node
    node.close()


def make_names(site: Site) -> dict[str, str]:
    codes = {}
    (site.store / "folder").mkdir()
    for blob_id, code in NAMES.items():
        (site.store / f"{blob_id}.blob").write_bytes(b"never read")
        (site.store / f"{blob_id}.blob.meta").write_bytes(b"{}")
        codes[blob_id.replace("\\", "\\\\")] = code  # as the store spells it
    raw = os.fsencode(site.store) + b"/wrapped-\xff\xfe.blob"
    with open(raw, "xb") as file:  # noqa: PTH123 - no Unicode path
        file.write(b"never read")
    codes["wrapped-\\xff\\xfe"] = "blob_id_not_portable"
    return codes


def make_objects(site: Site) -> dict[str, str]:
    """What stands in a sidecar's place and is no file."""
    ids = ["wrapped-symlink", "wrapped-fifo", "wrapped-folder", "wrapped-missing"]
    site.make_named(ids)
    outside = site.directory / "outside.meta"
    outside.write_bytes(sidecar(site, "wrapped-symlink").read_bytes())
    for blob_id in ids:
        sidecar(site, blob_id).unlink()
    sidecar(site, "wrapped-symlink").symlink_to(outside)
    os.mkfifo(sidecar(site, "wrapped-fifo"))
    sidecar(site, "wrapped-folder").mkdir()
    codes = dict.fromkeys(ids, "sidecar_not_an_object")
    return codes | {"wrapped-missing": "sidecar_missing"}


def make_pairs(site: Site) -> dict[str, str]:
    """Sidecars that are good, but not with this content."""
    pair = site.make_named(["wrapped-swapped-1", "wrapped-swapped-2"])
    one, two = (sidecar(site, blob_id).read_bytes() for blob_id in pair)
    sidecar(site, pair[0]).write_bytes(two)
    sidecar(site, pair[1]).write_bytes(one)
    (lonely,) = site.make_named(["wrapped-content-missing"])
    (site.store / f"{lonely}.blob").unlink()
    (direct,) = site.make_named(["adopter-of-another-key"])
    sidecar(site, direct).write_bytes(b'{"key_id": "env:BLOB_KEY", "content": "records-v1"}')
    content = site.store / f"{direct}.blob"
    content.write_bytes(secrets.token_bytes(12) + (40).to_bytes(4) + secrets.token_bytes(40))
    codes = dict.fromkeys([*pair, direct], "content_does_not_open")
    return codes | {lonely: "content_missing"}


def test_what_is_bad_is_put_aside_with_its_reason_and_the_others_are_moved(node: Node) -> None:
    site = node.site
    good = site.make_named([f"wrapped-good-{n}" for n in range(GOOD)] + MOVE_ANYWAY)
    expected = make_names(site) | make_objects(site) | make_pairs(site)
    for name, (code, spoil) in BAD_SIDECARS.items():
        (blob_id,) = site.make_named([f"wrapped-{name}"])
        whole = sidecar(site, blob_id).read_bytes()
        sidecar(site, blob_id).write_bytes(spoil(site, blob_id))
        expected[blob_id] = code
        if name == "truncated":
            mend = whole
    kept = {f: seen for f, seen in site.fingerprint().items() if "good" not in f}
    kept = {f: seen for f, seen in kept.items() if not any(m in f for m in MOVE_ANYWAY)}

    node.ensure_up()
    ran = site.rewrap("start", "migrate", "--yes", "--wait")

    assert ran.code == 1, ran
    campaign_id = campaign_in(ran.out)
    document = site.ask("status", str(campaign_id))
    assert document["state"] == "complete_with_exceptions"
    assert document["next_command"] == f"rewrap blobs {campaign_id} --outcome quarantined"
    told = {b["blob_id"]: b for b in site.ask("blobs", str(campaign_id))}
    assert {b: v["reason_code"] for b, v in told.items() if v["reason_code"]} == expected
    assert_balanced(document, len(good) + len(expected))
    assert document["counts"]["quarantined"] == len(expected)
    assert document["counts"]["rewrapped"] == len(good)
    assert {f["reason_code"] for f in document["failures"]} == set(expected.values())
    # Byte for byte, and the very same files.
    assert {f: seen for f, seen in site.fingerprint().items() if f in kept} == kept
    assert sidecar(site, "wrapped-symlink").is_symlink()
    assert sidecar(site, "wrapped-fifo").is_fifo()
    assert site.wrong(good) == []
    assert site.key_ids(good) == {site.version(1)}

    check_the_list(site, campaign_id, expected)
    check_the_retry(node, campaign_id, mend, len(expected))


def check_the_list(site: Site, campaign_id: int, expected: dict[str, str]) -> None:
    """Each is named on a line of its own, whatever its id would do to a terminal."""
    ran = site.rewrap("blobs", str(campaign_id), "--outcome", "quarantined")
    lines = ran.out.splitlines()
    assert len(lines) == len(expected)
    assert all(line.startswith("quarantined ") and line.isprintable() for line in lines)
    for blob_id, code in expected.items():
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in blob_id)
        assert any(shown in line and f"  {code}: " in line for line in lines), blob_id
    as_json = site.ask("blobs", str(campaign_id), "--outcome", "quarantined")
    assert {b["blob_id"] for b in as_json} == set(expected)


def check_the_retry(node: Node, campaign_id: int, mend: bytes, quarantined: int) -> None:
    """A blob that was mended is moved; the others stay where they are."""
    site = node.site
    refused = site.rewrap("retry", str(campaign_id))
    assert (refused.code, "nothing_to_retry" in refused.err) == (4, True), refused
    sidecar(site, "wrapped-truncated").write_bytes(mend)
    ran = site.rewrap("retry", str(campaign_id), "--quarantined")
    assert ran.code == 0, ran
    assert f"{quarantined} blobs are pending again" in ran.out
    document = node.reach(campaign_id, "complete_with_exceptions")
    assert document["counts"]["rewrapped"] == GOOD + len(MOVE_ANYWAY) + 1
    assert document["counts"]["quarantined"] == quarantined - 1
    assert_balanced(document, GOOD + len(MOVE_ANYWAY) + quarantined)
    assert site.wrong(["wrapped-truncated"]) == []
    assert site.key_ids(["wrapped-truncated"]) == {site.version(1)}
