"""The names of settings in a grid: short names, dotted paths, and the knobs of the model's components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ablate.errors import find_near, suggest
from ablate.formatting import quote
from ablate.plan.own_names import NO_OWN, OwnVariants
from ablate.study.declaration import Declaration
from ablate.study.schema import TrainConfig
from ablate.study.settings import NAME, flatten

# Short names in every grid. Those of a task's model, such as `cross_attention`, come on top.
SHORT_NAMES: Mapping[str, str] = {
    "attention": "model.attention.name",
    "normalization": "model.normalization.name",
    "context_length": "model.context_length",
    "num_maps": "model.attention.num_maps",
}
ROOTS = ("model", "train", "task")
SITE = "attention"  # a model with several attentions has, for example, cross_attention


class Names:
    """The legal names. `variants` is `ablate_model.variants()`, `model_defaults` the fields of its config.

    `own` has the variants from the user's files, and `task` the knobs of the task with their defaults.
    """

    def __init__(
        self,
        variants: Mapping[str, Mapping[str, Any]],
        model_defaults: Mapping[str, Any],
        own: OwnVariants = NO_OWN,
        task: Mapping[str, Any] | None = None,
    ) -> None:
        self.variants = {axis: {**table, **own.model.get(axis, {})} for axis, table in variants.items()}
        self.task_fields = tuple(task or ())
        sites = [axis for axis in variants if axis.endswith(f"_{SITE}")]
        self.short_names = {**SHORT_NAMES, **{site: f"model.{site}.{NAME}" for site in sites}}
        self._inherited = {f"model.{site}": f"model.{SITE}" for site in sites}
        self.model_fields, self.own = tuple(model_defaults), own
        self.train_fields = tuple(dict.fromkeys((*TrainConfig.model_fields, *own.train_knobs)))
        self._defaults = {
            f"model.{name}": value
            for name, value in model_defaults.items()
            if isinstance(value, str | int | float | bool)
        }
        firsts = {f"model.{component}": next(iter(table)) for component, table in variants.items()}
        self._defaults |= {f"{path}.{NAME}": first for path, first in firsts.items() if path not in self._inherited}
        self._defaults |= {f"task.{name}": value for name, value in (task or {}).items()}
        self._known: dict[str, tuple[str, ...]] = {}

    @cached_property
    def _components(self) -> Mapping[str, str]:
        return {f"model.{component}": f"model.{component}.name" for component in self.variants}

    def path(self, name: str) -> str:
        """The dotted path that a name stands for: `model.attention.name` for `attention` and for `model.attention`."""
        return self.short_names.get(name) or self._components.get(name, name)

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        return (
            *self.short_names,
            *(f"model.{name}" for name in self.model_fields),
            *(f"train.{name}" for name in self.train_fields),
            *(f"task.{name}" for name in self.task_fields),
        )

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        return ROOTS if self.task_fields else tuple(root for root in ROOTS if root != "task")

    def knobs(self, component: str, variant: Any) -> tuple[str, ...]:
        """The knobs of a variant; empty for an unknown variant."""
        found = self.variants.get(component, {}).get(variant) if isinstance(variant, str) else None
        return tuple(found["knobs"]) if found else ()

    def has_knob(self, component: str, variant: Any, knob: str) -> bool:
        """Tell if a variant has this knob, or a group of that name: `alpha_attn` stands for `alpha_attn.init`."""
        return any(known == knob or known.startswith(f"{knob}.") for known in self.knobs(component, variant))

    def owners(self, component: str, knob: str) -> list[str]:
        """The variants of a component that have the knob."""
        return [variant for variant in self.variants.get(component, {}) if self.has_knob(component, variant, knob)]

    def check_knob(self, component: str, knob: str) -> None:
        """Raises `ValueError` where no variant of the component has the knob."""
        if not self.owners(component, knob):
            every = dict.fromkeys(
                known for variant in self.variants[component] for known in self.knobs(component, variant)
            )
            raise ValueError(f"no {component} has a knob {quote(knob)}{suggest(knob, ('name', *every))}")

    def check_axis(self, name: str) -> None:
        """Raises `ValueError` where the name is neither a short name nor a dotted path into model or train."""
        path = self.path(name)
        root, *rest = path.split(".")
        if root == "data":
            raise ValueError("arms are compared on the same data: an axis can vary only model.* and train.*")
        if root == "task" and rest == [NAME]:
            raise ValueError("all arms of a study have the same task: make a study for each")
        if root not in self._roots or not rest:
            nested = [candidate for candidate in self._paths if candidate.endswith(f".{name}")]
            near = nested[0] if nested else find_near(name, (*self.short_names, *self._paths))
            *first, last = self._roots
            rule = f"an axis is a short name or a dotted path into {', '.join(first)} or {last}"
            hint = f"; did you mean {quote(near)}? ({rule})" if near else f"{suggest(name, self.short_names)}; {rule}"
            raise ValueError(f"unknown axis {quote(name)}{hint}")
        self._check_path(root, rest, name)

    def _check_path(self, root: str, rest: Sequence[str], name: str) -> None:
        legal = {"model": self.model_fields, "train": self.train_fields, "task": self.task_fields}[root]
        if rest[0] not in legal:
            raise ValueError(f"{quote(name)}: unknown key {quote(rest[0])}{suggest(rest[0], legal)}")
        has_knobs = root == "model" and rest[0] in self.variants
        if has_knobs and rest[1:] not in ([], ["name"]):
            self.check_knob(rest[0], ".".join(rest[1:]))
        elif not has_knobs and len(rest) > 1:
            raise ValueError(f"{quote(name)}: {root}.{rest[0]} is a single value and has no parts")

    def check_setting(self, name: str) -> None:
        """Raises `ValueError` where the name in a rule or an overlay is not a setting."""
        try:
            self.check_axis(name)
        except ValueError as error:
            raise ValueError(str(error).replace("an axis", "a setting").replace("axis", "setting")) from None

    def check_name(self, name: str, axes: Mapping[str, Any]) -> None:
        """Raises `ValueError` where an expression reads a name that no arm has."""
        if name not in axes and name not in self.short_names and name.split(".")[0] not in self._roots:
            raise ValueError(f"unknown name {quote(name)}{suggest(name, dict.fromkeys((*axes, *self.short_names)))}")
        if name not in axes:
            self.check_axis(name)

    def check_literal(self, name: str, value: str, levels: Sequence[Any]) -> None:
        """Raises `ValueError` for an unknown variant, and for a text where an axis has numbers."""
        _, component, *last = (*self.path(name).split("."), "")[:3]
        if component in self.variants and last == ["name"]:
            legal = dict.fromkeys((*map(str, levels), *self.variants[component]))
            if value not in legal:
                raise ValueError(f"there is no {component} {quote(value)}{suggest(value, legal)}")
        elif levels and all(type(level) in (int, float) for level in levels):
            raise ValueError(f"{name} is a number and never equals the text {quote(value)}: remove the quotes")

    def override_path(self, axis: str, variant: Any, key: str) -> str:
        """The dotted path for a key of a level such as `{name: gated, n_heads: 8}`. Knobs of the variant come first.

        Raises `ValueError` where nothing has that name.
        """
        if "." in key or key in self.short_names:
            self.check_axis(key)
            return self.path(key)
        root, component, *_ = self.path(axis).split(".")
        knobs = self.knobs(component, variant) if root == "model" else self.own.knobs_of(component, variant)
        if root == "train" and key in knobs:
            return f"train.{key}"
        if self.has_knob(component, variant, key):
            return f"model.{component}.{key}"
        sections = (("model", self.model_fields), ("train", self.train_fields), ("task", self.task_fields))
        for root, legal in sections:
            if key in legal:
                return f"{root}.{key}"
        raise ValueError(f"unknown key {quote(key)}{suggest(key, (*knobs, *self.model_fields))}")

    def spread(self, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        """(dotted path, value) of a setting: a component or a group given as a mapping becomes each of its knobs."""
        path = self.path(key)
        if isinstance(value, Mapping) and value and path.startswith("model."):
            group = path.removesuffix(f".{NAME}") if path in self._components.values() else path
            yield from flatten(value, f"{group}.")
        else:
            yield path, value

    def axis_of(self, name: str, axes: Mapping[str, Any]) -> str | None:
        """The axis that a name in an expression refers to, or None where it refers to a fixed value."""
        if name in axes:
            return name
        path = self.path(name)
        return next((axis for axis in axes if self.path(axis) == path), None)

    def base_environment(self, declared: Declaration) -> dict[str, Any]:
        """The values that no axis varies, by dotted path and by short name."""
        values: dict[str, Any] = dict(self._defaults)
        for path, value in flatten(declared.settings):
            if value != {}:
                values[path] = value
                values[self.path(path)] = value
        for name in (*self.short_names, *self._components):
            if self.path(name) in values or self.inherited(name) is None:
                values[name] = values.get(self.path(name))
        return values

    def environment(
        self, base: Mapping[str, Any], axes: Mapping[str, Any], arm: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The values that an expression reads from an arm. An axis that does not exist for the arm is None."""
        values = _Values(self, base)
        for axis in axes:
            level = arm.get(axis)
            if level is not None and level.overrides:
                values.update(level.overrides)
            name = level.name if level is not None else None
            for alias in self._names_of(axis):
                values[alias] = name
        return values

    def _names_of(self, axis: str) -> tuple[str, ...]:
        """Every name that an expression may use for the axis."""
        if axis not in self._known:
            path = self.path(axis)
            pairs = (*self.short_names.items(), *self._components.items())
            self._known[axis] = (axis, path, *(alias for alias, target in pairs if target == path))
        return self._known[axis]

    def inherited(self, name: str) -> str | None:
        """The setting from which an unset setting takes its value: `model.attention.name` for a cross-attention's."""
        _, component, *rest = (*self.path(name).split("."), "")
        above = self._inherited.get(f"model.{component}")
        return ".".join(filter(None, (above, *rest))) if above else None


class _Values(dict[str, Any]):
    """The values that an expression reads: an unset knob has its variant's default, and an unknown one is None."""

    def __init__(self, names: Names, base: Mapping[str, Any]) -> None:
        super().__init__(base)
        self.names = names

    def __missing__(self, key: str) -> Any:
        _, component, *knob = (*self.names.path(key).split("."), "", "")
        knob = [part for part in knob if part]
        above = self.names.inherited(key)
        if above is not None and self.get(f"model.{component}.{NAME}") is None:
            return self[above]
        chosen: Any = self.get(f"model.{component}.name")
        variant = self.names.variants.get(component, {}).get(chosen)
        known = variant["knobs"].get(".".join(knob)) if variant else None
        return known["default"] if known else None
