"""The evaluations by name. Each is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping

EVALUATIONS: Mapping[str, str] = {  # name: "module:Class"
    "bits_per_byte": "ablate.evaluation.bits_per_byte:BitsPerByte",
    "needle": "ablate.evaluation.needle:Needle",
    "recall": "ablate.evaluation.recall:Recall",
    "in_context": "ablate.evaluation.in_context:InContext",
    "order": "ablate.evaluation.order:Order",
    "outliers": "ablate.evaluation.outliers:Outliers",
    "quantization": "ablate.evaluation.quantization:Quantization",
    "conditioning": "ablate.evaluation.conditioning:Conditioning",
    "maps": "ablate.evaluation.maps:Maps",
    "overfitting": "ablate.evaluation.overfitting:Overfitting",
    "length": "ablate.evaluation.length:Length",
    "dropping": "ablate.evaluation.dropping:Dropping",
    "pruned_cache": "ablate.evaluation.pruned_cache:PrunedCache",
    "hallucination": "ablate.evaluation.hallucination:Hallucination",
    "multiple_choice": "ablate.evaluation.multiple_choice:MultipleChoice",
    "lm_eval": "ablate.evaluation.lm_eval_tasks:LmEval",
}

DEFAULT = ("bits_per_byte", "recall", "in_context", "outliers", "conditioning")
