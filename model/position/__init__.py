"""The position axis: one line a variant."""

from ..variant import Table
from .base import Position

TABLE: Table[Position] = Table(
    "position",
    __name__,
    {
        "rope": "rope:Rope",
    },
)
