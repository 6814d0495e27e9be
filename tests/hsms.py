"""Tokens of a real SoftHSM2, and what a configuration needs to use them."""

import os
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass, Session

from embedded.errors import EmbeddedError
from embedded.softhsm import SoftHsm
from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.kms import DeniedError, KmsError
from keywrap.providers import pkcs11_token
from keywrap.providers.pkcs11 import Pkcs11KeyWrapProvider, Pkcs11Provider
from keywrap.providers.pkcs11_token import TokenAddress
from keywrap.providers.pkcs11_uri import SCHEME, key_path

PIN_VARIABLE = "HSM_PIN"
CONTEXT = {"blob_id": "tenants/7/invoice.pdf"}
DATA_KEY = DataKey(bytes(range(32)))

Kind = type[Pkcs11Provider]
KINDS: list[Kind] = [Pkcs11Provider, Pkcs11KeyWrapProvider]


@dataclass(frozen=True)
class HsmToken:
    """A token of SoftHSM2.

    Attributes:
        hsm: the SoftHSM2 that has it.
        label: its label.
        pin: the PIN of its normal user.
    """

    hsm: SoftHsm
    label: str
    pin: str = field(repr=False)

    @property
    def address(self) -> TokenAddress:
        """What a provider needs to reach it."""
        return TokenAddress(self.hsm.module, self.label, lambda: self.pin)


@dataclass(frozen=True)
class HsmKey:
    """A KEK with its first version in a token, as a site lists it.

    Attributes:
        uri: the KEK's URI.
        toml: its table in `rewrap.toml`.
        environment: what its processes need in their environment, the PIN included.
    """

    uri: str
    toml: str
    environment: dict[str, str] = field(repr=False)


def make_key(token: HsmToken, family: str = "blob-kek", mechanism: str = "aes-gcm") -> HsmKey:
    """Make a KEK in a token, for the tests that go by the command line."""
    kind: Kind = Pkcs11KeyWrapProvider if mechanism == "aes-kw" else Pkcs11Provider
    kind(token.address, family).create_key()
    path = key_path(token.label, family)
    toml = (
        f'[keys.pkcs11."{path}"]\nmodule = "{token.hsm.module}"\n'
        f'pin_env = "{PIN_VARIABLE}"\nmechanism = "{mechanism}"\n'
    )
    return HsmKey(SCHEME + path, toml, {**token.hsm.environment, PIN_VARIABLE: token.pin})


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """SoftHSM2, which this process and its children find their tokens through."""
    folder: Path = tmp_path_factory.mktemp("softhsm") / "hsm"
    try:
        hsm = SoftHsm.install(folder)
    except EmbeddedError as error:
        pytest.skip(f"NOT TESTED: nothing of PKCS#11. {error}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hsm.environment.items():
            patch.setenv(name, value)
        yield hsm


@pytest.fixture
def hsm_token(softhsm: SoftHsm) -> HsmToken:
    """A new token without keys."""
    label = f"hsm-{uuid.uuid4().hex[:12]}"
    return HsmToken(softhsm, label, softhsm.create_token(label))


def with_key(token: HsmToken, kind: Kind = Pkcs11Provider) -> Pkcs11Provider:
    provider = kind(token.address, "blob-kek")
    provider.create_key()
    return provider


def in_token(provider: Pkcs11Provider, act: Callable[[Session], Any]) -> Any:
    """Do what an operator would with another tool: nothing of the provider notices."""
    with pkcs11_token.LOCK, provider._token.writing() as session:
        return act(session)


def put_key(provider: Pkcs11Provider, label: str, value: bytes = b"", **changed: Any) -> bytes:
    """Put a KEK of a known value into the token; returns the value."""
    value = value or os.urandom(32)
    allowed = MechanismFlag.DERIVE in provider._mechanism.capabilities
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.VALUE: value,
        Attribute.LABEL: label,
        Attribute.ID: label.encode(),
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.ENCRYPT: not allowed,
        Attribute.DECRYPT: not allowed,
        Attribute.DERIVE: allowed,
    } | {Attribute[name]: setting for name, setting in changed.items()}
    in_token(provider, lambda session: session.create_object(template))
    return value


def key_labelled(session: Session, label: str) -> Any:
    (key,) = list(session.get_objects({Attribute.LABEL: label}))
    return key


def labels(provider: Pkcs11Provider) -> list[str]:
    keys = in_token(
        provider, lambda session: [each[Attribute.LABEL] for each in list(session.get_objects())]
    )
    return sorted(keys)


def refused(kind: type[KmsError], act: Callable[[], object], reason_code: str) -> KmsError:
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.reason_code == reason_code
    shown = "".join(traceback.format_exception(caught.value))
    assert DATA_KEY.reveal().hex() not in shown
    assert repr(DATA_KEY.reveal()) not in shown
    return caught.value


def denied(act: Callable[[], object], reason_code: str) -> KmsError:
    return refused(DeniedError, act, reason_code)


def everything(provider: Pkcs11Provider, wrapped: WrappedKey) -> list[Callable[[], object]]:
    acts: list[Callable[[], object]] = [
        lambda: provider.wrap(DATA_KEY, CONTEXT),
        lambda: provider.unwrap(wrapped, CONTEXT),
    ]
    if isinstance(provider, Pkcs11KeyWrapProvider):
        acts.append(lambda: raised(provider.rewrap_many([(wrapped, CONTEXT)])))
    return acts


def raised(results: list[Any]) -> None:
    for each in results:
        if isinstance(each, KmsError):
            raise each


def token_folder(token: HsmToken) -> Path:
    needle = token.label.encode()
    (folder,) = (
        each
        for each in (token.hsm.directory / "tokens").iterdir()
        if needle in (each / "token.object").read_bytes()
    )
    return folder


@contextmanager
def hidden(folder: Path) -> Iterator[None]:
    """Take away a token, or all of them."""
    away = folder.parent.parent / f"{folder.name}-away"
    folder.rename(away)
    try:
        yield
    finally:
        away.rename(folder)
