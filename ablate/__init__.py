"""ablate: declare an ablation study, train it, and learn whether a change helps, by how much, and how certain it is.

`ablate.load("runs/NAME")` gives a notebook the curves, speedups and effects of a study. `ablate.log(step=100,
val_loss=2.3)` reports metrics from a program of your own that a grid runs.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "log"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imported on first use, because importing pandas is slow
        from ablate.report import load

        return load
    if name == "log":
        from ablate.run_log import log

        return log
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
