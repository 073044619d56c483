"""Runs one program, and ends everything that it started. A worker starts this file as a script of its own.

usage: guard.py CONTROL RESULT LEASE TERM_S WORD...

CONTROL is a pipe from the worker: T asks the program to end, and K ends it at once. So does the end of the pipe, which
means that the worker died. RESULT is a pipe to the worker, for one JSON object. LEASE is the open curve of the run: its
lock is held until nothing of the program is left, even if the worker is gone. TERM_S is how long the program may take
to end after SIGTERM.

Processes that lost their parent become children of this one (on Linux), so none can escape. Only the standard library,
and little of it, because this starts with every run.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress

LEFTOVER_S = 3.0  # how long processes that it left behind may take
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
EXEC_FAILED = 127


def prctl(option: int, value: int) -> None:
    """Call prctl(2), where there is one."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def start(words: list[str], fault: int) -> int:
    """Start the program in a session of its own. It gets SIGKILL if this process dies."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            os.execvp(words[0], words)
    except OSError as error:
        os.write(fault, (error.strerror or str(error)).encode())
    finally:
        os._exit(EXEC_FAILED)


def find_descendants() -> list[int]:
    """The ids of all processes that descend from this one, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than this
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def send(number: int, group: int) -> int:
    """Send a signal to the program's process group and to every descendant. Returns how many there were."""
    with suppress(OSError):
        os.killpg(group, number)
    try:
        descendants = find_descendants()
    except OSError:
        return 0  # no /proc
    for pid in descendants:
        with suppress(OSError):
            os.kill(pid, number)
    return len(descendants)


def ignore(number: int, frame: object) -> None:
    """Ignore a signal."""


class Guard:
    """Watches over a program until nothing of it is left."""

    def __init__(self, control: int, program: int, term_s: float) -> None:
        self.control, self.program, self.term_s = control, program, term_s
        self.status: int | None = None  # of the program, once it has ended
        self.is_alone = False  # whether no child is left
        self.deadline: float | None = None  # when everything gets SIGKILL

    def reap(self) -> None:
        """Collect the processes that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.is_alone = True
                return
            if not pid:
                return
            if pid == self.program:
                self.status = os.waitstatus_to_exitcode(status)

    def obey(self) -> bool:
        """Obey the worker. Returns whether it may send more."""
        order = os.read(self.control, 1)
        if order == b"T" and self.deadline is None:
            self.deadline = time.monotonic() + self.term_s
            with suppress(OSError):
                os.killpg(self.program, signal.SIGTERM)
        elif order in (b"K", b""):
            self.deadline = 0.0
        return order != b""

    def watch(self, wakeup: int) -> int:
        """Wait until the program and everything that it started is gone. Returns how many processes it left."""
        left, watched, has_ended = 0, [self.control, wakeup], False
        while True:
            self.reap()
            if self.status is not None and not has_ended:
                has_ended = True
                if not self.is_alone:
                    left = send(signal.SIGTERM, self.program)
                    soon = time.monotonic() + LEFTOVER_S
                    self.deadline = soon if self.deadline is None else min(self.deadline, soon)
            if self.is_alone:
                return left
            is_late = self.deadline is not None and time.monotonic() >= self.deadline
            if is_late:
                send(signal.SIGKILL, self.program)
            wait_s = None if self.deadline is None else 0.01 if is_late else self.deadline - time.monotonic()
            ready = select.select(watched, [], [], wait_s if wait_s is None else max(0.0, wait_s))[0]
            if wakeup in ready:
                os.read(wakeup, 4096)
            if self.control in ready and not self.obey():
                watched.remove(self.control)


def main() -> None:
    control, result, lease = (int(word) for word in sys.argv[1:4])
    for fd in (control, result, lease):
        os.set_inheritable(fd, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    # Handlers, because a program inherits signals that are ignored.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ignore)
    read_fault, fault = os.pipe()
    program = start(sys.argv[5:], fault)
    os.close(fault)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):  # only the program holds the pipe of the output
        os.dup2(nothing, fd)
    left = (guard := Guard(control, program, float(sys.argv[4]))).watch(wakeup)
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    memory = usage if sys.platform == "darwin" else usage * 1024
    reason = os.read(read_fault, 4096).decode(errors="replace").replace("\\", "/").replace('"', "'")
    text = f'{{"status": {guard.status}, "left": {left}, "memory_bytes": {memory}, "reason": "{reason}"}}'
    os.write(result, text.encode())


if __name__ == "__main__":
    main()
