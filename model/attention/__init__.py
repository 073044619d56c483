"""The attention axis: one line a variant."""

from ..variant import Table
from .base import Attention

TABLE: Table[Attention] = Table(
    "attention",
    __name__,
    {
        "standard": "standard:StandardAttention",
        "differential": "differential:DifferentialAttention",
    },
)
