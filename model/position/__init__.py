"""The position axis: one line a variant."""

from ..variant import Table
from .base import Position

TABLE: Table[Position] = Table(
    Position,
    "position",
    __name__,
    {
        "rope": "rope:Rope",
        "learned": "learned:Learned",
        "none": "none:NoPosition",
        "ngpt_reference": "ngpt_reference:NGPTReference",
    },
)
