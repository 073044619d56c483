"""The axis of hidden linear layers: one line a variant."""

from ..variant import Table
from .base import Linear

TABLE: Table[Linear] = Table(
    Linear,
    "linear",
    __name__,
    {
        "dense": "dense:Dense",
        "bitnet_b158": "bitnet_b158:BitNet",
    },
)
