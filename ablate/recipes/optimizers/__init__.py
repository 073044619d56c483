"""The optimizers: one line per variant."""

from __future__ import annotations

from ablate.recipes.optimizers.base import OptimizerVariant

OPTIMIZERS = OptimizerVariant.load_table(
    __name__,
    {
        "adamw": "adamw:AdamW",
        "muon": "muon:Muon",
    },
)
