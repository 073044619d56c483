"""Operations that Triton does in one pass over memory, where torch's compiler makes several.

Each file holds the kernels of one operation and the operator around them, with its gradient; the naive version is the
code that calls it. `is_fusible` decides between the two, and nothing here is imported before it has said yes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import HAS_TRITON


def is_fusible(x: Tensor) -> bool:
    """Whether the kernels take x: on a CUDA device, in float32 or bfloat16."""
    return HAS_TRITON and x.is_cuda and x.dtype in (torch.float32, torch.bfloat16)
