"""How kernels are started: traceable by torch's compiler, and by Triton's interpreter where a test asks for that."""

from __future__ import annotations

from typing import Any

import triton
from torch.library import wrap_triton


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start a kernel over `grid` programs."""
    is_compiled = isinstance(kernel, triton.runtime.JITFunction)
    (wrap_triton(kernel) if is_compiled else kernel)[grid](*arguments, **constants)
