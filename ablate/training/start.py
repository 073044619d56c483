"""The weights of another run that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from ablate.errors import RecordError
from ablate_model import ConfigError
from ablate_model.gpt import HeadedModel
from ablate_model.transfer import adopt


@dataclass(frozen=True)
class StartWeights:
    """The file of the weights, and the tensors that keep their initial values."""

    path: Path
    fresh: frozenset[str] = frozenset()

    def load_into(self, model: HeadedModel) -> None:
        """Copy the weights into a model. Raises `RecordError` if they cannot be read or do not fit."""
        try:
            adopt(model, load_file(self.path), self.fresh, self.path)
        except (SafetensorError, OSError) as error:
            raise RecordError(f"{self.path}: the weights to start from cannot be read: {error}") from None
        except ConfigError as error:
            raise RecordError(f"{error.path}: {error.message}") from None
