"""A local Ray node that dies takes its driver's cluster along, and nothing else: the same command begins anew."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from ablate.errors import ResourceError

MAX_RESTARTS = 3


class ClusterLostError(ResourceError):
    """The Ray node that the driver started for itself is gone."""


def begin_anew(error: ClusterLostError) -> NoReturn:
    """The driver holds no state, so the same command in the place of this process goes on.

    Raises the error where that was done several times already.
    """
    restarts = int(os.environ.get("ABLATE_RESTARTS", "0"))
    if restarts >= MAX_RESTARTS:
        raise error
    os.environ["ABLATE_RESTARTS"] = str(restarts + 1)
    print(f"{error}; starting another one", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.execv(sys.executable, sys.orig_argv)
