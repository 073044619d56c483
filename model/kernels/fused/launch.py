"""Launching kernels so that torch's compiler can trace them, or with Triton's interpreter in tests."""

from __future__ import annotations

from typing import Any

import triton
from torch.library import wrap_triton


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel on a `grid` of programs."""
    is_compiled = isinstance(kernel, triton.runtime.JITFunction)
    (wrap_triton(kernel) if is_compiled else kernel)[grid](*arguments, **constants)
