"""The MLP axis: one line a variant."""

from ..variant import Table
from .base import Mlp

TABLE: Table[Mlp] = Table(
    Mlp,
    "mlp",
    __name__,
    {
        "swiglu": "swiglu:SwiGLU",
        "gelu": "gelu:Gelu",
        "relu2": "relu2:Relu2",
    },
)
