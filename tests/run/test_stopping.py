"""The first signal asks, the second ends; work that may be dropped is broken off at once."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from weft.errors import Interrupted
from weft.run.stopping import listening

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_sets_the_flag_and_nothing_else(number: signal.Signals):
    with listening() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.reason == number.name
    assert not isinstance(signal.getsignal(number), type(stop.on_signal))


def test_handlers_are_put_back_after_an_error_too():
    def mine(*_: object) -> None:
        return

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        with pytest.raises(KeyError), listening():
            raise KeyError
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_second_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch):
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with listening():
        signal.raise_signal(signal.SIGTERM)
        assert codes == []
        signal.raise_signal(signal.SIGINT)
        assert codes == [143]


def test_at_once_breaks_off_a_wait_and_is_not_held_up_by_a_library():
    def library() -> None:
        try:
            time.sleep(30)
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")

    start = time.monotonic()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    words = r"reading: stopped by SIGTERM\. Begin again\."
    with (
        listening() as stop,
        pytest.raises(Interrupted, match=words) as caught,
        stop.at_once("reading", "Begin again."),
    ):
        library()
    assert time.monotonic() - start < 5
    assert caught.value.exit_code == 75


def test_at_once_does_not_begin_when_a_signal_came_before():
    with listening() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), stop.at_once("judging"):
            pytest.fail("began")


def test_outside_of_at_once_nothing_is_broken_off():
    with listening() as stop:
        with stop.at_once("reading"):
            pass
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        assert stop()


def test_in_a_thread_the_flag_stays_down():
    found: list[bool] = []

    def work() -> None:
        with listening() as stop:
            found.append(stop())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGTERM) is before
