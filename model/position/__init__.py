"""The position axis: one line per variant."""

from ..contracts import Position
from ..table import Table

TABLE: Table[Position] = Table(
    Position,
    "position",
    __name__,
    {
        "rope": "rope:Rope",
        "learned": "learned:Learned",
        "none": "none:NoPosition",
        "sinusoidal": "sinusoidal:Sinusoidal",
        "ngpt_reference": "ngpt_reference:NGPTReference",
    },
)
