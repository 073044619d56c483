"""See the attention calls of a model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from .attention import BACKENDS
from .call import Call


@contextmanager
def watch_calls(see: Callable[[Call, str], None]) -> Iterator[None]:
    """Show `see` every call and the name of its backend while the context lasts. The model must be eager."""

    def wrap(name: str, compute: Callable[[Call], Tensor]) -> Callable[[Call], Tensor]:
        def attend(call: Call) -> Tensor:
            see(call, name)
            return compute(call)

        return attend

    originals = dict(BACKENDS)
    BACKENDS.update({name: wrap(name, compute) for name, compute in originals.items()})
    try:
        yield
    finally:
        BACKENDS.update(originals)
