"""The normalization axis: one line per variant."""

from ..contracts import Normalization
from ..table import Table

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
    plain="plain:PlainNorm",
)
