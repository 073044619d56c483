"""ablate: declare an ablation study, train it, and learn whether a change helps, by how much, and how certain it is.

`ablate.load("runs/NAME")` gives a notebook the curves, speedups and effects of a study.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imported on first use, because importing pandas is slow
        from ablate.report import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
