"""Worlds under attack: whatever is asked of the key service and tried on the store is watched."""

import base64
from dataclasses import replace
from functools import cache
from typing import Any

from keywrap.blobs import EncryptedBlobs
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider
from keywrap.providers.aws import SCHEME, AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.rewrapping import Outcome, Prove, Result
from keywrap.testing.aws_kms import Corruption, StrictKms
from keywrap.testing.aws_kms_hook import attach
from keywrap.testing.aws_kms_keys import KeyState
from keywrap.testing.kms import MemoryKeyProvider
from tests.hostiles import WatchedStore
from tests.worlds import KEK, World, by_id

REGION = "eu-west-1"
ATTACKER_KEK = "hcvault://memory/attacker"
_HEALTHY = 3


class Installation(World):
    """A world with healthy blobs in it, and a KEK of the service that is not listed.

    Attributes:
        watched: the store that campaigns use.
        attacker: wraps under the unlisted KEK.
        unopened: reason codes by what was done to a wrap; services differ in what they tell.
    """

    attacker: KeyProvider
    unopened: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.watched = WatchedStore(self.store)
        self.reader = replace(self.reader, store=self.watched)

    def settle(self) -> None:
        """Plant the healthy neighbours."""
        for n in range(_HEALTHY):
            self.plant("managed", f"good/managed-{n}")
            self.plant("wrapped", f"good/wrapped-{n}")
            self.plant("direct", f"good/direct-{n}")

    def turn(self) -> KeyVersion:
        """Give the KEK a new version and return it."""
        raise NotImplementedError

    def no_version(self) -> str:
        """Return a version that the KEK never had and never will."""
        raise NotImplementedError

    def bar_key_of(self, blob_id: str) -> None:
        """Disable the KEK version of a blob; where versions cannot be, another KEK is its own."""
        raise NotImplementedError

    def answer_late(self) -> None:
        """Let the next new wrap come from the version before the current one."""
        raise NotImplementedError

    def answer_wrongly(self) -> None:
        """Let the next new wrap be a sound one of another data key."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget which keys were asked for."""
        raise NotImplementedError

    def asked(self) -> set[str]:
        """Return the URIs of the keys that the service was asked for."""
        raise NotImplementedError

    def plant_records(self, blob_id: str, kind: str) -> None:
        """Plant a blob whose content has the legacy format, under a data key of its own."""
        self.plant(kind, blob_id)
        data_key = DataKey.generate()
        provider = self.kek if kind == "managed" else self.wrapping
        self.write_content(blob_id, self.originals[blob_id], data_key, "records-v1")
        self.relabel(blob_id, provider, data_key, content="records-v1")

    def relabel(
        self, blob_id: str, provider: KeyProvider, data_key: DataKey, **fields: object
    ) -> None:
        """Replace a blob's wrap by one of a provider, with the blob's own context."""
        wrapped = provider.wrap(data_key, {"blob_id": blob_id})
        self.edit(
            blob_id,
            key_id=str(wrapped.key_version),
            wrapped_dek=base64.b64encode(wrapped.ciphertext).decode(),
            **fields,
        )

    def data_key(self, blob_id: str) -> DataKey:
        """Open a blob's wrap, past whatever watches."""
        wrapped = self.app.reader.read(blob_id).wrapped
        provider = self.keys.provider(wrapped.key_version.key)
        return provider.unwrap(wrapped, {"blob_id": blob_id})


class MemoryInstallation(Installation):
    """An installation on the strict key service in memory."""

    unopened = {  # noqa: RUF012 - a table
        "another key": "wrap_does_not_open",
        "another version": "wrap_does_not_open",
        "version to come": "key_version_unknown",
        "legacy length": "wrap_does_not_open",
    }

    def __init__(self) -> None:
        super().__init__()
        self.attacker = MemoryKeyProvider(self.kms, ATTACKER_KEK)
        self._asked: set[str] = set()
        find = self.kms._key

        def watch(key: str) -> object:
            self._asked.add(key)
            return find(key)

        self.kms._key = watch
        self.settle()

    def turn(self) -> KeyVersion:
        return self.kms.rotate(KEK)

    def no_version(self) -> str:
        return "0"

    def bar_key_of(self, _blob_id: str) -> None:
        self.kms.disable_version(self.target)

    def answer_late(self) -> None:
        self.kms.wrong_version_next()

    def answer_wrongly(self) -> None:
        self.kms.corrupt_next_wrap()

    def forget(self) -> None:
        self._asked.clear()

    def asked(self) -> set[str]:
        return set(self._asked)


class _Relay:
    """Answers with the service of the installation that was made last."""

    kms: StrictKms

    def answer(self, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return self.kms.answer(target, body)


@cache
def _client() -> tuple[Any, _Relay]:
    """Make a client once: a third of a second each."""
    client, relay = kms_client(REGION, AwsAccess()), _Relay()
    attach(client, relay)
    return client, relay


class AwsInstallation(Installation):
    """An installation on the strict reference of AWS KMS, behind the real boto3 client."""

    unopened = {  # noqa: RUF012 - a table
        "another key": "wrap_of_another_key",
        "another version": "wrap_of_another_version",
        "version to come": "wrap_of_another_version",
        "legacy length": "wrap_length",
    }

    def __init__(self) -> None:
        super().__init__()
        self.strict = StrictKms(REGION)
        client, relay = _client()
        relay.kms = self.strict
        arns = [self.strict.create_key() for _ in range(3)]
        listed = frozenset(f"{SCHEME}{arn}" for arn in arns[:2])
        self.kek, self.other_kek, self.attacker = (
            AwsKeyProvider(arn, lambda: client, siblings=listed) for arn in arns
        )
        providers = [self.kek, self.other_kek, self.direct, self.wrapping]
        self.keys = KeyRing(providers, primary=self.kek.key)
        self.app = EncryptedBlobs(self.app.reader, self.keys, self.legacy_content)
        self.settle()

    @property
    def target(self) -> KeyVersion:
        return self.kek.current_version()

    def _arn(self, key: str) -> str:
        return key.removeprefix(SCHEME)

    def turn(self) -> KeyVersion:
        self.strict.rotate(self._arn(self.kek.key))
        return self.target

    def no_version(self) -> str:
        return "f" * 64

    def bar_key_of(self, blob_id: str) -> None:
        self.relabel(blob_id, self.other_kek, self.data_key(blob_id))
        self.strict.set_state(self._arn(self.other_kek.key), KeyState.DISABLED)

    def answer_late(self) -> None:
        for operation in ("Encrypt", "ReEncrypt"):
            self.strict.faults.corrupt_next(Corruption.STALE_MATERIAL, operation=operation)

    def answer_wrongly(self) -> None:
        self.strict.faults.corrupt_next(Corruption.ANOTHER_DATA_KEY, operation="Encrypt")

    def forget(self) -> None:
        self.strict.trail.clear()

    def asked(self) -> set[str]:
        return {f"{SCHEME}{arn}" for event in self.strict.trail for arn in event.keys}


def strike(
    world: Installation, *blob_ids: str, migrate: bool = False, prove: Prove = Prove.ALL
) -> dict[str, tuple[Outcome, str]]:
    """Move blobs that were tampered with among the healthy ones, in one batch.

    Sees that each healthy blob moves and opens, that nothing but sidecars of moved blobs was
    written or tried, and that no key was asked for that is not listed.

    Returns:
        Outcome and reason code of each blob that was tampered with.
    """
    kinds = ("wrapped", "direct") if migrate else ("managed",)
    healthy = [f"good/{kind}-{n}" for kind in kinds for n in range(_HEALTHY)]
    results = _run(world, [healthy[0], *blob_ids, *healthy[1:]], migrate=migrate, prove=prove)
    assert {results[b].outcome for b in healthy} == {Outcome.REWRAPPED}
    for blob_id in healthy:
        assert world.app.get(blob_id) == world.originals[blob_id]
        assert world.app.reader.read(blob_id).wrapped.key_version == world.target
    return {b: (results[b].outcome, results[b].reason_code) for b in blob_ids}


def _run(
    world: Installation, blob_ids: list[str], *, migrate: bool, prove: Prove
) -> dict[str, Result]:
    campaign = world.migrate if migrate else world.rotate
    before = dict(world.store._objects)
    world.forget()
    world.watched.tried.clear()
    report = campaign(*blob_ids, prove=prove)
    assert report.interruption is None
    results = by_id(report)
    assert results.keys() == set(blob_ids)
    assert world.asked() <= set(world.keys.keys()), "a key that is not listed was asked for"
    moved = {
        world.layout.sidecar_name(b)
        for b, result in results.items()
        if result.outcome is Outcome.REWRAPPED
    }
    assert set(world.watched.tried) == moved
    after = world.store._objects
    assert {n: d for n, d in after.items() if n not in moved} == {
        n: d for n, d in before.items() if n not in moved
    }
    return results
