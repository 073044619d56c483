"""grid.yaml to `Study`. Every error names the file, the line, the key, and the nearest legal one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ablate.errors import GridError, suggest
from ablate.study.schema import STUDY_NAME, Study
from ablate.study.source import Path, Source, parse_yaml

MAX_BYTES = 10_000_000

# These hold names that may contain dots themselves: matrix.train.learning_rate is one axis.
FLAT_SECTIONS = frozenset({"matrix", "conditions", "baseline"})


def load_study(path: str | FilePath, settings: Sequence[str] = ()) -> Study:
    """The study declared in the file `path`, with each `key=value` of `settings` laid over it.

    Raises `GridError` with one message for everything that is wrong with the file, up to five problems at once.
    """
    data, source = _read(FilePath(path))
    for setting in settings:
        source = _apply_setting(data, source, setting)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        problems = [_describe(problem, source) for problem in error.errors()[:5]]
        raise GridError("\n".join(dict.fromkeys(problems))) from None
    study._source = source
    return study


def study_name(path: str | FilePath) -> str:
    """The name alone, for the commands that look at what a study left behind."""
    data, source = _read(FilePath(path))
    name = data.get("study")
    if not isinstance(name, str) or not re.fullmatch(STUDY_NAME[1:-1], name):
        raise GridError(f"{source.locate(('study',))}: {_NAME_RULE}, got {name!r}")
    return name


_NAME_RULE = "a study's name is letters, digits, '.', '_' and '-', starts with a letter or a digit, and has at most 100"


def _read(path: FilePath) -> tuple[dict[str, Any], Source]:
    if path.is_dir():
        raise GridError(f"{path}: this is a directory; name the grid file in it")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GridError(f"{path}: a grid of more than {MAX_BYTES // 1_000_000} MB is none")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise GridError(f"{path}: there is no such file{suggest(path.name, near)}") from None
    except UnicodeDecodeError:
        raise GridError(f"{path}: this is not a text file in UTF-8") from None
    except OSError as error:
        raise GridError(f"{path}: cannot be read: {error.strerror}") from None
    data, source = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise GridError(f"{path}: a grid is a mapping that starts with `study: NAME`")
    return data, source


def _apply_setting(data: dict[str, Any], source: Source, setting: str) -> Source:
    key, separator, text = setting.partition("=")
    parts = key.strip().split(".", 1 if key.split(".", 1)[0] in FLAT_SECTIONS else -1)
    if not separator or not all(parts):
        raise GridError(f"--set {setting}: write it as key=value, for example train.steps=100")
    value, _ = parse_yaml(text, f"--set {key}")
    place = data
    for part in parts[:-1]:
        child = place.get(part)
        if isinstance(child, str) and place is data.get("model"):
            child = {"name": child}  # model.attention: NAME becomes a mapping when one of its knobs is set
        elif child is None:
            child = {}
        elif not isinstance(child, dict):
            raise GridError(f"--set {key}: {part!r} is {child!r}, which has no parts")
        place[part] = child
        place = child
    place[parts[-1]] = value
    return source.with_setting(tuple(parts))


def _describe(problem: ErrorDetails, source: Source) -> str:
    path: Path = tuple(problem["loc"])
    if problem["type"] == "missing":
        return f"{source.locate(path[:-1])}: the key {path[-1]!r} is missing"
    return f"{source.locate(path)}: {explain(problem, path)}"


def explain(problem: ErrorDetails, path: Path) -> str:
    """What is wrong with the value at `path` of a study, in words, with the legal values where they can be listed."""
    got = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key{suggest(path[-1], _legal_keys(path[:-1]))}"
        case "string_pattern_mismatch" if path == ("study",):
            return f"{_NAME_RULE}, got {got!r}"
        case "literal_error":
            return f"unknown value {got!r}{suggest(got, _legal_values(path))}"
        case "value_error":
            return problem["msg"].removeprefix("Value error, ")
        case _:
            return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {got!r}"


def _model_at(path: Path) -> type[BaseModel] | None:
    """The class that describes the mapping at `path`, or None where the grid is free."""
    model: type[BaseModel] | None = Study
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model


def _legal_keys(path: Path) -> list[str]:
    model = _model_at(path)
    return list(model.model_fields) if model else []


def _legal_values(path: Path) -> list[str]:
    model = _model_at(path[:-1])
    field = model.model_fields.get(str(path[-1])) if model else None
    return [str(value) for value in get_args(field.annotation)] if field else []
