"""What ends a study before its time: Ctrl-C and its like here, `ablate stop` from another terminal."""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ablate.files import make_folder, open_regular
from ablate.tracking.folders import StudyFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.05


class Interruption:
    """Tells a driver that it should save checkpoints and stop.

    `is_set` becomes true with the first signal, and with an `ablate stop` that comes after this was made.
    """

    def __init__(self, store: StudyFolder) -> None:
        self._store, self._seen = store, store.read_stop_request()
        self.is_set = False

    def look(self) -> bool:
        """Check for `ablate stop` too. A request that cannot be read, for example while a file system hangs, is
        ignored."""
        request = self._store.read_stop_request()
        self.is_set = self.is_set or (bool(request) and request != self._seen)
        return self.is_set

    def arrives_within(self, seconds: float) -> bool:
        """Wait for a signal that may be on its way."""
        deadline = time.monotonic() + seconds
        while not self.is_set and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return self.is_set

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handle signals: the first one sets `is_set`, the second one raises `KeyboardInterrupt`.

        The first one raises nothing, because an exception inside Ray's C++ calls may be lost or crash the process. A
        hangup stays ignored if this process was started to ignore it, as by `nohup`. SIGINT is always handled: a
        script's background jobs are started to ignore it.
        """

        def hear(_signal: int, _frame: FrameType | None) -> None:
            if self.is_set:
                raise KeyboardInterrupt
            self.is_set = True

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
def sigterm_held() -> Iterator[None]:
    """Let SIGTERM wait while Ray starts: its C++ core installs a handler that would end this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextmanager
def at_work(store: StudyFolder) -> Iterator[Interruption]:
    """Handle signals, and hold the lock that tells `ablate stop` that a driver is at work; several drivers may."""
    interruption = Interruption(store)
    make_folder(store.path)
    with interruption.heard(), open_regular(store.driver_lock, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield interruption
