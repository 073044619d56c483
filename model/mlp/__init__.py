"""The MLP axis: one line per variant."""

from ..contracts import Mlp
from ..table import Table

TABLE: Table[Mlp] = Table(
    Mlp,
    "mlp",
    __name__,
    {
        "swiglu": "swiglu:SwiGLU",
        "gelu": "gelu:Gelu",
        "relu2": "relu2:Relu2",
        "simba": "simba:Simba",
    },
    plain="plain:PlainMlp",
)
