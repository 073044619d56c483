"""The JSON Schema of a declaration, with the model package's schema in its `model` section."""

from __future__ import annotations

from typing import Any

from ablate.study.declaration import OWN, Declaration, Study
from ablate.study.schema import VARIANTS
from ablate.tasks.task import LANGUAGE_MODEL, NAME, TASKS, Task, task_class
from ablate_model import ModelConfig
from ablate_model.schema import OWN_PATTERN


def grid_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) for editors and for `# yaml-language-server: $schema=`."""
    return file_schema(Study, "grid.yaml of ablate")


def file_schema(kind: type[Declaration], title: str) -> dict[str, Any]:
    """The JSON Schema of a kind of declaration."""
    schema = kind.model_json_schema()
    tasks = {name: task_class(name) for name in TASKS}
    schema["properties"]["model"] = _describe_model(ModelConfig, schema)
    schema["properties"]["task"] = {
        "description": schema["properties"]["task"]["description"],
        "anyOf": [{"enum": [LANGUAGE_MODEL, *tasks]}, *map(_describe_task, tasks.values())],
    }
    models = {name: _describe_model(task.config_class, schema) for name, task in tasks.items()}
    seeds = schema["properties"]["seeds"]["anyOf"]
    for place, option in enumerate(seeds):
        if "properties" in option:
            schema["$defs"][option["title"]] = option
            seeds[place] = {"$ref": f"#/$defs/{option['title']}"}
    train = schema["$defs"]["TrainConfig"]
    for key in VARIANTS:
        choice = {name: train["properties"][key].pop(name) for name in ("enum", "type")}
        train["properties"][key]["anyOf"] = [choice, {"type": "string", "pattern": OWN_PATTERN}]
    train["additionalProperties"] = True  # the knobs of an optimizer or a schedule from a file
    # With a program, these sections hold its own settings.
    sections = {key: schema["properties"][key] for key in OWN}
    schema["properties"] |= {key: {"type": "object"} for key in OWN}
    model: dict[str, Any] = {"properties": {"model": sections.pop("model")}}
    for name, described in models.items():
        model = {"if": _has_task(name), "then": {"properties": {"model": described}}, "else": model}
    required = [key for key in schema["required"] if key in OWN]
    schema["required"] = [key for key in schema["required"] if key not in OWN]
    has_program = {"properties": {"program": {"type": "object"}}, "required": ["program"]}
    schema |= {"if": has_program, "else": {"properties": sections, "required": required, "allOf": [model]}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _describe_model(config: type[ModelConfig], schema: dict[str, Any]) -> dict[str, Any]:
    """The `model` section for a kind of model. Its definitions are added to the schema."""
    model = config.json_schema()
    schema.setdefault("$defs", {}).update(model.pop("$defs", {}))
    # The base section may be incomplete, because the matrix and the rules set the rest.
    model.pop("required", None)
    return model | {"description": schema["properties"]["model"]["description"]}


def _describe_task(task: type[Task]) -> dict[str, Any]:
    described = task.model_json_schema()
    return {
        "type": "object",
        "title": task.name,
        "description": task.summary,
        "properties": {NAME: {"const": task.name}, **described["properties"]},
        "required": [NAME],
        "additionalProperties": False,
    }


def _has_task(name: str) -> dict[str, Any]:
    mapping = {"type": "object", "properties": {NAME: {"const": name}}, "required": [NAME]}
    return {"properties": {"task": {"anyOf": [{"const": name}, mapping]}}, "required": ["task"]}
