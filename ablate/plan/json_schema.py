"""The JSON Schema of a declared file: its own, with the model package's in its `model` section."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ablate.study.declaration import Study
from ablate_model import ModelConfig


def grid_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) for editors and for `# yaml-language-server: $schema=`."""
    return file_schema(Study, "grid.yaml of ablate")


def file_schema(kind: type[BaseModel], title: str) -> dict[str, Any]:
    """The same for another kind of file that has a `model` section."""
    schema = kind.model_json_schema()
    model = ModelConfig.json_schema()
    schema.setdefault("$defs", {}).update(model.pop("$defs", {}))
    # The matrix and the rules bring the rest: a base section need not be complete.
    model.pop("required", None)
    schema["properties"]["model"] = model | {"description": schema["properties"]["model"]["description"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
