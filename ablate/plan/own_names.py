"""Variants from a user's files: where a declaration names them, what they are, and the code that they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.recipes.own import is_own, load_own, open_library
from ablate.recipes.variant import Variant
from ablate.study.declaration import Declaration
from ablate.study.overlay import Overlay
from ablate.study.schema import VARIANTS, TrainConfig
from ablate.study.settings import NAME
from ablate.study.yaml_source import Place
from ablate_model import ConfigError, ModelConfig
from ablate_model.config import TABLES
from ablate_model.own_checks import own_codes
from ablate_model.own_code import Code, split_name


@dataclass(frozen=True)
class OwnVariants:
    """What a declaration takes from the user's files: descriptions by axis and name, and variants by key of `train`."""

    model: Mapping[str, Mapping[str, Any]]
    train: Mapping[str, Mapping[str, type[Variant]]]

    def knobs_of(self, key: str, name: object) -> tuple[str, ...]:
        """The knobs that `train` has with this variant."""
        found = self.train.get(key, {}).get(str(name))
        return tuple(found.model_fields) if found else ()

    @property
    def train_knobs(self) -> tuple[str, ...]:
        """The knobs of all these variants."""
        return tuple(knob for table in self.train.values() for made in table.values() for knob in made.model_fields)

    def fit(self, train: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out knobs of other arms' optimizers and schedules, and the versions of the base's variants."""
        foreign = {f"{key}_version" for key in VARIANTS}
        if self.train:
            kept = {knob for key in VARIANTS for knob in self.knobs_of(key, train.get(key))}
            foreign |= {*self.train_knobs} - kept - TrainConfig.model_fields.keys()
        if foreign.isdisjoint(train):
            return train
        return {key: value for key, value in train.items() if key not in foreign}


NO_OWN = OwnVariants({}, {})


def read_own_variants(declared: Declaration, overlays: Sequence[Overlay] = ()) -> OwnVariants:
    """Load every variant that the declaration names by "FILE.py:CLASS".

    Raises `GridError` with the place of one that cannot be used.
    """
    model: dict[str, dict[str, Any]] = {}
    train: dict[str, dict[str, type[Variant]]] = {}
    for component, name, place in _find_names(declared, overlays):
        open_library(declared.folder)
        try:
            if (axis := _axis_of(component)) in TABLES:
                model.setdefault(component, {})[name] = TABLES[axis].resolve(name).describe()
            else:
                reserved = TrainConfig.model_fields
                train.setdefault(component, {})[name] = load_own(component, name, None, reserved)
        except ConfigError as error:
            legal = f" (legal: {', '.join(map(str, error.legal))})" if error.legal else ""
            raise place.refuse(f"{error.message}{legal}") from None
        except ValueError as error:
            raise place.refuse(str(error)) from None
    return OwnVariants(model, train)


def _find_names(declared: Declaration, overlays: Sequence[Overlay]) -> Iterator[tuple[str, str, Place]]:
    """(component, name, place) of each own variant in the sections that can hold one."""
    found: list[tuple[str, str, Place]] = []
    sections: dict[str, Any] = {"model": declared.model}
    sections |= {key: getattr(declared, key) for key in ("matrix", "arm", "baseline") if hasattr(declared, key)}
    for section, content in sections.items():
        found += ((c, n, declared.place(section, *keys)) for c, n, keys in _walk(content, "", ()))
    train = {key: getattr(declared.train, key) for key in VARIANTS}
    found += ((c, n, declared.place("train", *keys)) for c, n, keys in _walk(train, "", ()))
    for index, rule in enumerate(declared.rules):
        found += ((c, n, declared.place("rules", index, "set", *keys)) for c, n, keys in _walk(rule.set, "", ()))
    for prefix, owner in (((), declared), (("tune",), getattr(declared, "tune", None))):
        for path, parameter in getattr(owner, "space", {}).items():
            place = declared.place(*prefix, "space", path)
            found += ((c, n, place) for c, n, _ in _walk(parameter.choices, path, ()))
    for overlay in overlays:
        for key, value in overlay.settings.items():
            found += ((c, n, overlay.place_of(key)) for c, n, _ in _walk(value, key, ()))
    seen = set()
    for component, name, place in found:
        if (component, name) not in seen:
            seen.add((component, name))
            yield component, name, place


def _axis_of(component: str) -> str:
    """The table of a component: one of several attentions, such as `decoder_attention`, has that of `attention`."""
    return "attention" if component.endswith("_attention") else component


def _walk(value: Any, path: str, keys: tuple[str | int, ...]) -> Iterator[tuple[str, str, tuple[str | int, ...]]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, path if key in (NAME, "value") else str(key), (*keys, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _walk(inner, path, (*keys, index))
    elif isinstance(value, str):
        component = path.removesuffix(f".{NAME}").rpartition(".")[2]
        in_model = _axis_of(component) in TABLES and split_name(value)
        if in_model or (component in VARIANTS and is_own(component, value, VARIANTS[component])):
            yield component, value, keys


def codes_of(model: ModelConfig, train: TrainConfig) -> list[Code]:
    """The code that an arm needs beside these packages."""
    return [*own_codes(model), *(variant.code for variant in train.own.values())]
