import pytest

from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion
from keywrap.kms import UnavailableError
from keywrap.testing.kms import MemoryKeyProvider, MemoryKms, SimpleMemoryKeyProvider

NAMED = "aws-kms://arn:aws:kms:eu-west-1:111122223333:key/0000"
COUNTED = "hcvault://memory/blob-kek"


class NamedVersions(SimpleMemoryKeyProvider):
    """A provider whose versions are names; the letters come in the order of the alphabet."""

    asked = 0

    def is_newer(self, version: str, than: str) -> bool:
        self.asked += 1
        self.kms.answer_request()
        return {version, than} <= set("abcd") and version > than


def ring_of_both() -> tuple[KeyRing, NamedVersions]:
    named = NamedVersions(MemoryKms(), NAMED)
    return KeyRing([MemoryKeyProvider(key=COUNTED), named]), named


@pytest.mark.parametrize(("version", "target"), [("b", "b"), ("c", "b"), ("d", "a")])
def test_a_named_version_reaches_itself_and_what_its_service_says_came_before(
    version: str, target: str
) -> None:
    ring, _ = ring_of_both()
    assert ring.reaches(KeyVersion(NAMED, version), KeyVersion(NAMED, target))


@pytest.mark.parametrize(("version", "target"), [("a", "b"), ("", "b"), ("z", "b"), ("b", "z")])
def test_a_named_version_reaches_neither_a_later_nor_an_unknown_one(
    version: str, target: str
) -> None:
    ring, _ = ring_of_both()
    assert not ring.reaches(KeyVersion(NAMED, version), KeyVersion(NAMED, target))


def test_a_counted_version_reaches_what_is_not_above_it_and_nobody_is_asked() -> None:
    ring, named = ring_of_both()
    target = KeyVersion(COUNTED, "2")
    reached = [n for n in (1, 2, 10) if ring.reaches(KeyVersion(COUNTED, str(n)), target)]
    assert reached == [2, 10]
    assert named.asked == 0


def test_the_target_itself_is_reached_without_a_question() -> None:
    ring, named = ring_of_both()
    assert ring.reaches(KeyVersion(NAMED, "b"), KeyVersion(NAMED, "b"))
    assert named.asked == 0


def test_no_version_of_one_key_reaches_another_key() -> None:
    ring, named = ring_of_both()
    for version, target in ((NAMED, COUNTED), (COUNTED, NAMED), (NAMED, NAMED + "0")):
        assert not ring.reaches(KeyVersion(version, "c"), KeyVersion(target, "b"))
    assert named.asked == 0


def test_a_key_that_is_not_listed_is_reached_by_itself_alone() -> None:
    ring = KeyRing([])
    assert ring.reaches(KeyVersion(NAMED, "b"), KeyVersion(NAMED, "b"))
    assert not ring.reaches(KeyVersion(NAMED, "c"), KeyVersion(NAMED, "b"))


def test_where_the_service_cannot_be_asked_the_order_is_not_guessed() -> None:
    ring, named = ring_of_both()
    named.kms.fail_next(UnavailableError("away"))
    with pytest.raises(UnavailableError):
        ring.reaches(KeyVersion(NAMED, "c"), KeyVersion(NAMED, "b"))


def test_the_ring_counts_the_requests_of_all_its_providers() -> None:
    ring, named = ring_of_both()
    named.current_version()
    ring.provider(COUNTED).current_version()
    assert ring.requests == 2


def test_one_key_is_listed_once_and_the_primary_is_one_of_them() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        KeyRing([MemoryKeyProvider(), MemoryKeyProvider()])
    with pytest.raises(UnlistedKeyError):
        KeyRing([MemoryKeyProvider()], primary=NAMED)
