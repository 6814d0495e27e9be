"""Opens blobs of a folder from the formats' descriptions: nothing of `keywrap`."""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.plaincontents import open_content

_NONCE = 12


class PlainFiles:
    """Reads blobs of a folder as another application would.

    Args:
        folder: where the blobs lie.
        key_file: the local KEK.
        environment: has the legacy keys.
    """

    def __init__(self, folder: Path, key_file: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._key_file = key_file
        self._direct = binascii.unhexlify(environment["BLOB_KEY"])
        self._wrapping = AESGCM(binascii.unhexlify(environment["OLD_KEK"]))
        self._versions: dict[str, AESGCM] = {}

    def open(self, blob_id: str) -> bytes:
        """Return a blob's plaintext."""
        record = self._sidecar(blob_id)
        generation = f".~{record['object']}" if "object" in record else ""
        sealed = (self._folder / f"{blob_id}{generation}").read_bytes()
        form = record.get("content", "records-v1")
        return open_content(form, self._data_key(blob_id, record), sealed)

    def key_id(self, blob_id: str) -> str:
        """Return the key id of a blob's sidecar; empty where it names none."""
        return str(self._sidecar(blob_id).get("key_id", ""))

    def _sidecar(self, blob_id: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(
                (self._folder / f"{blob_id}.sidecar.json").read_bytes()
            )
        except FileNotFoundError:
            return {}
        return record

    def _data_key(self, blob_id: str, record: Mapping[str, Any]) -> bytes:
        if "wrapped_dek" not in record:
            return self._direct
        wrap = base64.b64decode(record["wrapped_dek"])
        nonce, sealed = wrap[:_NONCE], wrap[_NONCE:]
        key_id = record["key_id"]
        if key_id == "env:OLD_KEK":
            return self._wrapping.decrypt(nonce, sealed, None)
        bound = json.dumps({"blob_id": blob_id}, separators=(",", ":"), ensure_ascii=False)
        return self._version(key_id).decrypt(nonce, sealed, f"{key_id}\0{bound}".encode())

    def _version(self, key_id: str) -> AESGCM:
        if key_id not in self._versions:
            file = json.loads(self._key_file.read_bytes())
            for each in file["versions"]:
                name = f"local:{file['key']}?version={each['version']}-{each['id'][:8]}"
                self._versions[name] = AESGCM(base64.b64decode(each["key"]))
        return self._versions[key_id]
