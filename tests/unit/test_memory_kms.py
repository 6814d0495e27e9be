from collections.abc import Sequence
from typing import ClassVar
from unittest import SkipTest

import pytest

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    BatchingKeyProvider,
    Context,
    DeniedError,
    KeyProvider,
    RefusedError,
    ServerSideRewrap,
    ThrottledError,
    UnavailableError,
    VersionCreator,
    wrap_many,
)
from keywrap.testing.kms import (
    MemoryKeyProvider,
    MemoryKms,
    ProviderConformance,
    SimpleMemoryKeyProvider,
)

CONTEXT = {"blob_id": "a"}


class OfMemoryKms(ProviderConformance):
    def corrupt_next_wrap(self, provider: KeyProvider) -> None:
        assert isinstance(provider, SimpleMemoryKeyProvider)
        provider.kms.corrupt_next_wrap()


class TestMemoryKeyProvider(OfMemoryKms):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return MemoryKeyProvider()


class TestSimpleMemoryKeyProvider(OfMemoryKms):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return SimpleMemoryKeyProvider()


def test_the_providers_can_what_their_names_say() -> None:
    assert isinstance(MemoryKeyProvider(), BatchingKeyProvider)
    assert isinstance(MemoryKeyProvider(), ServerSideRewrap)
    assert isinstance(SimpleMemoryKeyProvider(), VersionCreator)
    assert not isinstance(SimpleMemoryKeyProvider(), BatchingKeyProvider | ServerSideRewrap)


def test_providers_that_share_a_service_open_each_others_wraps() -> None:
    kms, data_key = MemoryKms(), DataKey.generate()
    wrapped = MemoryKeyProvider(kms).wrap(data_key, CONTEXT)
    assert SimpleMemoryKeyProvider(kms).unwrap(wrapped, CONTEXT) == data_key


def test_a_disabled_version_is_denied_until_it_is_enabled() -> None:
    provider, data_key = MemoryKeyProvider(), DataKey.generate()
    wrapped = provider.wrap(data_key, CONTEXT)
    provider.kms.disable_version(wrapped.key_version)
    for act in (
        lambda: provider.unwrap(wrapped, CONTEXT),
        lambda: provider.wrap(data_key, CONTEXT),
        lambda: provider.rewrap_many([(wrapped, CONTEXT)]),
    ):
        with pytest.raises(DeniedError) as denied:
            act()
        assert denied.value.reason_code == "version_disabled"
    provider.kms.enable_version(wrapped.key_version)
    assert provider.unwrap(wrapped, CONTEXT) == data_key


def test_a_deleted_key_is_denied() -> None:
    provider = MemoryKeyProvider()
    provider.kms.delete_key(provider.key)
    with pytest.raises(DeniedError) as denied:
        provider.current_version()
    assert denied.value.reason_code == "key_not_found"


def test_faults_come_as_often_as_asked_and_then_no_more() -> None:
    provider = MemoryKeyProvider()
    provider.kms.fail_next(ThrottledError("slow down"), times=2)
    provider.kms.fail_next(UnavailableError("away"))
    for expected in (ThrottledError, ThrottledError, UnavailableError):
        with pytest.raises(expected):
            provider.wrap(DataKey.generate(), CONTEXT)
    provider.wrap(DataKey.generate(), CONTEXT)


def test_a_corrupt_wrap_opens_to_another_key() -> None:
    provider, data_key = MemoryKeyProvider(), DataKey.generate()
    provider.kms.corrupt_next_wrap()
    corrupt, sound = wrap_many(provider, [(data_key, CONTEXT), (data_key, CONTEXT)])
    assert isinstance(corrupt, WrappedKey)
    assert isinstance(sound, WrappedKey)
    assert provider.unwrap(corrupt, CONTEXT) != data_key
    assert provider.unwrap(sound, CONTEXT) == data_key


def test_a_rewrap_can_be_corrupted_too() -> None:
    provider, data_key = MemoryKeyProvider(), DataKey.generate()
    old = provider.wrap(data_key, CONTEXT)
    provider.kms.corrupt_next_wrap()
    (moved,) = provider.rewrap_many([(old, CONTEXT)])
    assert isinstance(moved, WrappedKey)
    assert provider.unwrap(moved, CONTEXT) != data_key


def test_a_stale_service_wraps_under_the_version_before() -> None:
    provider, data_key = MemoryKeyProvider(), DataKey.generate()
    provider.create_version()
    provider.kms.wrong_version_next()
    stale = provider.wrap(data_key, CONTEXT)
    assert stale.key_version == KeyVersion(provider.key, "1")
    assert provider.unwrap(stale, CONTEXT) == data_key
    assert provider.wrap(data_key, CONTEXT).key_version.version == "2"


class TestRequests:
    items: ClassVar = [(DataKey.generate(), CONTEXT) for _ in range(401)]

    def test_a_batch_is_one_request_up_to_the_limit(self) -> None:
        provider = MemoryKeyProvider(MemoryKms(batch_limit=200))
        wrap_many(provider, self.items)
        assert provider.requests == 3
        assert provider.kms.operations == {"wrap": 401}

    def test_without_batches_every_item_is_a_request(self) -> None:
        provider = SimpleMemoryKeyProvider()
        wrap_many(provider, self.items)
        assert provider.requests == 401

    def test_a_fault_in_a_later_batch_fails_the_whole_call(self) -> None:
        provider = MemoryKeyProvider(MemoryKms(batch_limit=200))
        provider.kms.fail_next(UnavailableError("away"))
        with pytest.raises(UnavailableError):
            wrap_many(provider, self.items)


class ContextBlind(MemoryKeyProvider):
    """Claims to bind contexts, and does not."""

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:  # noqa: ARG002
        return super().wrap(data_key, {})

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:  # noqa: ARG002
        return super().unwrap(wrapped, {})


class OutOfOrder(MemoryKeyProvider):
    """Returns a batch in another order."""

    def unwrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[DataKey | RefusedError]:
        return super().unwrap_many(items)[::-1]


@pytest.mark.parametrize(
    ("provider", "sentence"),
    [
        (ContextBlind(), "test_another_context_is_refused_where_context_is_bound"),
        (OutOfOrder(), "test_many_items_come_back_in_their_order"),
        (OutOfOrder(), "test_one_bad_wrap_of_a_batch_leaves_the_others"),
    ],
)
def test_the_conformance_suite_fails_a_faulty_provider(
    provider: KeyProvider, sentence: str
) -> None:
    with pytest.raises(AssertionError):
        getattr(ProviderConformance(), sentence)(provider)


def test_a_known_gap_is_skipped_with_its_reason_and_must_name_a_test() -> None:
    class Gapped(ProviderConformance):
        known_gaps: ClassVar = {"test_no_items_give_no_results": "a reason"}

    with pytest.raises(SkipTest, match="a reason"):
        Gapped().test_no_items_give_no_results(MemoryKeyProvider())
    with pytest.raises(AttributeError):
        type("Mistaken", (ProviderConformance,), {"known_gaps": {"test_of_nothing": ""}})
