"""What ends a study before its time: Ctrl-C and its like here, `ablate stop` from another terminal."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ablate.tracking.store import Store

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """`is_set` once somebody asked for the end, after this was made: what was asked before was for a driver of then."""

    def __init__(self, store: Store) -> None:
        self._store, self._seen = store, store.read_stop_request()
        self.is_set = False

    def is_requested(self) -> bool:
        """Whether `ablate stop` came. A request that cannot be read, as of a file system that hiccups, is none."""
        request = self._store.read_stop_request()
        return bool(request) and request != self._seen

    @contextmanager
    def caught(self, stop: Callable[[], None]) -> Iterator[None]:
        """The first signal calls `stop`, which saves checkpoints; the second one does not wait for them.

        A hangup that this process was started to ignore stays ignored: `nohup` asks for that. SIGINT is heard in any
        case: a script's background is started to ignore it, and who sends it there means it.
        """

        def hear(_signal: int, _frame: FrameType | None) -> None:
            if self.is_set:
                raise KeyboardInterrupt
            stop()

        is_main = threading.current_thread() is threading.main_thread()
        is_under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = [number for number in SIGNALS if is_main and not (number == signal.SIGHUP and is_under_nohup)]
        before = {number: signal.signal(number, hear) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Ctrl-C waits for the end of the block; the second one does not.

    While Ray starts, whose threads are C++, an exception out of nowhere may be lost, or crash the process as it ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_heard = False

    def hear(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_heard
        if is_heard:
            raise KeyboardInterrupt
        is_heard = True

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if is_heard:
        raise KeyboardInterrupt


@contextmanager
def at_work(store: Store) -> Iterator[Interruption]:
    """Hold the lock that tells `ablate stop` that a driver is at work; several drivers may."""
    interruption = Interruption(store)
    store.path.mkdir(parents=True, exist_ok=True)
    with store.driver_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield interruption
