"""The axis of how blocks are joined: one line a variant."""

from ..variant import Table
from .base import Topology

TABLE: Table[Topology] = Table(
    Topology,
    "topology",
    __name__,
    {
        "sequential": "sequential:Sequential",
        "parallel_gpt": "parallel_gpt:ParallelGPT",
    },
)
