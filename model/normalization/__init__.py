"""The normalization axis: one line a variant."""

from ..variant import Table
from .base import Normalization

TABLE: Table[Normalization] = Table(
    Normalization,
    "normalization",
    __name__,
    {
        "prenorm": "prenorm:PreNorm",
        "peri": "peri:Peri",
        "postnorm": "postnorm:PostNorm",
        "dyt": "dyt:DyT",
        "ngpt": "ngpt:NGPT",
    },
)
