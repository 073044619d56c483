"""JSON schema of a model mapping, for editors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from .table import Table

OWN_PATTERN = r"^[^:]+\.py:[A-Za-z_]\w*$"


def describe_schema(
    config: type[BaseModel], tables: Mapping[str, Table[Any]], left_out: Collection[str] = ()
) -> dict[str, Any]:
    """Return the schema of `config`; each axis is the name of a variant, or a mapping of its name and its knobs."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, info in config.model_fields.items():
        if name in tables:
            properties[name] = {"description": info.description, **_describe_axis(tables[name], definitions)}
    plain = config.model_json_schema(mode="validation")
    for name, schema in plain["properties"].items():
        properties.setdefault(name, schema)
    properties["d_ff"] = {**properties["d_ff"], "type": ["integer", "null"]}
    return {
        "type": "object",
        "title": "model",
        "properties": {name: properties[name] for name in config.model_fields if name not in left_out},
        "required": [name for name in plain["required"] if name not in left_out],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _describe_axis(table: Table[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    mappings = []
    for name in table:
        variant = table.resolve(name)
        schema = variant.model_json_schema(mode="validation")
        definitions.update(schema.pop("$defs", {}))
        constants = {"name": {"const": name}, "version": {"const": variant.version}}
        mappings.append(
            {
                "type": "object",
                "title": name,
                "description": variant.summary,
                "properties": {**constants, **schema.get("properties", {})},
                "required": ["name"],
                "additionalProperties": False,
            }
        )
    own = {"type": "string", "pattern": OWN_PATTERN, "description": "FILE.py:CLASS, a file beside the grid"}
    by_name = {"type": "object", "properties": {"name": own}, "required": ["name"]}  # its knobs are in the file
    return {"anyOf": [{"enum": list(table)}, *mappings, own, by_name]}
