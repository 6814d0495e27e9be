# ruff: noqa: S101, D102 - a conformance suite asserts; a test's name is its sentence
"""What every key provider must pass, as tests that pytest finds; needs no pytest to import."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar
from unittest import SkipTest

from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    Context,
    DataKeyGenerator,
    KeyProvider,
    KmsError,
    ProofFailedError,
    RefusedError,
    ServerSideRewrap,
    VersionCreator,
    VersionOrder,
    unwrap_many,
    wrap_many,
)


class ProviderConformance:
    """What every key provider must pass.

    A test class of a provider inherits from it and has a fixture `provider`. What the provider
    cannot do by its Protocols is skipped by itself; a known gap is declared with its reason:

        class TestKeyService(ProviderConformance):
            known_gaps = {"test_…": "why"}

    Where the service behind the provider can be made to return a sound wrap of another data key,
    the class overrides `corrupt_next_wrap`, so that `proves_wraps` is put to the test.
    """

    known_gaps: ClassVar[Mapping[str, str]] = {}
    context: ClassVar[Context] = {"blob_id": "tenants/7/Rechnung März.pdf"}
    items: ClassVar[int] = 1000
    """How many make a large batch; fewer where each is a request of its own."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name, reason in cls.known_gaps.items():
            getattr(cls, name)  # a gap that names no test is a mistake
            setattr(cls, name, _skipping(reason))

    def corrupt_next_wrap(self, provider: KeyProvider) -> None:
        """Let the service return, next time, a sound wrap of another data key."""
        raise SkipTest(f"the service of {provider.key} cannot be made to corrupt a wrap")

    def test_a_wrapped_key_of_every_length_opens_again(self, provider: KeyProvider) -> None:
        for size in KEY_BYTES:
            data_key = DataKey(os.urandom(size))
            assert provider.unwrap(provider.wrap(data_key, self.context), self.context) == data_key

    def test_a_wrap_names_the_key_and_its_current_version(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        assert wrapped.key_version == provider.current_version()
        assert wrapped.key_version.key == provider.key
        assert KeyVersion.parse(str(wrapped.key_version)) == wrapped.key_version

    def test_two_wraps_of_one_key_differ(self, provider: KeyProvider) -> None:
        data_key = DataKey.generate()
        assert provider.wrap(data_key, self.context) != provider.wrap(data_key, self.context)

    def test_another_context_is_refused_where_context_is_bound(self, provider: KeyProvider) -> None:
        if not provider.binds_context:
            raise SkipTest("binds no context")
        wrapped = provider.wrap(DataKey.generate(), self.context)
        for context in ({"blob_id": "other"}, {}, {**self.context, "more": ""}):
            _refusal(provider, wrapped, context)

    def test_the_order_of_a_context_does_not_matter(self, provider: KeyProvider) -> None:
        data_key = DataKey.generate()
        wrapped = provider.wrap(data_key, {"a": "1", "b": "2"})
        assert provider.unwrap(wrapped, {"b": "2", "a": "1"}) == data_key

    def test_a_wrap_altered_at_any_place_is_refused(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        for place in (0, len(wrapped.ciphertext) // 2, len(wrapped.ciphertext) - 1):
            altered = bytearray(wrapped.ciphertext)
            altered[place] ^= 1
            _refusal(provider, replace(wrapped, ciphertext=bytes(altered)), self.context)

    def test_a_wrap_of_another_length_is_refused(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        whole = wrapped.ciphertext
        for ciphertext in (b"", whole[:1], whole[:27], whole[:-1], whole + b"\0", whole * 2):
            _refusal(provider, replace(wrapped, ciphertext=ciphertext), self.context)

    def test_a_wrap_that_names_another_key_is_refused(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        foreign = KeyVersion(provider.key + "-other", wrapped.key_version.version)
        _refusal(provider, replace(wrapped, key_version=foreign), self.context)

    def test_a_wrap_that_names_no_version_of_the_key_is_refused(
        self, provider: KeyProvider
    ) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        true_version = wrapped.key_version.version
        others = {"", "0", "00", "01", "7000", "latest", "9" * 40, "0" * 64, "F" * 64}
        for version in others - {true_version}:
            label = KeyVersion(provider.key, version)
            _refusal(provider, replace(wrapped, key_version=label), self.context)

    def test_a_wrap_under_the_label_of_another_version_is_refused(
        self, provider: KeyProvider
    ) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        newer = _creator(provider).create_version()
        _refusal(provider, replace(wrapped, key_version=newer), self.context)

    def test_a_new_version_is_current_and_old_wraps_still_open(self, provider: KeyProvider) -> None:
        data_key = DataKey.generate()
        old = provider.wrap(data_key, self.context)
        newer = _creator(provider).create_version()
        assert newer != old.key_version
        ring = KeyRing([provider])
        assert ring.reaches(newer, old.key_version)
        assert not ring.reaches(old.key_version, newer)
        assert provider.current_version() == newer
        assert provider.wrap(data_key, self.context).key_version == newer
        assert provider.unwrap(old, self.context) == data_key

    def test_rewrapping_moves_a_wrap_to_the_current_version_and_keeps_key_and_context(
        self, provider: KeyProvider
    ) -> None:
        rewrapper, data_key = _rewrapper(provider), DataKey.generate()
        old = provider.wrap(data_key, self.context)
        newer = _creator(provider).create_version()
        (moved,) = rewrapper.rewrap_many([(old, self.context)])
        assert isinstance(moved, WrappedKey)
        assert moved.key_version == newer
        assert provider.unwrap(moved, self.context) == data_key
        if provider.binds_context:
            _refusal(provider, moved, {"blob_id": "other"})
            (refused,) = rewrapper.rewrap_many([(old, {"blob_id": "other"})])
            assert isinstance(refused, RefusedError)

    def test_wraps_of_no_key_but_those_it_names_are_moved(self, provider: KeyProvider) -> None:
        rewrapper = _rewrapper(provider)
        assert rewrapper.rewraps_from(provider.key)
        wrapped = provider.wrap(DataKey.generate(), self.context)
        for key in ("", "env:OTHER", provider.key + "-other", provider.key[:-1]):
            assert not rewrapper.rewraps_from(key)
            foreign = replace(wrapped, key_version=KeyVersion(key, wrapped.key_version.version))
            (refused,) = rewrapper.rewrap_many([(foreign, self.context)])
            assert isinstance(refused, RefusedError)

    def test_where_names_of_versions_have_no_order_the_provider_knows_it(
        self, provider: KeyProvider
    ) -> None:
        if not isinstance(provider, VersionOrder):
            raise SkipTest("its versions are counted")
        creator = _creator(provider)
        first, second, third = (
            provider.current_version().version,
            creator.create_version().version,
            creator.create_version().version,
        )
        for older, newer in ((first, second), (second, third), (first, third)):
            assert provider.is_newer(newer, than=older)
            assert not provider.is_newer(older, than=newer)
        for unknown in ("", "0", "0" * 64, first + "x", third + "0"):
            assert not provider.is_newer(unknown, than=first)
            assert not provider.is_newer(third, than=unknown)
        assert not provider.is_newer(third, than=third)

    def test_a_provider_that_proves_wraps_lets_none_of_another_data_key_pass(
        self, provider: KeyProvider
    ) -> None:
        data_key = DataKey.generate()
        wraps: tuple[Callable[[], WrappedKey], ...] = (
            lambda: provider.wrap(data_key, self.context),
            lambda: _sound(wrap_many(provider, [(data_key, self.context)]))[0],
        )
        for wrap in wraps:
            self.corrupt_next_wrap(provider)
            try:
                wrapped = wrap()
            except ProofFailedError:
                assert provider.proves_wraps, "it proves wraps, and says that it does not"
            else:
                assert provider.unwrap(wrapped, self.context) != data_key, "nothing was corrupted"
                assert not provider.proves_wraps, "a wrap of another data key passed for proved"

    def test_a_generated_data_key_is_new_and_its_wrap_opens_to_it_alone(
        self, provider: KeyProvider
    ) -> None:
        if not isinstance(provider, DataKeyGenerator):
            raise SkipTest("generates no data keys")
        data_key, wrapped = provider.generate_data_key(self.context)
        assert len(data_key.reveal()) == max(KEY_BYTES)
        assert wrapped.key_version == provider.current_version()
        assert provider.unwrap(wrapped, self.context) == data_key
        assert provider.generate_data_key(self.context)[0] != data_key
        if provider.binds_context:
            _refusal(provider, wrapped, {"blob_id": "other"})

    def test_the_requests_to_a_service_are_counted(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        for act in (
            provider.current_version,
            lambda: provider.wrap(DataKey.generate(), self.context),
            lambda: provider.unwrap(wrapped, self.context),
        ):
            before = provider.requests
            act()
            # Of the kinds of key, only these stay with this process: nobody is asked.
            asked = KeyVersion(provider.key).provider not in {"env", "dpapi", "local"}
            assert (provider.requests > before) == asked

    def test_one_bad_wrap_of_a_batch_leaves_the_others(self, provider: KeyProvider) -> None:
        keys = [DataKey.generate() for _ in range(5)]
        items = [(provider.wrap(data_key, self.context), self.context) for data_key in keys]
        bad = bytes(len(items[2][0].ciphertext))
        items[2] = (replace(items[2][0], ciphertext=bad), self.context)
        items[4] = (replace(items[4][0], key_version=KeyVersion("env:OTHER")), self.context)
        opened = unwrap_many(provider, items)
        assert [opened[0], opened[1], opened[3]] == [keys[0], keys[1], keys[3]]
        assert all(isinstance(opened[place], RefusedError) for place in (2, 4))
        if isinstance(provider, ServerSideRewrap):
            moved = provider.rewrap_many(items)
            assert [isinstance(each, RefusedError) for each in moved] == [0, 0, 1, 0, 1]

    def test_a_batch_of_only_bad_wraps_is_refused_one_by_one(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(DataKey.generate(), self.context)
        bad = replace(wrapped, ciphertext=bytes(len(wrapped.ciphertext)))
        opened = unwrap_many(provider, [(bad, self.context)] * 3)
        assert [type(each) for each in opened] == [RefusedError] * 3

    def test_many_items_come_back_in_their_order(self, provider: KeyProvider) -> None:
        keys = [DataKey.generate() for _ in range(self.items)]
        contexts = [{"blob_id": f"blob-{place}"} for place in range(self.items)]
        wraps = wrap_many(provider, list(zip(keys, contexts, strict=True)))
        if isinstance(provider, ServerSideRewrap):
            wraps = provider.rewrap_many(list(zip(_sound(wraps), contexts, strict=True)))
        opened = unwrap_many(provider, list(zip(_sound(wraps), contexts, strict=True)))
        assert opened == keys

    def test_no_items_give_no_results(self, provider: KeyProvider) -> None:
        assert wrap_many(provider, []) == []
        assert unwrap_many(provider, []) == []
        if isinstance(provider, ServerSideRewrap):
            assert provider.rewrap_many([]) == []


def _refusal(provider: KeyProvider, wrapped: WrappedKey, context: Context) -> None:
    """See that this wrap alone is refused, in an error that says why and shows no bytes."""
    refused = None
    try:
        provider.unwrap(wrapped, context)
    except RefusedError as error:
        refused = error
    assert refused is not None, f"opened with {dict(context)} what must be refused: {wrapped}"
    shown = f"{refused} {refused!r} {refused.__cause__!r} {refused.__context__!r}"
    # A byte or two of hexadecimal stand in any sentence.
    assert len(wrapped.ciphertext) < 16 or wrapped.ciphertext.hex() not in shown  # noqa: PLR2004
    assert refused.key == provider.key
    assert refused.reason_code != RefusedError.reason_code, "it gives no reason"


def _sound(wraps: Sequence[WrappedKey | KmsError]) -> list[WrappedKey]:
    sound = [each for each in wraps if isinstance(each, WrappedKey)]
    assert len(sound) == len(wraps), "some items were refused"
    return sound


def _creator(provider: KeyProvider) -> VersionCreator:
    if not isinstance(provider, VersionCreator):
        raise SkipTest("creates no versions")
    return provider


def _rewrapper(provider: KeyProvider) -> ServerSideRewrap:
    if not isinstance(provider, ServerSideRewrap):
        raise SkipTest("rewraps nothing in its service")
    return provider


def _skipping(reason: str) -> Callable[..., None]:
    def skip(*_: object) -> None:
        raise SkipTest(reason)

    return skip
