"""Read and validate declarations. Every error names the file, the line, the key, and the nearest legal key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ablate.errors import GridError, find_near, suggest
from ablate.files import NAME_RULE, study_name_problem
from ablate.formatting import quote
from ablate.recipes.own import look_in
from ablate.study.declaration import Declaration, Study
from ablate.study.seeds import MappingForm
from ablate.study.settings import Settings
from ablate.study.yaml_source import KeyPath, Source, parse_yaml

MAX_BYTES = 1_000_000

# The keys of these sections may contain dots: matrix.train.learning_rate is one axis.
FLAT_SECTIONS = frozenset({"matrix", "conditions", "baseline", "space", "arm", "set"})

T = TypeVar("T", bound=Declaration)
M = TypeVar("M", bound=BaseModel)


def load_study(path: str | Path, settings: Sequence[str] = ()) -> Study:
    """Read the study that the file `path` declares; each `key=value` of `settings` overrides a value of the file.

    Raises `GridError` with one message for everything that is wrong with the file, up to five problems at once.
    """
    return load_declared(Study, path, settings)


def load_declared(kind: type[T], path: str | Path, settings: Sequence[str] = ()) -> T:
    """Read the declaration of a `kind` from the file `path`. Raises `GridError` as `load_study` does."""
    data, source = read_declaration(Path(path))
    look_in(Path(path).parent)
    theirs, verb = ("search", "ablate search") if kind.KEY == "study" else ("study", "ablate run")
    if theirs in data and kind.KEY not in data:
        raise GridError(f"{path}: this file declares a {theirs}: use `{verb}` for it")
    declared = Settings(data)
    for setting in settings:
        source = _apply_setting(declared, source, setting)
    result = validate(kind, declared.tree, source)
    result._source = source
    return result


def validate(kind: type[M], tree: Any, source: Source) -> M:
    """Build what a file declares. Raises `GridError`, with up to five problems, if something is wrong."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        found = _leave_out_misspelt(error.errors(), kind)
        problems = [describe_problem(problem, source, kind) for problem in found[:5]]
        raise GridError("\n".join(dict.fromkeys(problems))) from None


def study_name(path: str | Path) -> str:
    """Read only the name of a study or search, for commands that look at its results."""
    data, source = read_declaration(Path(path))
    key = "search" if "search" in data else "study"
    if problem := study_name_problem(data.get(key)):
        raise GridError(f"{source.locate((key,))}: {problem}")
    return str(data[key])


def is_search(path: str | Path) -> bool:
    """Tell if the file declares a search rather than a study."""
    return "search" in read_declaration(Path(path))[0]


_FORM = "a grid is a mapping that starts with `study: NAME` (a search: with `search: NAME`)"


def read_declaration(path: Path, form: str = _FORM) -> tuple[dict[str, Any], Source]:
    """Read a YAML file that holds a mapping. Returns the mapping and the places of its values.

    Raises `GridError` for anything else; `form` tells the user what the file should hold."""
    if path.is_dir():
        raise GridError(f"{path}: this is a directory; name the grid file in it")
    try:
        with path.open("rb") as file:  # a pipe or a device may have no end
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise GridError(f"{path}: grid files are limited to {MAX_BYTES // 1_000_000} MB")
        text = content.decode()
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise GridError(f"{path}: no such file{suggest(path.name, near)}") from None
    except UnicodeDecodeError:
        raise GridError(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise GridError(f"{path}: cannot be read: {error.strerror}") from None
    data, source = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise GridError(f"{path}: {form}")
    return data, source


def _apply_setting(settings: Settings, source: Source, setting: str) -> Source:
    key, separator, text = setting.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise GridError(f"--set {quote(setting)[1:-1]}: use the form key=value, for example train.steps=100")
    value, _ = parse_yaml(text, f"--set {key}")
    path = _read_path(settings, parts)
    try:
        settings.set(path, value)
    except ValueError as error:
        raise GridError(f"--set {key}: {error}") from None
    return source.with_setting(path)


def _read_path(settings: Settings, parts: Sequence[str]) -> KeyPath:
    """Split a dotted path into keys. An entry of a list is a number, and some keys contain dots themselves."""
    path: KeyPath = ()
    while rest := parts[sum(str(key).count(".") + 1 for key in path) :]:
        above = settings.get(path)
        if isinstance(above, list) and rest[0].isdecimal():
            path = (*path, int(rest[0]))
            continue
        starts = [".".join(rest[:n]) for n in range(len(rest), 0, -1)]
        known = next((start for start in starts if isinstance(above, dict) and start in above), None)
        sections = [key for key in path if isinstance(key, str)]
        path = (*path, known or starts[0 if FLAT_SECTIONS & {*sections[-1:]} else -1])
    return path


def _leave_out_misspelt(problems: Sequence[ErrorDetails], kind: type[BaseModel]) -> list[ErrorDetails]:
    """The problems without keys that are only missing because they are misspelled: the unknown key names them."""
    meant = {
        (*path[:-1], find_near(str(path[-1]), _legal_keys(path[:-1], kind)))
        for path in (problem["loc"] for problem in problems if problem["type"] == "extra_forbidden")
    }
    return [problem for problem in problems if problem["type"] != "missing" or problem["loc"] not in meant]


def describe_problem(problem: ErrorDetails, source: Source, kind: type[BaseModel]) -> str:
    """Describe a problem that pydantic found in a declaration, with its place."""
    path: KeyPath = tuple(problem["loc"])
    if problem["type"] == "missing":
        return f"{source.locate(path[:-1])}: the key {quote(path[-1])} is missing"
    message = explain(problem, path, kind)
    key, _, rest = message.partition(": ")  # of a key below, by a check of several keys together
    below = (*path, *key.split("."))
    if rest and (below in source.lines or below in source.settings):
        path, message = below, rest
    return f"{source.locate(path)}: {message}"


def explain(problem: ErrorDetails, path: KeyPath, kind: type[BaseModel] = Study) -> str:
    """Explain what is wrong with the value at `path` of a declaration; name the legal values where they are known."""
    got = quote(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key{suggest(path[-1], _legal_keys(path[:-1], kind))}"
        case "string_pattern_mismatch" if path in (("study",), ("search",)):
            return f"{NAME_RULE}, got {got}"
        case "literal_error":
            return f"unknown value {got}{suggest(problem['input'], _legal_values(path, kind))}"
        case "value_error":
            return problem["msg"].removeprefix("Value error, ")
        case "model_type" | "dict_type":
            keys = ", ".join(_legal_keys(path, kind))
            return f"must be a mapping{keys and f' of {keys}'}, got {got}"
        case "tuple_type":
            return f"must be a list, got {got}"
        case "too_short":
            return "is empty"
        case _:
            message = problem["msg"].replace("Input should be", "must be", 1)
            return f"{message[0].lower()}{message[1:]}, got {got}{_legal_range(path, kind)}"


def _model_at(path: KeyPath, kind: type[BaseModel]) -> type[BaseModel] | None:
    """The class that describes the mapping at `path`, or None where any keys are allowed."""
    model: type[BaseModel] | None = kind
    is_free = False
    for part in path:
        if isinstance(part, int):
            continue
        if is_free:  # a name in a mapping from names to entries of one class
            is_free = False
            continue
        field = model.model_fields.get(part) if model else None
        forms = [form.model for form in field.metadata if isinstance(form, MappingForm)] if field else []
        kinds = [*_classes(field.annotation), *forms] if field else []
        model = next((k for k in kinds if issubclass(k, BaseModel)), None)
        is_free = dict in kinds
    return model


def _classes(annotation: Any) -> Iterator[type]:
    """Every class in a type annotation."""
    if isinstance(annotation, type):
        yield annotation
    if isinstance(get_origin(annotation), type):
        yield get_origin(annotation)
    for part in get_args(annotation):
        yield from _classes(part)


def _legal_keys(path: KeyPath, kind: type[BaseModel]) -> list[str]:
    model = _model_at(path, kind)
    return [name for name, field in model.model_fields.items() if not field.exclude] if model else []


def _legal_range(path: KeyPath, kind: type[BaseModel]) -> str:
    """The legal range of a number, to end a message with; empty where there is no limit."""
    model = _model_at(path[:-1], kind)
    known = model.model_json_schema()["properties"].get(str(path[-1]), {}) if model and path else {}
    limits: dict[str, Any] = next((option for option in known.get("anyOf", [known]) if "maximum" in option), {})
    bounds = [
        f"{word} {limits[key]:{',d' if isinstance(limits[key], int) else 'g'}}"
        for key, word in (("minimum", "at least"), ("exclusiveMinimum", "more than"), ("maximum", "at most"))
        if key in limits
    ]
    return f" (legal: {', '.join(bounds)})" if bounds else ""


def _legal_values(path: KeyPath, kind: type[BaseModel]) -> list[str]:
    model = _model_at(path[:-1], kind)
    field = model.model_fields.get(str(path[-1])) if model else None
    return _literals(field.annotation) if field else []


def _literals(annotation: Any) -> list[str]:
    """Every value of the literals in a type annotation, such as `Literal["seeds"] | None`."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for part in get_args(annotation) for value in _literals(part)]
