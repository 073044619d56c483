"""A thread of a worker that writes files while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_THREAD = ThreadPoolExecutor(1, "ablate-writer")  # it starts with its first call, and waits to the end of the last one


class Background:
    """Does one thing at a time, so that what it holds in memory is bounded. An error is raised by the next call."""

    def __init__(self) -> None:
        self._running: Future[object] | None = None

    def start(self, call: Callable[[], object]) -> None:
        """Wait for the call before, then start this one."""
        self.finish()
        self._running = _THREAD.submit(call)

    def drop(self) -> None:
        """Forget the last call if it has not begun."""
        if self._running is not None and self._running.cancel():
            self._running = None

    @property
    def is_busy(self) -> bool:
        """Whether the last call has not ended yet."""
        return self._running is not None and not self._running.done()

    def finish(self) -> None:
        """Wait for the last call, and raise its error."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
