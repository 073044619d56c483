"""The training of a trial: the file's, with the settings of the search's `budget`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ablate.errors import suggest
from ablate.study.declaration import Declaration
from ablate.study.load import explain
from ablate.study.schema import TrainConfig
from ablate.study.settings import Settings
from ablate.study.tuning import Tuning
from ablate.study.yaml_source import KeyPath


def shorten(declared: Declaration, tuning: Tuning) -> Declaration:
    """The declaration with the training of a trial: the file's, with the settings of the budget."""
    changes, section = dict(tuning.budget), (*tuning.SECTION, "budget")
    tokens = changes.pop("tokens", None)
    if declared.program is not None:
        return _shorten_program(declared, changes, section, has_tokens=tokens is not None)
    length: Any = declared.model.get("context_length")
    if tokens is not None and not (type(length) is int and length > 0):
        message = f"the tokens per step are unknown because model.context_length is {length!r}: use `steps` instead"
        raise declared.refuse((*section, "tokens"), message)
    try:
        train = TrainConfig.model_validate({**declared.train.model_dump(), **changes})
        if tokens is not None:
            changes["steps"] = max(1, tokens // (train.batch_size * length))
            train = TrainConfig.model_validate({**declared.train.model_dump(), **changes})
    except ValidationError as error:
        problem = error.errors()[0]
        loc = problem["loc"] or (next(iter(tuning.budget), "steps"),)
        place = (*section, *loc) if loc[0] in tuning.budget else ("train", *loc)
        raise declared.refuse(place, explain(problem, ("train", *problem["loc"]))) from None
    return declared.replace(train=train)


def _shorten_program(
    declared: Declaration, changes: Mapping[str, Any], section: KeyPath, *, has_tokens: bool
) -> Declaration:
    """A program counts steps as it likes, so its budget names settings of its `train` section that exist."""
    if has_tokens:
        raise declared.refuse((*section, "tokens"), "a program's tokens are unknown: name a setting of `train`")
    own = Settings(declared.own)
    for key, value in changes.items():
        if own.get(("train", key)) is None:
            known = declared.own.get("train", {})
            raise declared.refuse((*section, key), f"the program has no setting train.{key}{suggest(key, known)}")
        own.set(("train", key), value)
    return declared.replace(own=own.tree)
