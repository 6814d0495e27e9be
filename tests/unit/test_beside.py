"""What works beside the ticks ends when it is told to, and is not waited for where it hangs."""

import threading
import time

import pytest

from scheduler import beside
from scheduler.beside import Beside


class _Works(Beside):
    def _keep(self) -> None:
        self._ended.wait(60)


class _Hangs(Beside):
    released = threading.Event()

    def _keep(self) -> None:
        self.released.wait(60)


def test_it_ends_as_soon_as_it_is_told_to() -> None:
    works = _Works("works")
    works.start()
    began = time.monotonic()
    works.stop()
    assert time.monotonic() - began < 2
    assert not works._thread.is_alive()


def test_what_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "STOP_WITHIN_S", 0.1)
    hangs = _Hangs("hangs")
    hangs.start()
    began = time.monotonic()
    hangs.stop()
    assert time.monotonic() - began < 2
    assert hangs._thread.is_alive()
    hangs.released.set()


class _Fails(Beside):
    looked = threading.Semaphore(0)

    def look(self) -> None:
        self.looked.release()
        raise ZeroDivisionError


def test_what_fails_in_a_way_that_nobody_foresaw_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(beside, "_AGAIN_S", 0.01)
    fails = _Fails("fails", 0.01)
    fails.start()
    assert all(_Fails.looked.acquire(timeout=10) for _ in range(3))
    fails.stop()
    assert "fails: trying again" in caplog.text


def test_what_was_never_started_is_stopped_all_the_same() -> None:
    _Works("works").stop()
