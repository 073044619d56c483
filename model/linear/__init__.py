"""The linear axis, for hidden linear layers: one line per variant."""

from ..contracts import Linear
from ..table import Table

TABLE: Table[Linear] = Table(
    Linear,
    "linear",
    __name__,
    {
        "dense": "dense:Dense",
        "bitnet_b158": "bitnet_b158:BitNet",
    },
)
