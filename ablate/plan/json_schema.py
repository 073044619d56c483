"""The JSON Schema of a declaration, with the model package's schema in its `model` section."""

from __future__ import annotations

from typing import Any

from ablate.study.declaration import OWN, Declaration, Study
from ablate.study.schema import VARIANTS
from ablate_model import ModelConfig
from ablate_model.schema import OWN_PATTERN


def grid_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) for editors and for `# yaml-language-server: $schema=`."""
    return file_schema(Study, "grid.yaml of ablate")


def file_schema(kind: type[Declaration], title: str) -> dict[str, Any]:
    """The JSON Schema of a kind of declaration."""
    schema = kind.model_json_schema()
    model = ModelConfig.json_schema()
    schema.setdefault("$defs", {}).update(model.pop("$defs", {}))
    # The base section may be incomplete, because the matrix and the rules set the rest.
    model.pop("required", None)
    schema["properties"]["model"] = model | {"description": schema["properties"]["model"]["description"]}
    train = schema["$defs"]["TrainConfig"]
    for key in VARIANTS:
        choice = {name: train["properties"][key].pop(name) for name in ("enum", "type")}
        train["properties"][key]["anyOf"] = [choice, {"type": "string", "pattern": OWN_PATTERN}]
    train["additionalProperties"] = True  # the knobs of an optimizer or a schedule from a file
    # With a program, these sections hold its own settings.
    sections = {key: schema["properties"][key] for key in OWN}
    schema["properties"] |= {key: {"type": "object"} for key in OWN}
    required = [key for key in schema["required"] if key in OWN]
    schema["required"] = [key for key in schema["required"] if key not in OWN]
    has_program = {"properties": {"program": {"type": "object"}}, "required": ["program"]}
    schema |= {"if": has_program, "else": {"properties": sections, "required": required}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
