"""JSON Schemas as pages in Markdown: the keys of grid.yaml, and what every verb prints with `--json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ablate.study.declaration import OWN

Schema = Mapping[str, Any]

HEAD = (
    "# Keys of a grid",
    "",
    "Every key of `grid.yaml`, with its type, its default and its meaning. [Declare a study](grid.md) explains how "
    "they work together. `ablate schema --markdown` writes this page.",
)
OUTPUTS_HEAD = (
    "# JSON output",
    "",
    "Every command prints JSON with `--json`. [Command line](command-line.md) has the rules and the exit codes. "
    "`ablate schema --outputs --markdown` writes this page, and `ablate schema --outputs` prints the JSON Schemas.",
)
LONGEST_CHOICE = 12  # choices in one cell


def write_reference(schema: Schema) -> str:
    """The page for a schema from `grid_schema`: the top level, then each section and each kind of value."""
    definitions = schema.get("$defs", {})
    model, *other_models = find_models(schema).items()
    sections = {"model": model[1]} | {
        name: resolve(section, definitions) for name, section in schema["else"]["properties"].items()
    }
    top = schema["properties"] | {
        key: {"description": section.get("description", ""), "type": "mapping"} for key, section in sections.items()
    }
    required = {*schema.get("required", ()), *schema["else"].get("required", ())}
    top = dict(sorted(top.items(), key=lambda item: item[0] not in required))
    lines = [*HEAD, "", "## Top level", "", *write_table(top, required)]
    for key, field in top.items():
        lines += write_variants(key, field)
    for name in OWN:
        section = sections[name]
        lines += ["", f"## {name}", "", *write_text(section), *write_table(section["properties"], set())]
        for key, field in section["properties"].items():
            lines += write_variants(key, field)
    for task, other in other_models:
        known = model[1]["properties"]
        fields = {key: field for key, field in other["properties"].items() if field != known.get(key)}
        if fields:
            lines += ["", f"## model of {task}", "", "The keys that differ:", "", *write_table(fields, set())]
    shown = {section.get("title") for section in sections.values()}
    for name, section in definitions.items():
        if name not in shown and "properties" in section:
            required = {*section.get("required", ())}
            lines += ["", f"## {name}", "", *write_text(section), *write_table(section["properties"], required)]
    return "\n".join(lines) + "\n"


def find_models(schema: Schema) -> dict[str, Schema]:
    """Task to the schema of its `model` section, the language model first."""
    (rule,) = schema["else"]["allOf"]
    models: dict[str, Schema] = {}
    while "if" in rule:
        task = rule["if"]["properties"]["task"]["anyOf"][0]["const"]
        models[task] = rule["then"]["properties"]["model"]
        rule = rule["else"]
    return {"language_model": rule["properties"]["model"], **dict(reversed(models.items()))}


def write_outputs(schemas: Mapping[str, Schema]) -> str:
    """The page for the outputs of verbs: for each, what it prints, and a table for each kind of object in it."""
    lines = [*OUTPUTS_HEAD]
    for verb, schema in schemas.items():
        objects = {name: kind for name, kind in schema.get("$defs", {}).items() if "properties" in kind}
        if "properties" in schema:
            objects = {schema["title"]: schema, **objects}
        lines += ["", f"## {verb}", "", f"`ablate {verb} --json` prints {write_type(schema)}."]
        for name, kind in objects.items():
            required = {*kind.get("required", ())}
            lines += ["", f"### {name}", "", *write_text(kind)]
            lines += ["| key | type | meaning |", "| --- | --- | --- |"]
            for key, field in kind["properties"].items():
                nullable = " or null" if any(option.get("type") == "null" for option in field.get("anyOf", ())) else ""
                absent = "" if key in required else "; may be missing"
                meaning = write_cell(field.get("description", ""))
                lines.append(f"| `{key}` | {write_type(field)}{nullable}{absent} | {meaning} |")
    return "\n".join(lines) + "\n"


def resolve(schema: Schema, definitions: Schema) -> Schema:
    """The schema that a reference leads to. A description beside the reference replaces its own."""
    if "$ref" not in schema:
        return schema
    found: Schema = definitions[schema["$ref"].rpartition("/")[2]]
    return {**found, **{key: value for key, value in schema.items() if key == "description"}}


def write_text(schema: Schema) -> Iterator[str]:
    """The description of a section as a paragraph."""
    if text := schema.get("description"):
        words = " ".join(text.split())
        yield f"{words[0].upper()}{words[1:].rstrip('.')}."
        yield ""


def write_table(fields: Schema, required: set[str]) -> Iterator[str]:
    """One row per key."""
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, field in fields.items():
        default = "required" if key in required else write_default(field)
        yield f"| `{key}` | {write_type(field)} | {default} | {write_cell(field.get('description', ''))} |"


def write_variants(key: str, field: Schema) -> Iterator[str]:
    """The variants of a component with their knobs. Nothing for a field that is no component."""
    variants = find_variants(field)
    if not variants:
        return
    knobs_of = [
        {name: knob for name, knob in variant["properties"].items() if name not in ("name", "version")}
        for variant in variants
    ]
    shared = {name: knob for name, knob in knobs_of[0].items() if all(knob == other.get(name) for other in knobs_of)}
    yield from ("", f"### {key}", "")
    if shared:
        yield from ("Every variant has these knobs:", "", *write_table(shared, set()), "")
    yield from (f"| variant | what it is | {'further ' if shared else ''}knobs |", "| --- | --- | --- |")
    for variant, knobs in zip(variants, knobs_of, strict=True):
        told = [write_knob(name, knob) for name, knob in knobs.items() if name not in shared]
        about = write_cell(variant.get("description", ""))
        yield f"| `{variant['title']}` | {about} | {write_cell('<br>'.join(told))} |"


def find_variants(field: Schema) -> list[Schema]:
    """The built-in variants among the options of a field."""
    return [option for option in field.get("anyOf", ()) if "const" in option.get("properties", {}).get("name", {})]


def write_knob(name: str, knob: Schema) -> str:
    """A knob of a variant with its default and its meaning."""
    default = write_default(knob)
    return f"`{name}`{f' ({default})' if default else ''}: {knob.get('description', '')}"


def write_type(field: Schema) -> str:
    """The type of a field in words, with its choices and limits."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "properties" in field:
        return f"[{field['title']}](#{field['title'].lower()})"
    if "const" in field:
        return f"`{json.dumps(field['const']).strip(chr(34))}`"
    if "enum" in field:
        shown = [f"`{choice}`" for choice in field["enum"][:LONGEST_CHOICE]]
        return ", ".join(shown) + (", ..." if len(field["enum"]) > LONGEST_CHOICE else "")
    if find_variants(field):
        own = ", `FILE.py:CLASS`" if any("pattern" in option for option in field["anyOf"]) else ""
        return f"a name from the table below{own}, or a mapping of `name` and knobs"
    if "anyOf" in field:
        kinds = dict.fromkeys(write_type(option) for option in field["anyOf"] if option.get("type") != "null")
        return " or ".join(kinds)
    kinds = field.get("type", "any value")
    names = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    words = {"object": "mapping", "array": "list", "string": "text", "boolean": "true or false"}
    kind = " or ".join(words.get(name, name) for name in names)
    if names == ["array"] and isinstance(field.get("items"), dict) and field["items"]:
        item = write_type(field["items"])
        kind = f"list of ({item})" if " or " in item else f"list of {item}"
    if names == ["object"] and isinstance(field.get("additionalProperties"), dict):
        kind = f"mapping to {write_type(field['additionalProperties'])}"
    return f"{kind}{write_limits(field)}"


def write_limits(field: Schema) -> str:
    """The lower limit of a number. Upper limits only guard against slips and are left out."""
    if "exclusiveMinimum" in field:
        return f" > {field['exclusiveMinimum']:g}"
    return f" >= {field['minimum']:g}" if "minimum" in field and field["minimum"] > -1e5 else ""


def write_default(field: Schema) -> str:
    """The default as YAML would write it; empty without a default."""
    if "default" not in field or field["default"] is None:
        return ""
    default = field["default"]
    if isinstance(default, dict):
        default = {key: value for key, value in default.items() if value is not None}
    if default in ({}, [], ""):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def write_cell(text: str) -> str:
    """Text that fits into a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
