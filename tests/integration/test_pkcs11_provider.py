import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute, MechanismFlag, Session
from pkcs11 import exceptions as p11

from embedded.softhsm import SoftHsm
from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    DeniedError,
    KeyProvider,
    RefusedError,
    UnavailableError,
)
from keywrap.providers import pkcs11_token
from keywrap.providers.pkcs11 import Pkcs11KeyWrapProvider, Pkcs11Provider
from keywrap.providers.pkcs11_mechanisms import AesGcm, AesKw
from keywrap.providers.pkcs11_token import PinError, TokenAddress
from keywrap.testing.kms import ProviderConformance
from tests.hsms import (
    CONTEXT,
    DATA_KEY,
    KINDS,
    HsmToken,
    denied,
    everything,
    hidden,
    in_token,
    key_labelled,
    labels,
    put_key,
    refused,
    token_folder,
    with_key,
)


class TestAesGcm(ProviderConformance):
    items = 200

    @pytest.fixture
    def provider(self, hsm_token: HsmToken) -> KeyProvider:
        return with_key(hsm_token)


class TestAesKw(ProviderConformance):
    items = 200

    @pytest.fixture
    def provider(self, hsm_token: HsmToken) -> KeyProvider:
        return with_key(hsm_token, Pkcs11KeyWrapProvider)


@pytest.fixture
def provider(hsm_token: HsmToken) -> Pkcs11Provider:
    return with_key(hsm_token)


@pytest.fixture
def mover(hsm_token: HsmToken) -> Pkcs11KeyWrapProvider:
    provider = Pkcs11KeyWrapProvider(hsm_token.address, "moved-kek")
    provider.create_key()
    return provider


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest, hsm_token: HsmToken) -> Pkcs11Provider:
    return with_key(hsm_token, request.param)


@pytest.mark.parametrize("size", KEY_BYTES)
def test_a_gcm_wrap_is_nonce_ciphertext_and_tag_with_the_context_as_additional_data(
    provider: Pkcs11Provider, size: int
) -> None:
    kek = put_key(provider, "blob-kek:v2")
    data_key = DataKey(os.urandom(size))
    wrap = provider.wrap(data_key, CONTEXT)
    assert wrap.key_version == KeyVersion(provider.key, "2")
    opened = AESGCM(kek).decrypt(
        wrap.ciphertext[:12], wrap.ciphertext[12:], b'{"blob_id":"tenants/7/invoice.pdf"}'
    )
    assert opened == data_key.reveal()


@pytest.mark.parametrize("size", KEY_BYTES)
def test_a_kw_wrap_is_rfc_3394_under_a_key_derived_from_salt_and_context(
    mover: Pkcs11KeyWrapProvider, size: int
) -> None:
    kek = put_key(mover, "moved-kek:v2")
    data_key = DataKey(os.urandom(size))
    wrap = mover.wrap(data_key, CONTEXT).ciphertext
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"keywrap pkcs11 aes-kw 1\0" + wrap[:16])
    digest.update(b'{"blob_id":"tenants/7/invoice.pdf"}')
    cipher = Cipher(algorithms.AES(kek), modes.CBC(bytes(16))).encryptor()
    derived = cipher.update(digest.finalize()) + cipher.finalize()
    assert keywrap.aes_key_unwrap(derived, wrap[16:]) == data_key.reveal()


def test_making_a_provider_asks_nothing_of_the_token(hsm_token: HsmToken) -> None:
    address = TokenAddress(Path("/nonexistent"), hsm_token.label, lambda: pytest.fail("asked"))
    provider = Pkcs11Provider(address, "blob kek/ä")
    assert provider.requests == 0
    assert provider.key == f"pkcs11:token={hsm_token.label};object=blob%20kek%2F%C3%A4"
    assert KeyVersion.parse(f"{provider.key}?version=3").provider == "pkcs11"
    assert hsm_token.pin not in repr(vars(hsm_token.address.pin)) + repr(hsm_token)


def test_names_with_blanks_and_umlauts_are_found(softhsm: SoftHsm) -> None:
    token = HsmToken(softhsm, "Prüf HSM", softhsm.create_token("Prüf HSM"))
    provider = Pkcs11Provider(token.address, "blob kek/ä")
    provider.create_key()
    assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY


def test_a_key_never_leaves_the_token_and_does_nothing_but_its_mechanism(
    either: Pkcs11Provider,
) -> None:
    either.create_version()
    for label in ("blob-kek:v1", "blob-kek:v2"):
        with pkcs11_token.LOCK:
            key = key_labelled(either._token.session(), label)
            assert key[Attribute.ID] == label.encode()
            assert key[Attribute.NEVER_EXTRACTABLE]
            assert key[Attribute.ALWAYS_SENSITIVE]
            for flag in ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "DERIVE", "SIGN", "VERIFY"):
                allowed = bool(MechanismFlag[flag] & either._mechanism.capabilities)
                assert key[Attribute[flag]] == allowed, flag


def test_wraps_move_inside_the_token_and_leave_nothing_there(
    mover: Pkcs11KeyWrapProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [(mover.wrap(DATA_KEY, CONTEXT), CONTEXT) for _ in range(20)]
    newer = mover.create_version()
    with monkeypatch.context() as patch:
        patch.setattr(DataKey, "__init__", lambda *_: pytest.fail("a data key came out"))
        patch.setattr(mover._keys, "_round_trip", lambda _: None)  # it opens keys of its own
        patch.setattr(AesKw, "open", lambda *_: pytest.fail("a data key came out"))
        mover._keys._known_good.clear()
        moved = mover.rewrap_many([*items, (items[0][0], {"blob_id": "other"})][:20])
    assert all(isinstance(each, WrappedKey) and each.key_version == newer for each in moved)
    (bad,) = mover.rewrap_many([(items[0][0], {"blob_id": "other"})])
    assert isinstance(bad, RefusedError)
    assert bad.reason_code == "wrap_does_not_open"
    opened = mover.unwrap_many([(each, CONTEXT) for each in moved if isinstance(each, WrappedKey)])
    assert opened == [DATA_KEY] * 20
    left = {Attribute.TOKEN: False}
    assert in_token(mover, lambda session: list(session.get_objects(left))) == []


class TestPin:
    def test_a_wrong_pin_is_denied_and_tried_once_only(self, hsm_token: HsmToken) -> None:
        provider = with_pin(hsm_token, lambda: "not-the-pin")
        denied(provider.current_version, "pin_refused")
        with hidden(token_folder(hsm_token)):
            # Whoever asks the token again would be told that there is none.
            for act in everything(provider, WrappedKey(KeyVersion(provider.key, "1"), bytes(60))):
                denied(act, "pin_refused")
        assert with_key(hsm_token).current_version().version == "1"

    def test_a_wrong_pin_is_denied_also_where_the_process_is_logged_in(
        self, provider: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        denied(with_pin(hsm_token, lambda: "not-the-pin").current_version, "pin_refused")
        assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY

    def test_a_pin_that_is_put_right_is_read_again(self, hsm_token: HsmToken) -> None:
        pins = ["not-the-pin"]
        provider = with_pin(hsm_token, lambda: pins[-1])
        denied(provider.current_version, "pin_refused")
        pins.append(hsm_token.pin)
        assert provider.create_key().version == "1"

    def test_a_pin_that_cannot_be_read_is_denied(self, hsm_token: HsmToken) -> None:
        def missing() -> str:
            raise PinError("there is no PIN")

        denied(with_pin(hsm_token, missing).current_version, "pin_unreadable")


def with_pin(token: HsmToken, pin: Callable[[], str]) -> Pkcs11Provider:
    return Pkcs11Provider(TokenAddress(token.hsm.module, token.label, pin), "blob-kek")


class TestTrouble:
    def test_a_token_that_is_taken_out_is_unavailable_until_it_is_back(
        self, either: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        wrapped = either.wrap(DATA_KEY, CONTEXT)
        for folder in (token_folder(hsm_token), token_folder(hsm_token).parent):
            for act in [*everything(either, wrapped), either.current_version]:
                with hidden(folder), pytest.raises(UnavailableError):
                    act()
                assert either.unwrap(wrapped, CONTEXT) == DATA_KEY

    def test_a_missing_token_is_unavailable_and_says_where_to_look(
        self, hsm_token: HsmToken
    ) -> None:
        address = TokenAddress(hsm_token.hsm.module, "no-such-token", lambda: hsm_token.pin)
        error = refused(
            UnavailableError,
            Pkcs11Provider(address, "blob-kek").current_version,
            "token_not_found",
        )
        assert "SOFTHSM2_CONF" in str(error)

    def test_a_token_that_appears_later_is_found(self, softhsm: SoftHsm) -> None:
        label = f"later-{secrets.token_hex(4)}"
        pins: list[str] = []
        provider = Pkcs11Provider(
            TokenAddress(softhsm.module, label, lambda: pins[0] if pins else "none"), "blob-kek"
        )
        refused(UnavailableError, provider.current_version, "token_not_found")
        pins.append(softhsm.create_token(label))
        assert provider.create_key().version == "1"

    @pytest.mark.parametrize("lose", ["close", "finalize"])
    def test_a_session_that_is_lost_is_opened_anew(self, either: Pkcs11Provider, lose: str) -> None:
        wrapped = either.wrap(DATA_KEY, CONTEXT)
        for act in [*everything(either, wrapped), either.current_version, either.create_version]:
            with pkcs11_token.LOCK:
                if lose == "close":
                    either._token.session().close()
                else:
                    either._token._module.library().finalize()
            act()

    def test_a_version_is_never_made_twice_for_a_session_that_is_lost_meanwhile(
        self, provider: Pkcs11Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate = provider._keys.generate

        def lost(session: Session, version: str) -> None:
            generate(session, version)
            raise p11.DeviceError

        monkeypatch.setattr(provider._keys, "generate", lost)
        refused(UnavailableError, provider.create_version, "kms_unavailable")
        assert labels(provider) == ["blob-kek:v1", "blob-kek:v2"]

    def test_a_broken_token_quarantines_nothing(
        self, provider: Pkcs11Provider, hsm_token: HsmToken
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        (file,) = (f for f in token_folder(hsm_token).glob("*.object") if f.stem != "token")
        sound = file.read_bytes()
        # CKA_VALUE (0x11), a byte string (3) of 64 bytes: IV, encrypted key, padding.
        value = sound.index(bytes.fromhex("0000000000000011 0000000000000003 0000000000000040"))
        for place, kind in ((50, UnavailableError), (20, DeniedError)):
            broken = bytearray(sound)
            broken[value + 24 + place] ^= 0xFF
            file.write_bytes(broken)
            provider._token._module.forget()
            for act in everything(provider, wrapped):
                with pytest.raises(kind):
                    act()
        file.write_bytes(sound)
        provider._token._module.forget()
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY

    def test_a_file_that_is_no_module_is_denied(self, tmp_path: Path) -> None:
        file = tmp_path / "module.so"
        file.write_text("no library")
        provider = Pkcs11Provider(TokenAddress(file, "hsm", lambda: "1234"), "blob-kek")
        denied(provider.current_version, "module_unusable")


EVERY_ERROR = sorted(
    (
        each
        for each in vars(p11).values()
        if isinstance(each, type) and issubclass(each, p11.PKCS11Error)
    ),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_every_error_of_a_module_is_one_of_the_kinds_and_none_blames_a_sound_wrap(
    provider: Pkcs11Provider, error: type[p11.PKCS11Error], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = provider.wrap(DATA_KEY, CONTEXT)

    def fail(*_: object) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(AesGcm, "wrap", fail)
        patch.setattr(AesGcm, "open", fail)
        for act in everything(provider, wrapped):
            with pytest.raises((DeniedError, UnavailableError)):
                act()
    # Once, and it works again: not even then is the wrap refused.
    sound, failures = AesGcm.open, iter([error])

    def fail_once(self: AesGcm, *arguments: Any) -> bytes:
        for failure in failures:
            raise failure
        return sound(self, *arguments)

    monkeypatch.setattr(AesGcm, "open", fail_once)
    with suppress(DeniedError):
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY


def test_a_context_is_encoded_as_everywhere() -> None:
    assert canonical_context(CONTEXT) == b'{"blob_id":"tenants/7/invoice.pdf"}'
