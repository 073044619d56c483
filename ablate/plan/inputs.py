"""What the runs of a plan read: its corpus."""

from __future__ import annotations

from collections.abc import Iterator

from ablate.formatting import format_count
from ablate.plan.plan import Plan


def describe_inputs(plan: Plan) -> Iterator[str]:
    """Lines that say what the runs read."""
    yield (
        f"data: {plan.study.data.source}, {plan.study.data.tokenizer}, "
        f"{format_count(plan.corpus.n_train_tokens)} tokens for training and "
        f"{format_count(plan.corpus.n_validation_tokens)} for validation, hash {plan.corpus.hash[:12]}"
    )
