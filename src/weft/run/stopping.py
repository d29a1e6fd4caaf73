"""Asking a run to stop: SIGTERM, SIGUSR1 and the first SIGINT set a flag; the run saves and leaves with 75."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
_EXIT_AT_ONCE = 128 + signal.SIGTERM


class StopFlag:
    """Set when somebody wants the run to stop; a second signal ends the process at once with 143."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __call__(self) -> bool:
        return self.reason is not None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; on the second one leave without saving (the last checkpoint is whole anyway)."""
        if self.reason is not None:
            os._exit(_EXIT_AT_ONCE)
        self.reason = signal.Signals(number).name


@contextmanager
def listening() -> Iterator[StopFlag]:
    """Yield a flag that signals set; the handlers that were there before are put back.

    Outside the main thread no handler can be set, so the flag then stays down.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    for number in _SIGNALS:
        before[number] = signal.signal(number, flag.on_signal)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
