"""The attention axis: one line per variant."""

from ..contracts import Attention
from ..table import Table

TABLE: Table[Attention] = Table(
    Attention,
    "attention",
    __name__,
    {
        "standard": "standard:StandardAttention",
        "differential": "differential:DifferentialAttention",
        "differential_v2": "differential_v2:DifferentialV2Attention",
        "linear_ensemble": "linear_ensemble:LinearEnsembleAttention",
        "selective": "selective:SelectiveAttention",
        "gated": "gated:GatedAttention",
        "sink": "sink:SinkAttention",
        "forgetting": "forgetting:ForgettingAttention",
        "exclusive": "exclusive:ExclusiveAttention",
    },
    plain="plain:PlainAttention",
)
