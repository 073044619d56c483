"""What all outputs share."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

State = str  # queued, running, finished, diverged, failed, stopped early, interrupted or stale


class Output(BaseModel):
    """A JSON object. The text below a field describes it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


def print_output(output: Output | Sequence[Output]) -> None:
    """Print an output, or a list of outputs, as JSON."""
    value = output.model_dump() if isinstance(output, Output) else [item.model_dump() for item in output]
    print(json.dumps(value, indent=1))
