"""Optimizers and schedules from a user's file or from an installed package."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, create_model

from ablate.errors import suggest
from ablate.formatting import quote
from ablate.recipes.optimizers.base import CommonSettings, OptimizerVariant
from ablate.recipes.schedules.base import ScheduleVariant
from ablate.recipes.variant import Variant

if TYPE_CHECKING:
    import torch

    from ablate_model.gpt import HeadedModel
    from ablate_model.own_code import Library

M = TypeVar("M", bound=BaseModel)

OWN_NAME = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")
N_CHECKED = 1000  # steps of a schedule that are tried before it is used
STEP_FACTS = ("step", "steps", "warmup_steps")


def is_own(key: str, name: object, table: Collection[str]) -> bool:
    """Tell if `name` is "FILE.py:CLASS", or what an installed package offers as "KEY.NAME". Loads nothing."""
    if not isinstance(name, str) or name in table:
        return False
    return bool(OWN_NAME.fullmatch(name)) or f"{key}.{name}" in _offered()


@cache
def _offered() -> frozenset[str]:
    from importlib.metadata import entry_points

    return frozenset(point.name for point in entry_points(group="ablate.variants"))


_fresh_folder: list[Path] = []  # of a grid that was just read, whose files are to be read again


def look_in(folder: Path) -> None:
    """From now on, find the user's files in `folder`. Loads nothing."""
    _fresh_folder[:] = [folder]


def open_library(folder: Path | None = None) -> Library:
    """The library of the user's files. Loads torch. `folder` is that of the current grid, if there is one."""
    from ablate_model.own_code import LIBRARY

    if _fresh_folder:
        LIBRARY.look_in(_fresh_folder.pop())
    if folder is not None and LIBRARY.folder != folder:
        LIBRARY.look_in(folder)
    return LIBRARY


def read_own(model: type[M], tables: Mapping[str, Collection[str]], data: Any, read: Callable[[Any], Any]) -> Any:
    """Read a `model` whose data may name the user's variants. It then gets their knobs and the hashes of their code.

    Raises `ValueError` for such a variant that cannot be used, and for an unknown key beside it.
    """
    if not isinstance(data, Mapping):
        return read(data)
    named = {key: data[key] for key, table in tables.items() if key in data and is_own(key, data[key], table)}
    if not named:
        return read(data)
    own = {key: load_own(key, name, data.get(f"{key}_version"), model.model_fields) for key, name in named.items()}
    extended = _extend(model, *own.items())
    for key in data:
        if key not in extended.model_fields:
            raise ValueError(f"unknown key {quote(key)}{suggest(key, extended.model_fields)}")
    return extended.model_validate(data)


@cache
def _extend(model: type[M], *own: tuple[str, type[Variant]]) -> type[M]:
    fields: dict[str, Any] = {}
    for key, variant in own:
        fields[key] = (Literal[variant.name], model.model_fields[key])
        fields[f"{key}_version"] = (Literal[variant.version], variant.version)
        fields |= {knob: (info.annotation, info) for knob, info in variant.model_fields.items()}
    made = create_model(model.__name__, __base__=model, __module__=model.__module__, **fields)
    made.own = dict(own)  # type: ignore[attr-defined]
    return made


def load_own(key: str, name: str, version: str | None, reserved: Collection[str]) -> type[Variant]:
    """The variant behind the name, in the version that a record names, with no knob named as in `reserved`.

    Raises `ValueError` with the line of the user's file that fails.
    """
    from ablate_model import ConfigError
    from ablate_model.own_modules import load_attribute
    from ablate_model.own_variants import find_code

    open_library()
    try:
        code, attribute = find_code(name, key, version)
        item = key, name, code.version
        if item not in _loaded:
            made = MAKERS[key](load_attribute(code, attribute), name, reserved)
            made.name, made.version, made.code = name, code.version, code
            _loaded[item] = made
        return _loaded[item]
    except ConfigError as error:
        legal = f" (legal: {', '.join(map(str, error.legal))})" if error.legal else ""
        raise ValueError(f"{error.message}{legal}") from None


_loaded: dict[tuple[str, str, str], type[Variant]] = {}


class OwnOptimizer(OptimizerVariant):
    """A subclass of `torch.optim.Optimizer`. If it takes `weight_decay`, parameters of 2 or more dimensions decay."""

    target: ClassVar[Callable[..., Any]]
    takes_decay: ClassVar[bool]

    def build(self, model: HeadedModel, common: CommonSettings) -> tuple[torch.optim.Optimizer, ...]:
        if self.takes_decay:
            groups = [group for group in model.parameter_groups(common.weight_decay) if group["params"]]
        else:
            groups = [{"params": list(model.parameters())}]
        knobs = {knob: getattr(self, knob) for knob in type(self).model_fields}
        return (self.target(groups, lr=common.learning_rate, **knobs),)

    def check(self) -> None:
        import torch

        from ablate_model.own_modules import describe_error

        weight = torch.nn.Parameter(torch.ones(3, 2))
        group = {"params": [weight], **({"weight_decay": 0.1} if self.takes_decay else {})}
        knobs = {knob: getattr(self, knob) for knob in type(self).model_fields}
        try:
            optimizer = self.target([group], lr=0.1, **knobs)
            weight.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        except Exception as error:  # noqa: BLE001 - whatever the user's class raises
            raise ValueError(describe_error(error) or f"{self.name}: {type(error).__name__}: {error}") from None

    @classmethod
    def explain_unread(cls) -> Mapping[str, str]:
        reason = f"{cls.name} has its own knobs"
        unread = dict.fromkeys(("beta1", "beta2", "adam_eps"), reason)
        return unread if cls.takes_decay else {**unread, "weight_decay": f"{cls.name} takes none"}


def _make_optimizer(found: Any, name: str, reserved: Collection[str]) -> type[Variant]:
    import torch

    from ablate_model import ConfigError
    from ablate_model.signature import read_signature

    if isinstance(found, type) and issubclass(found, OptimizerVariant):
        return _check_full(found, name, reserved)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        message = f"{name} is neither a torch.optim.Optimizer nor a subclass of {OptimizerVariant.__module__}"
        raise ConfigError("name", f"{message}.OptimizerVariant")
    signature = read_signature(found, ("params", "lr", "weight_decay"), {*reserved, *dir(OwnOptimizer)})
    if not {"params", "lr"} <= set(signature.facts):
        raise ConfigError("name", f"{name} must accept `params` and `lr`")
    made = create_model(found.__name__, __base__=OwnOptimizer, __module__=found.__module__, **signature.knobs)
    made.target, made.takes_decay = found, "weight_decay" in signature.facts
    made.can_be_graphed = bool(getattr(found, "can_be_graphed", False))
    return made


class OwnSchedule(ScheduleVariant):
    """A function (step, steps, warmup_steps) -> factor of the peak learning rate, or a class whose objects are such."""

    target: ClassVar[Callable[..., Any]]
    facts: ClassVar[tuple[str, ...]]
    is_class: ClassVar[bool]
    falls: ClassVar[bool] = False  # it knows no minimum

    def height(self, progress: float) -> float:
        raise NotImplementedError("a user's schedule returns the whole factor")

    @cached_property
    def _knobs(self) -> dict[str, Any]:
        return {knob: getattr(self, knob) for knob in type(self).model_fields}

    @cached_property
    def _function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = self.target(**self._knobs) if self.is_class else self.target
        return function

    def rate(self, step: int, steps: int, warmup_steps: int, peak: float, minimum: float) -> float:  # noqa: ARG002
        facts = {"step": step, "steps": steps, "warmup_steps": warmup_steps}
        knobs = {} if self.is_class else self._knobs
        factor = self._function(**{fact: facts[fact] for fact in self.facts}, **knobs)
        try:
            value = float(factor)
        except (TypeError, ValueError):
            raise ValueError(f"{self.name} gives {factor!r} at step {step} of {steps}, not a number") from None
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{self.name} gives {value} at step {step} of {steps} (legal: at least 0)")
        return peak * value

    def check(self, steps: int, warmup_steps: int) -> None:
        from ablate_model.own_modules import describe_error

        tried = {1, min(warmup_steps + 1, steps), steps, *range(1, steps + 1, max(1, steps // N_CHECKED))}
        try:
            for step in sorted(tried):
                self.rate(step, steps, warmup_steps, 1.0, 0.0)
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises
            raise ValueError(describe_error(error) or str(error)) from None


def _make_schedule(found: Any, name: str, reserved: Collection[str]) -> type[Variant]:
    from ablate_model import ConfigError
    from ablate_model.signature import read_signature

    if isinstance(found, type) and issubclass(found, ScheduleVariant):
        return _check_full(found, name, reserved)
    is_class, taken = isinstance(found, type), {*reserved, *dir(OwnSchedule)}
    if not callable(found) or (is_class and not callable(getattr(found, "__call__", None))):  # noqa: B004
        raise ConfigError("name", f"{name} is not a function (step, steps, warmup_steps) -> factor")
    called = read_signature(found.__call__ if is_class else found, (*STEP_FACTS, "self"), taken)
    knobs = read_signature(found, (), taken).knobs if is_class else called.knobs
    if "step" not in called.facts:
        raise ConfigError("name", f"{name} must accept `step`; it may also accept `steps` and `warmup_steps`")
    made = create_model(found.__name__, __base__=OwnSchedule, __module__=found.__module__, **knobs)
    made.target = found if is_class else staticmethod(found)
    made.facts, made.is_class = tuple(fact for fact in called.facts if fact != "self"), is_class
    return made


def _check_full(found: type[Variant], name: str, reserved: Collection[str]) -> type[Variant]:
    """A subclass of the user's variant that can have the name and version by which it is recorded."""
    from ablate_model import ConfigError

    missing = [*sorted(getattr(found, "__abstractmethods__", ()))]
    missing += [f"a default of {knob}" for knob, info in found.model_fields.items() if info.is_required()]
    if missing:
        raise ConfigError("name", f"{name} names a class that lacks {', '.join(missing)}")
    built_in = next(base for base in found.__mro__ if base.__module__.startswith("ablate."))  # with keys of train
    for knob in found.model_fields:
        if knob in reserved and knob not in built_in.model_fields:  # type: ignore[attr-defined]
            raise ConfigError(
                "name", f"{name} has a knob {knob!r}, but `train` already has a key of this name: rename it"
            )
    kind: Any = type(found)
    made: type[Variant] = kind(found.__name__, (found,), {"__module__": found.__module__})
    return made


MAKERS: Mapping[str, Callable[[Any, str, Collection[str]], type[Variant]]] = {
    "optimizer": _make_optimizer,
    "schedule": _make_schedule,
}
