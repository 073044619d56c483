"""The configuration of a model: parsing, checks, costs, and which settings change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from operator import attrgetter
from typing import Any, ClassVar, Self

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator

from . import attention as attention_axis
from . import linear as linear_axis
from . import mlp as mlp_axis
from . import normalization as normalization_axis
from . import position as position_axis
from . import topology as topology_axis
from .contracts import NO_MLP, Architecture, Attention, Linear, Mlp, Normalization, Position, Size, Topology
from .cost import count_forward_flops, count_params
from .errors import ConfigError, describe_unknown, quote
from .knobs import translate
from .presets import PRESETS
from .schema import describe_schema
from .table import Table

TABLES: dict[str, Table[Any]] = {
    table.axis: table
    for table in (
        attention_axis.TABLE,
        normalization_axis.TABLE,
        mlp_axis.TABLE,
        position_axis.TABLE,
        linear_axis.TABLE,
        topology_axis.TABLE,
    )
}


def _default_d_ff(known: Mapping[str, Any]) -> int:
    """Return the MLP's own choice, or any number if an invalid mlp or d_model is about to be reported anyway."""
    if "mlp" not in known or "d_model" not in known:
        return 1
    width: int = known["mlp"].default_d_ff(known["d_model"])
    return width


class ModelConfig(Architecture):
    """A decoder-only language model, fully resolved: every default that depends on a size has become a number.

    A component (attention, normalization, mlp, position, linear, topology) is given by its name, by a mapping
    {name: ..., knob: value}, or as its own config object. Raises ConfigError for anything that cannot be built.
    Other kinds of models (encoders/) are subclasses, and `to_dict` names their kind.
    """

    kind: ClassVar[str] = "gpt"
    derived: ClassVar[tuple[str, ...]] = ()  # settings that follow from others and are not part of `to_dict`
    axes: ClassVar[Mapping[str, Table[Any]]] = TABLES

    attention: SerializeAsAny[Attention] = Field(
        default_factory=attention_axis.TABLE.default, description="how tokens exchange information"
    )
    normalization: SerializeAsAny[Normalization] = Field(
        default_factory=normalization_axis.TABLE.default, description="how the residual stream is kept in bounds"
    )
    mlp: SerializeAsAny[Mlp] = Field(
        default_factory=mlp_axis.TABLE.default, description="how the features of one token are mixed"
    )
    position: SerializeAsAny[Position] = Field(
        default_factory=position_axis.TABLE.default, description="how the model knows the order of tokens"
    )
    linear: SerializeAsAny[Linear] = Field(
        default_factory=linear_axis.TABLE.default, description="what hidden linear layers compute"
    )
    topology: SerializeAsAny[Topology] = Field(
        default_factory=topology_axis.TABLE.default, description="how blocks are joined"
    )
    d_ff: Size = Field(
        default_factory=_default_d_ff, description="inner width of the MLP; null takes the MLP's default"
    )

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise translate(error, type(self)) from None

    @field_validator(*TABLES, mode="before")
    @classmethod
    def _parse_component(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None  # a field validator always has one
        return TABLES[info.field_name].parse(value)

    @field_validator("d_ff", mode="before")
    @classmethod
    def _choose_d_ff(cls, value: object, info: ValidationInfo) -> object:
        return _default_d_ff(info.data) if value is None else value

    @model_validator(mode="after")
    def _resolve_and_check(self) -> Self:
        if self.d_model % self.n_heads:
            divisors = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            raise ConfigError("n_heads", f"must divide d_model = {self.d_model}, got {self.n_heads}", divisors)
        self.__dict__["dropped"] = _check_dropped(self.dropped, self.n_layers)
        self.prepare()
        for axis in TABLES:
            self.__dict__[axis] = getattr(self, axis).resolve(self)  # the config is frozen for everyone else
        for axis in TABLES:
            getattr(self, axis).check(self)
        if self.value_residual != "none":
            for path in self.topology.paths(self.n_layers):
                if not self.keeps("attention", path[0]):
                    raise ConfigError("dropped", f"value_residual needs the values of attention/{path[0]}")
        self.finish()
        return self

    def prepare(self) -> None:
        """Complete a kind of model before its components are resolved."""

    def finish(self) -> None:
        """Check a kind of model after its components were resolved and checked. Raises ConfigError."""

    @classmethod
    def parse(cls, mapping: Mapping[str, Any]) -> Self:
        """Make a config from plain data, such as the `model` mapping of a grid or `to_dict()`. Raises ConfigError."""
        if not isinstance(mapping, Mapping):
            raise ConfigError("", f"expected a mapping of a model's settings, got {mapping!r:.100}", cls.model_fields)
        unnamed = [key for key in mapping if not isinstance(key, str)]
        if unnamed:
            raise ConfigError("", f"keys must be strings, got {quote(unnamed[0])}", cls.model_fields)
        kind = mapping.get("kind", cls.kind)
        if kind != cls.kind:
            raise ConfigError("kind", f"expected a model of this kind, got {quote(kind)}", [cls.kind])
        return cls(**{key: value for key, value in mapping.items() if key != "kind"})

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Make a published configuration (presets.py) with `changes`. Raises ConfigError for an unknown name."""
        if name not in PRESETS:
            raise ConfigError("preset", describe_unknown(name, PRESETS, "preset"), PRESETS)
        return cls.parse({**PRESETS[name], **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data that `parse` accepts; components have their name, version and all knobs."""
        kind = {} if self.kind == ModelConfig.kind else {"kind": self.kind}  # absent from the ids of a GPT's runs
        components = {axis: getattr(self, axis).to_dict() for axis in self.axes}
        return {**kind, **self.model_dump(mode="json", exclude={*TABLES, *self.axes, *self.derived}), **components}

    def num_params(self) -> int:
        return self._n_params

    def flops_per_token(self) -> int:
        """Return training FLOPs per token: three times the forward pass, matmuls only, causal attention halved."""
        return 3 * self._forward_flops

    # Thousands of arms share a config, so its sizes are kept.
    @cached_property
    def _n_params(self) -> int:
        return count_params(self)

    @cached_property
    def _forward_flops(self) -> int:
        return count_forward_flops(self, self.context_length)

    def __copy__(self) -> Self:
        """Return a copy without the sizes, because `model_copy` changes its settings."""
        copy = super().__copy__()
        for name in ("_n_params", "_forward_flops"):
            copy.__dict__.pop(name, None)
        return copy

    def blocks_per_token(self) -> float:
        """Return how many blocks compute per token, for estimates of time and memory."""
        return float(self.n_layers)

    def resized(self, d_ff: int) -> Self:
        """Return this model with another width of its MLPs."""
        return self.model_copy(update={"d_ff": d_ff})

    def notices(self) -> tuple[str, ...]:
        """Return facts about this model that the reader of a result should know."""
        idle = {path: why for path, why in self.idle_settings().items() if why}
        return (
            *self.component_notices(),
            *(f"{path} {attrgetter(path)(self)} has no effect: {why}" for path, why in idle.items()),
        )

    def component_notices(self) -> Iterable[str]:
        return (notice for axis in TABLES for notice in getattr(self, axis).notices(self))

    def idle(self) -> dict[str, str]:
        """Return the settings that change nothing in this model: dotted path to the reason (see `Variant.idle`)."""
        found = {f"{axis}.{knob}": why for axis in TABLES for knob, why in getattr(self, axis).idle(self).items()}
        later_layers = [layer for path in self.topology.paths(self.n_layers) for layer in path[1:]]
        if not any(self.keeps("attention", layer) for layer in later_layers):
            found["value_residual"] = "no path has two layers with attention"
        if not self.count_kept("block"):
            found["embedding_shortcut"] = "no layer keeps a block"
            if self.model_copy(update={"bias": not self.bias}).num_params() == self.num_params():
                found["bias"] = "no remaining layer could have one"
        if not self.count_kept("mlp"):
            found["d_ff"] = NO_MLP
        elif not self.mlp.reads_d_ff:
            found["d_ff"] = f"{self.mlp.name} does not read it"
        return found

    def idle_settings(self) -> dict[str, str]:
        """Return settings that differ from their defaults but change nothing in this model: dotted path to the reason.

        The reason is empty where another setting fixes this one.
        """
        usual = self.canonical()
        if usual is self:
            return {}
        idle = self.idle().items()
        return {path: why for path, why in idle if attrgetter(path)(self) != attrgetter(path)(usual)}

    def canonical(self) -> Self:
        """Return this model with idle settings at their defaults: one config for all models that train alike."""
        strays = [path for path in self.idle() if attrgetter(path)(self) != self._default(path)]
        if not strays:
            return self
        data = self.to_dict()
        for path in strays:
            *owners, name = path.split(".")
            tree = data
            for owner in owners:
                tree = tree[owner]
            del tree[name]
        return self.parse(data)

    def _default(self, path: str) -> object:
        """Return the default of a setting, before any size is known."""
        axis, *knobs = path.split(".")
        owner = type(getattr(self, axis)) if knobs else type(self)
        name, *group = knobs or [axis]
        default = owner.model_fields[name].default
        return attrgetter(".".join(group))(default) if group else default

    def __eq__(self, other: object) -> bool:
        """Whether both are the same model; settings that change nothing in it do not count."""
        return isinstance(other, ModelConfig) and super(ModelConfig, self.canonical()).__eq__(other.canonical())

    def __hash__(self) -> int:
        usual = self.canonical()
        return hash(tuple(getattr(usual, name) for name in type(self).model_fields))

    def recipe(self) -> dict[str, float]:
        """Return the training defaults of the normalization."""
        return self.normalization.recipe()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of the `model` mapping of grid.yaml."""
        return describe_schema(cls, {**TABLES, **cls.axes}, cls.derived)


def variants(kind: type[ModelConfig] = ModelConfig) -> dict[str, dict[str, dict[str, Any]]]:
    """Return axis -> name -> {summary, paper, equations, deviations, neutral, version, knobs} of every working line.

    The axes are those that a configuration of this kind takes.
    """
    return {axis: table.describe()[0] for axis, table in {**TABLES, **kind.axes}.items()}


def broken_lines() -> list[ConfigError]:
    """Return the errors of the lines that `variants` leaves out."""
    return [error for table in TABLES.values() for error in table.describe()[1]]


def _check_dropped(dropped: Iterable[str], n_layers: int) -> tuple[str, ...]:
    """Return each name once, in the order of the layers. Raises ConfigError for one that is not a sub-layer."""
    names = dict.fromkeys(dropped)
    if not names:  # the usual case, which must stay fast for ten thousand layers
        return ()
    legal = dict.fromkeys(f"{part}/{layer}" for layer in range(n_layers) for part in ("attention", "mlp"))
    for name in names:
        if name not in legal:
            raise ConfigError("dropped", f"there is no sub-layer {quote(name)}", legal)
    return tuple(name for name in legal if name in names)
