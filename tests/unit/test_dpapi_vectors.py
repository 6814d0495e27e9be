"""Blobs and master key files that Windows made, and minted ones that other libraries opened.

Read from a folder beside the checkout, or the one that REWRAP_SHARED_DATA names; never copied in.
"""

import base64
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.padding import PKCS7

from keywrap.dpapi import credentials
from keywrap.dpapi.blob import Blob, NotOpenedError
from keywrap.dpapi.credentials import Credential
from keywrap.dpapi.crypto import TDES_SHA1
from keywrap.dpapi.masterkey import SALT_BYTES, MasterKeyFile
from keywrap.dpapi.secret import MasterKey
from keywrap.testing.dpapi import key_block, protect

BESIDE = Path(__file__).resolve().parents[3] / "shared/data"
FILE = Path(os.environ.get("REWRAP_SHARED_DATA", BESIDE)) / "dpapi_vectors.json"

Vector = dict[str, Any]


def vectors(*, real: bool | None = None) -> list[Vector]:
    if not FILE.is_file():
        pytest.skip(f"NOT PROVED: there is no {FILE}; name its folder in REWRAP_SHARED_DATA")
    found: list[Vector] = json.loads(FILE.read_bytes())["vectors"]
    return [v for v in found if real is None or v["real_windows"] is real]


def first(vector: Vector, *names: str) -> bytes | None:
    return next((bytes.fromhex(vector[name]) for name in names if vector.get(name)), None)


def master_key(vector: Vector) -> bytes:
    key = first(vector, "master_key_hex", "derived_master_key_hex", "master_key_sha1_hex")
    assert key is not None
    return key


def known_credentials(vector: Vector) -> dict[str, tuple[Credential, list[bytes]]]:
    """Return each published credential that opens the file, and its prekeys where it has them."""
    known: dict[str, tuple[Credential, list[bytes]]] = {}
    sid = vector.get("sid", "")
    if (nt_hash := first(vector, "nt_hash_hex")) is not None:
        prekeys = credentials.prekeys_of_nt_hash(nt_hash, sid)
        known["NT hash"] = credentials.nt_hash(nt_hash, sid), prekeys
    elif "password" in vector:  # of a local account; a domain's needs the NT hash
        prekeys = credentials.prekeys_of_password(vector["password"], sid)
        known["password"] = credentials.password(vector["password"], sid), prekeys
    if (secret := first(vector, "dpapi_system_hex")) is not None:
        halves = [secret[4:24], secret[24:]]
        known["DPAPI_SYSTEM"] = credentials.dpapi_system(secret), halves
    if "domain_backup_key_pvk_b64" in vector:
        pvk = base64.b64decode(vector["domain_backup_key_pvk_b64"])
        known["domain backup key"] = credentials.domain_backup_key(pvk), []
    return known


def entropy_of(vector: Vector) -> bytes:
    return bytes.fromhex(vector["entropy_hex"] or "")


def test_every_blob_opens_to_what_is_known_of_it() -> None:
    ran: Counter[str] = Counter()
    for vector in vectors():
        if vector["kind"] != "blob":
            continue
        blob = Blob.parse(bytes.fromhex(vector["blob_hex"]))
        plain = blob.open(MasterKey(master_key(vector)), entropy_of(vector))
        assert plain == first(vector, "plaintext_hex", "derived_plaintext_hex"), vector["id"]
        if said := vector.get("parsed"):
            assert said == {
                "master_key_guid": blob.master_key,
                "flags": hex(blob.flags),
                "description": blob.description.decode("utf-16-le").rstrip("\0"),
                "cipher": hex(blob.suite.cipher_id),
                "hash": hex(blob.suite.hash_id),
            }
        ran["real" if vector["real_windows"] else "minted"] += 1
    assert ran == {"real": 7, "minted": 12}


def test_a_blob_inside_a_blob_opens_with_the_users_key() -> None:
    by_id = {vector["id"]: vector for vector in vectors()}
    outer = by_id["nemesis-chrome137-app_bound-outer"]
    user = by_id["nemesis-chrome137-encrypted_key"]
    held = first(outer, "derived_plaintext_hex")
    assert held is not None
    inner = Blob.parse(held)
    assert inner.master_key == user["parsed"]["master_key_guid"]
    assert inner.open(MasterKey(master_key(user)))


def test_with_any_other_entropy_or_key_a_blob_of_windows_is_refused() -> None:
    for vector in vectors(real=True):
        if vector["kind"] != "blob":
            continue
        blob = Blob.parse(bytes.fromhex(vector["blob_hex"]))
        right, entropy = MasterKey(master_key(vector)), entropy_of(vector)
        for key, wrong in ((right, entropy + b"\0"), (MasterKey(bytes(64)), entropy)):
            with pytest.raises(NotOpenedError):
                blob.open(key, wrong)


def test_every_master_key_file_opens_with_each_of_its_credentials() -> None:
    ran: Counter[str] = Counter()
    done: set[tuple[str, str]] = set()
    for vector in vectors():
        if "master_key_file_hex" not in vector:
            continue
        file = MasterKeyFile.parse(bytes.fromhex(vector["master_key_file_hex"]))
        for name, (credential, _) in known_credentials(vector).items():
            assert credential(file) == MasterKey(master_key(vector)), (vector["id"], name)
            if (file.guid, name) not in done:
                done.add((file.guid, name))
                ran[f"{'real' if vector['real_windows'] else 'minted'}, {name}"] += 1
        if vector.get("parse_only"):
            ran["parsed only"] += 1
    assert ran == {
        "real, NT hash": 1,
        "real, domain backup key": 2,
        "real, DPAPI_SYSTEM": 2,
        "minted, password": 2,
        "minted, DPAPI_SYSTEM": 4,
        "parsed only": 1,
    }


def test_our_encoder_gives_windows_own_bytes() -> None:
    ran: Counter[str] = Counter()
    for vector in vectors():
        if vector["kind"] != "blob":
            continue
        data = bytes.fromhex(vector["blob_hex"])
        blob, key, entropy = Blob.parse(data), master_key(vector), entropy_of(vector)
        made = protect(
            blob.open(MasterKey(key), entropy),
            key,
            blob.master_key,
            entropy,
            suite=blob.suite,
            flags=blob.flags,
            description=blob.description,
            salts=(blob.salt, blob.nonce),
        )
        assert made == data, vector["id"]
        ran["real" if vector["real_windows"] else "minted"] += 1
    assert ran == {"real": 7, "minted": 12}


def test_our_encoder_gives_windows_own_block_of_a_master_key() -> None:
    made: set[str] = set()
    for vector in vectors():
        if "master_key_file_hex" not in vector:
            continue
        data = bytes.fromhex(vector["master_key_file_hex"])
        file = MasterKeyFile.parse(data)
        block = file.key
        for _, prekeys in known_credentials(vector).values():
            for prekey in prekeys:
                plain = block.decrypt(prekey)
                mac_end = SALT_BYTES + block.suite.digest_bytes
                if block.mac(prekey, plain[:SALT_BYTES], plain[-64:]) != plain[SALT_BYTES:mac_end]:
                    continue
                ours = key_block(
                    plain[-64:],
                    prekey,
                    suite=block.suite,
                    rounds=block.rounds,
                    salts=(block.salt, plain[:SALT_BYTES]),
                    filling=plain[mac_end:-64],
                )
                assert data[128 : 128 + len(ours)] == ours, vector["id"]
                made.add(file.guid)
    assert len(made) == 3 + 6  # of Windows, minted


def test_the_padding_of_windows_is_pkcs7_and_its_old_blobs_are_3des() -> None:
    old = [v for v in vectors(real=True) if v.get("parsed", {}).get("cipher") == "0x6603"]
    assert len(old) == 2
    for vector in old:
        blob = Blob.parse(bytes.fromhex(vector["blob_hex"]))
        assert blob.suite is TDES_SHA1
        plain = blob.open(MasterKey(master_key(vector)))
        padder = PKCS7(64).padder()
        assert len(padder.update(plain) + padder.finalize()) == len(blob.ciphertext)
