"""A program that runs under a guard, as the worker sees it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ablate.tasks import guard

BLOCK_BYTES = 2**20
TERM_S = 30.0  # how long a program may take to end after SIGTERM
PIPE_BYTES = 2**20  # so that a program that prints much seldom waits for its reader


@dataclass(frozen=True)
class End:
    """How a program ended: its exit code, or the negative number of a signal. `left` counts the processes that it left
    behind and that were ended. `reason` says why it could not be started."""

    status: int
    left: int = 0
    memory_bytes: int = 0
    reason: str = ""

    @property
    def text(self) -> str:
        """How it ended, as the end of a sentence."""
        if self.reason:
            return f"could not be started: {self.reason}"
        if self.status >= 0:
            return f"ended with exit code {self.status}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-self.status).name}"
        return f"was killed by signal {-self.status}"


class Process:
    """Starts a program. `lease` is the descriptor of a locked file that stays locked until all of it has ended.

    Raises `OSError` if the folder does not exist, or no process can be started.
    """

    def __init__(self, words: Sequence[str], folder: Path, env: Mapping[str, str], lease: int) -> None:
        self._output, output = os.pipe()
        control, self._control = os.pipe()
        self._result, result = os.pipe()
        theirs = (output, control, result)
        with suppress(OSError, AttributeError, ImportError):
            import fcntl

            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            self._guard = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    guard.__file__,
                    str(control),
                    str(result),
                    str(lease),
                    str(TERM_S),
                    *words,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(env),
                pass_fds=(control, result, lease),
                start_new_session=True,
            )
        except BaseException:
            for fd in (self._output, self._control, self._result):
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._selector = selectors.DefaultSelector()
        for fd in (self._output, self._result):
            self._selector.register(fd, selectors.EVENT_READ)
        self._said = b""
        self.end: End | None = None

    def read(self, timeout_s: float) -> bytes:
        """Output, as soon as there is some; empty after the timeout. `end` is set once everything has ended."""
        if not self._selector.get_map():
            return b""
        ready = {key.fd for key, _ in self._selector.select(timeout_s)}
        if self._result in ready:
            self._hear()
        if self._output not in ready:
            return b""
        block = os.read(self._output, BLOCK_BYTES)
        if not block:
            self._selector.unregister(self._output)
        return block

    def _hear(self) -> None:
        part = os.read(self._result, 4096)
        self._said += part
        if not part:
            self._selector.unregister(self._result)
            self._guard.wait()
            with suppress(ValueError):
                self.end = End(**json.loads(self._said))
            self.end = self.end or End(-signal.SIGKILL)  # the guard itself was killed, and the program with it

    @property
    def has_output(self) -> bool:
        """Whether more output may come."""
        return self._output in {key.fd for key in self._selector.get_map().values()}

    def ask_to_end(self) -> None:
        """Send SIGTERM to the program. Processes that are left after a while get SIGKILL."""
        self._tell(b"T")

    def kill(self) -> None:
        """Send SIGKILL to everything that the program started."""
        self._tell(b"K")

    def _tell(self, order: bytes) -> None:
        with suppress(BrokenPipeError):
            os.write(self._control, order)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever still runs, and wait for it."""
        os.close(self._control)
        self._guard.wait()
        self._selector.close()
        for fd in (self._output, self._result):
            os.close(fd)
