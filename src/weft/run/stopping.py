"""Asking a run to stop: SIGTERM, SIGUSR1 and the first SIGINT set a flag; the run saves and leaves with 75."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from weft.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
_EXIT_AT_ONCE = 128 + signal.SIGTERM
RESUME = "What was done is saved; go on with 'weft resume'."


class _StopNow(BaseException):
    """Carries a signal out of work that may be dropped; no ``except Exception`` on its way holds it up."""


class StopFlag:
    """Set when somebody wants the run to stop; a second signal ends the process at once with 143."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._is_armed = False

    def __call__(self) -> bool:
        """Return whether it is set."""
        return self.reason is not None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Note the signal; on the second one leave without saving (the last checkpoint is whole anyway)."""
        if self.reason is not None:
            os._exit(_EXIT_AT_ONCE)
        self.reason = signal.Signals(number).name
        if self._is_armed:
            raise _StopNow

    def interrupted(self, where: str, hint: str = RESUME) -> Interrupted:
        """Return the error that ends a run which was asked to stop at ``where``."""
        return Interrupted(f"{where}: stopped by {self.reason}. {hint}")

    @contextmanager
    def at_once(self, where: str, hint: str = RESUME) -> Generator[None]:
        """Let a signal break off what is done inside, wherever it is; there is no need to ask the flag.

        Only for work that a kill could end at any instruction too: reading, loading, judging, writing aside.

        Raises:
            Interrupted: a signal came, before or inside.
        """
        self._is_armed = True
        try:
            if self():  # after arming: a signal in between must not be lost
                raise self.interrupted(where, hint)
            yield
        except _StopNow:
            raise self.interrupted(where, hint) from None
        finally:
            self._is_armed = False


@contextmanager
def listening() -> Generator[StopFlag]:
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
    except _StopNow:  # came in the last instruction of ``at_once``
        raise flag.interrupted("run") from None
    finally:
        for number, handler in before.items():
            # None is a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
