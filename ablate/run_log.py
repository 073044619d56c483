"""`ablate.log`, with which your own program reports its metrics. Needs only the standard library."""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any

from ablate.sources.variables import LOG


def log(step: int, **values: Any) -> None:
    """Report metrics and costs at a step, from a program that `ablate run` started; elsewhere this does nothing.

    `ablate.log(step=100, val_loss=2.31, tokens=1_638_400)`. Metrics are those of the grid's `program.metrics`. Costs
    are totals since the start: `tokens`, `flops` and `wall_s` (seconds, measured if not given). Any other number is a
    diagnostic, which is kept too. Values may be NumPy or torch scalars. Several processes may call this, but each
    number should come from one of them. Raises `TypeError` for a value that is not a number.
    """
    path = os.environ.get(LOG)
    if not path:
        return
    record = {"step": _to_number("step", step), **{name: _to_number(name, value) for name, value in values.items()}}
    line = json.dumps(record).encode() + b"\n"
    # One write to a file opened for appending is never mixed with that of another process. The lock is for disks
    # that are shared by several machines.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, line)
    finally:
        os.close(file)


def _to_number(name: str, value: Any) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"ablate.log: {name} must be a number, got {value!r:.100}") from None
    return int(number) if name == "step" and number.is_integer() else number
