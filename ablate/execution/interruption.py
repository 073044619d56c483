"""What ends `ablate run` early: a signal, `ablate stop`, the time limit of `--minutes`, or the loss of the Ray node."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from types import FrameType
from typing import NoReturn

from ablate.errors import GridError, ResourceError
from ablate.files import make_folder, open_regular
from ablate.plan import Run
from ablate.tracking.folders import StudyFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.05
MAX_RESTARTS = 3


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


class TimeLimit:
    """Decides which runs may start, from how fast others were, and when those in progress have to stop.

    `is_over` is true once the time kept a run from starting or ending. Raises `GridError` if `minutes` is not a number.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        if math.isnan(minutes):
            raise GridError("--minutes nan: not a number of minutes; write it as 8 or 0.5")
        self.clock, self.deadline = clock, clock() + 60 * minutes
        self.is_over = False
        self._rates: dict[str, list[float]] = {}  # seconds per unit of work
        self._begun: set[str] = set()

    def learn(self, run: Run, took_s: float) -> None:
        """Note how long a run took that was trained to its end."""
        if took_s > 0:
            self._rates.setdefault(run.arm.setup.pace_group, []).append(took_s / run.arm.setup.work)

    def mark_begun(self, run: Run) -> None:
        """Note that a run has a checkpoint, so it may resume even if it cannot end in time."""
        self._begun.add(run.run_id)

    def allows(self, run: Run) -> bool:
        """Whether a run may start now. If not, `is_over` becomes true."""
        is_allowed = self.fits(run)
        self.is_over = self.is_over or not is_allowed
        return is_allowed

    def fits(self, run: Run) -> bool:
        """Whether a run will probably end in time.

        The estimate is the speed of other runs of the same network, or else of the slowest network. If no speed is
        known, a run may start while any time is left. A run that has begun may resume; it stops when the time is over.
        """
        known = self._rates.get(run.arm.setup.pace_group)
        rate = median(known) if known else max(map(median, self._rates.values()), default=0.0)
        seconds = 0.0 if run.run_id in self._begun else rate * run.arm.setup.work
        return self.clock() + seconds <= self.deadline

    def is_past(self) -> bool:
        """Whether the time is over, so that the runs in progress have to stop."""
        return self.clock() > self.deadline


class ClusterLostError(ResourceError):
    """The Ray node that the driver started for itself is gone."""


def restart_command(error: ClusterLostError) -> NoReturn:
    """Replace this process by the same command, which resumes the study because the driver holds no state.

    Raises the error after several restarts.
    """
    restarts = int(os.environ.get("ABLATE_RESTARTS", "0"))
    if restarts >= MAX_RESTARTS:
        raise error
    os.environ["ABLATE_RESTARTS"] = str(restarts + 1)
    print(f"{error}; starting a new one", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.execv(sys.executable, sys.orig_argv)
