"""The topology axis, for how blocks are joined: one line per variant."""

from ..contracts import Topology
from ..table import Table

TABLE: Table[Topology] = Table(
    Topology,
    "topology",
    __name__,
    {
        "sequential": "sequential:Sequential",
        "parallel_gpt": "parallel_gpt:ParallelGPT",
        "linear_gpt": "narrowing:LinearGPT",
        "conv_gpt": "narrowing:ConvGPT",
    },
)
