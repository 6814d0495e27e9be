from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, Session
from pkcs11.attributes import AttributeMapper

from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, RefusedError, VersionSwitch
from keywrap.providers import pkcs11_token
from keywrap.providers.pkcs11 import Pkcs11KeyWrapProvider, Pkcs11Provider
from keywrap.providers.pkcs11_mechanisms import AesGcm
from tests.hsms import (
    CONTEXT,
    DATA_KEY,
    KINDS,
    HsmToken,
    denied,
    everything,
    in_token,
    key_labelled,
    labels,
    put_key,
    raised,
    refused,
    with_key,
)


@pytest.fixture
def provider(hsm_token: HsmToken) -> Pkcs11Provider:
    return with_key(hsm_token)


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest, hsm_token: HsmToken) -> Pkcs11Provider:
    return with_key(hsm_token, request.param)


class TestVersions:
    def test_a_missing_key_is_denied_and_never_made_in_passing(self, hsm_token: HsmToken) -> None:
        for kind in KINDS:
            provider = kind(hsm_token.address, "blob-kek")
            wrapped = WrappedKey(
                KeyVersion(provider.key, "1"), bytes(32 + provider._mechanism.overhead)
            )
            for act in [
                *everything(provider, wrapped),
                provider.current_version,
                provider.create_version,
            ]:
                denied(act, "key_not_found")
            assert labels(provider) == []

    def test_a_key_that_is_there_is_left_as_it_is(self, provider: Pkcs11Provider) -> None:
        denied(provider.create_key, "already_there")
        assert labels(provider) == ["blob-kek:v1"]

    def test_other_keys_of_the_token_are_no_versions(self, provider: Pkcs11Provider) -> None:
        for label in (
            "blob-kek:v02",
            "blob-kek:v0",
            "blob-kek:v2x",
            "xblob-kek:v7",
            "blob-kek",
            "blob-kek:v2:v9",
        ):
            put_key(provider, label)
        put_key(provider, "blob-kek:v3", KEY_TYPE=KeyType.GENERIC_SECRET)
        with pkcs11_token.LOCK:
            session = provider._token.session().token.open(rw=True, attribute_mapper=Latin())
            rename(session, "blob-kek", "bl\xf6b-kek")
            session.close()
        assert provider.current_version().version == "1"
        assert provider.create_version().version == "2"

    def test_a_version_after_a_gap_is_current(self, hsm_token: HsmToken) -> None:
        provider = with_key(hsm_token)
        put_key(provider, "blob-kek:v12")
        assert provider.current_version().version == "12"
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == "12"
        assert provider.create_version().version == "13"

    def test_two_keys_of_one_label_are_denied_and_a_rotation_goes_past_them(
        self, either: Pkcs11Provider
    ) -> None:
        old = either.wrap(DATA_KEY, CONTEXT)
        put_key(either, "blob-kek:v2")
        put_key(either, "blob-kek:v2")
        second = WrappedKey(KeyVersion(either.key, "2"), old.ciphertext)
        for act in everything(either, second):
            denied(act, "key_version_duplicate")
        assert either.unwrap(old, CONTEXT) == DATA_KEY
        assert either.create_version().version == "3"
        assert either.unwrap(either.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY

    def test_a_version_that_another_host_makes_at_once_is_seen_and_not_used(
        self, provider: Pkcs11Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate = provider._keys.generate

        def twice(session: Session, version: str) -> None:
            generate(session, version)
            generate(session, version)

        monkeypatch.setattr(provider._keys, "generate", twice)
        denied(provider.create_version, "key_version_duplicate")
        denied(lambda: provider.wrap(DATA_KEY, CONTEXT), "key_version_duplicate")
        assert labels(provider) == ["blob-kek:v1", "blob-kek:v2", "blob-kek:v2"], "none destroyed"

    def test_a_key_that_was_relabelled_is_denied(
        self, provider: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        old = provider.wrap(DATA_KEY, CONTEXT)
        put_key(provider, "other")
        in_token(provider, lambda session: rename(session, "blob-kek:v1", "blob-kek:v2"))
        in_token(provider, lambda session: rename(session, "other", "blob-kek:v1"))
        fresh = Pkcs11Provider(hsm_token.address, "blob-kek")
        denied(lambda: fresh.wrap(DATA_KEY, CONTEXT), "key_version_relabelled")
        # The other one tells nothing by its id, so that it passes until its wraps do not open.
        refused(RefusedError, lambda: fresh.unwrap(old, CONTEXT), "wrap_does_not_open")

    def test_a_key_whose_check_value_is_another_is_denied(
        self, either: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        old = either.wrap(DATA_KEY, CONTEXT)
        in_token(either, lambda session: key_labelled(session, "blob-kek:v1").destroy())
        put_key(either, "blob-kek:v1")
        for act in everything(either, old):
            denied(act, "key_check_value")
        kind = type(either)
        wrong = kind(hsm_token.address, "blob-kek", check_values={"1": "000000"})
        denied(lambda: wrong.wrap(DATA_KEY, CONTEXT), "key_check_value")
        right = kind(hsm_token.address, "blob-kek", check_values={"1": check_value(either)})
        right.wrap(DATA_KEY, CONTEXT)

    @pytest.mark.parametrize(
        ("changed", "reason_code"),
        [
            ({"EXTRACTABLE": True}, "key_unfit"),
            ({"SENSITIVE": False}, "key_unfit"),
            ({"value": bytes(16)}, "key_unfit"),
        ],
    )
    def test_a_key_that_is_not_fit_wraps_nothing(
        self, either: Pkcs11Provider, changed: dict[str, Any], reason_code: str
    ) -> None:
        put_key(either, "blob-kek:v2", **changed)
        denied(lambda: either.wrap(DATA_KEY, CONTEXT), reason_code)

    def test_a_key_of_the_other_mechanism_is_denied(
        self, provider: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        other = Pkcs11KeyWrapProvider(hsm_token.address, "blob-kek")
        wrapped = WrappedKey(provider.current_version(), bytes(56))
        for act in everything(other, wrapped):
            denied(act, "version_disabled")

    def test_a_key_whose_making_was_cut_off_is_no_version(
        self, either: Pkcs11Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(either._keys, "_examine", lambda *_: next(iter(())))
            with pytest.raises(StopIteration):
                either.create_version()
        assert labels(either) == ["blob-kek:new", "blob-kek:v1"]
        assert either.wrap(DATA_KEY, CONTEXT).key_version.version == "1"
        assert either.create_version().version == "2"

    def test_a_token_without_the_mechanism_gets_no_key(
        self, provider: Pkcs11Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(AesGcm, "needs", frozenset({Mechanism.AES_CCM}))
        assert "CKM_AES_CCM" in str(denied(provider.create_version, "mechanism_missing"))
        assert labels(provider) == ["blob-kek:v1"]


class Latin(AttributeMapper):
    """Writes labels as no UTF-8, as the standard wants it, would be."""

    def pack_attribute(self, key: Attribute, value: Any) -> bytes:
        return (
            value.encode("latin-1")
            if key == Attribute.LABEL
            else super().pack_attribute(key, value)
        )


def rename(session: Session, label: str, name: str) -> None:
    key_labelled(session, label)[Attribute.LABEL] = name


def check_value(provider: Pkcs11Provider) -> str:
    def read(session: Session) -> str:
        return str(key_labelled(session, "blob-kek:v1")[Attribute.CHECK_VALUE].hex())

    return str(in_token(provider, read))


class TestSwitch:
    def test_nothing_is_opened_or_moved_under_a_disabled_version_until_it_is_enabled(
        self, either: Pkcs11Provider
    ) -> None:
        assert isinstance(either, VersionSwitch)
        old = either.wrap(DATA_KEY, CONTEXT)
        either.create_version()
        new = either.wrap(DATA_KEY, CONTEXT)
        for _ in range(2):
            either.disable_version(old.key_version)
        items: list[tuple[WrappedKey, Context]] = [(new, CONTEXT), (old, CONTEXT), (new, CONTEXT)]
        opened, *others = either.unwrap_many(items)
        assert opened == DATA_KEY
        for act in (
            lambda: either.unwrap(old, CONTEXT),
            lambda: raised(others[:1]),
            lambda: raised(others[1:]),
        ):
            denied(act, "version_disabled")
        if isinstance(either, Pkcs11KeyWrapProvider):
            denied(lambda: raised(either.rewrap_many([(old, CONTEXT)])), "version_disabled")
        for _ in range(2):
            either.enable_version(old.key_version)
        assert either.unwrap(old, CONTEXT) == DATA_KEY

    def test_a_switch_by_another_provider_is_seen_at_once(
        self, either: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        old = either.wrap(DATA_KEY, CONTEXT)
        other = type(either)(hsm_token.address, "blob-kek")
        other.create_version()
        other.disable_version(old.key_version)
        fresh = type(either)(hsm_token.address, "blob-kek")  # knows it only as disabled
        for each in (either, fresh):
            denied(lambda each=each: each.unwrap(old, CONTEXT), "version_disabled")
        other.enable_version(old.key_version)
        for each in (either, fresh):
            assert each.unwrap(old, CONTEXT) == DATA_KEY

    def test_the_current_version_and_an_unknown_one_are_not_switched(
        self, provider: Pkcs11Provider
    ) -> None:
        current = provider.current_version()
        denied(lambda: provider.disable_version(current), "version_is_current")
        for unknown in (KeyVersion(provider.key, "7"), KeyVersion("pkcs11:token=a;object=b", "1")):
            refused(
                RefusedError, lambda u=unknown: provider.disable_version(u), "key_version_unknown"
            )
        assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY

    def test_a_current_version_that_somebody_else_disabled_wraps_nothing(
        self, provider: Pkcs11Provider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        with pkcs11_token.LOCK, provider._token.writing() as session:
            key_labelled(session, "blob-kek:v1")[Attribute.ENCRYPT] = False
        denied(lambda: provider.wrap(DATA_KEY, CONTEXT), "version_disabled")
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY

    def test_a_key_whose_attributes_are_fixed_is_not_switched(self, either: Pkcs11Provider) -> None:
        put_key(either, "blob-kek:v2", MODIFIABLE=False)
        put_key(either, "blob-kek:v3")
        fixed = KeyVersion(either.key, "2")
        denied(lambda: either.disable_version(fixed), "version_not_switchable")
        assert KeyRing([either]).provider(either.key).current_version().version == "3"
