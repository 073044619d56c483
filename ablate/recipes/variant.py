"""What optimizers and schedules have in common: a name, knobs, and a table of all variants.

Nothing here imports torch. A variant imports it in the method that needs it, because reading a grid should take no
second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

M = TypeVar("M", bound=BaseModel)


class Variant(BaseModel):
    """A named choice. Its fields are its knobs, which are keys of `train` in a grid. Each has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    name: ClassVar[str]
    summary: ClassVar[str] = ""  # for the description of the key that chooses it
    version: ClassVar[str] = ""  # of a variant from a user's file: the hash of its code
    code: ClassVar[Any] = None  # of a variant from a user's file: its `ablate_model.own_code.Code`

    @classmethod
    def from_settings(cls, settings: object) -> Self:
        """Take the knobs from the attributes of `settings`."""
        return cls(**{knob: getattr(settings, knob) for knob in cls.model_fields})

    @classmethod
    def explain_unread(cls) -> Mapping[str, str]:
        """The keys of `train` that every built-in variant reads but this one does not, each with the reason."""
        return {}

    @classmethod
    def load_table(cls, package: str, lines: Mapping[str, str]) -> Mapping[str, type[Self]]:
        """Import the variants that the lines "name": "module:Class" list, from modules of `package`.

        Raises `TypeError` for a line whose class is not a variant of that name.
        """
        table = {}
        for name, line in lines.items():
            module, _, attribute = line.partition(":")
            found = getattr(import_module(f".{module}", package), attribute)
            if not issubclass(found, cls) or found.name != name:
                raise TypeError(f"the line {name!r}: {line!r} of {package} names no {cls.__name__} {name!r}")
            table[name] = found
        return table


def with_knobs(**tables: Mapping[str, type[Variant]]) -> Callable[[type[M]], type[M]]:
    """Decorate a model whose fields named like the `tables` choose a variant of each.

    The fields accept only the names in the table. Every knob of every variant becomes a field of the model.
    """

    def extend(model: type[M]) -> type[M]:
        fields: dict[str, Any] = {}
        for key, table in tables.items():
            choice = model.model_fields[key]
            choice.description = "; ".join(
                filter(None, [choice.description, *(f"{name}: {v.summary}" for name, v in table.items() if v.summary)])
            )
            fields[key] = (Literal[tuple(table)], choice)
            for variant in table.values():
                fields |= {knob: (info.annotation, info) for knob, info in variant.model_fields.items()}
        return create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
        )

    return extend


def find_unread(
    chosen: Mapping[str, type[Variant]], tables: Mapping[str, Mapping[str, type[Variant]]]
) -> dict[str, str]:
    """The knobs that none of the chosen variants reads, each with the reason."""
    unread: dict[str, str] = {}
    for key, table in tables.items():
        knobs = {knob for variant in table.values() for knob in variant.model_fields}
        for knob in sorted(knobs - set(chosen[key].model_fields)):
            readers = " or ".join(name for name, variant in table.items() if knob in variant.model_fields)
            unread[knob] = f"only {key} {readers} reads it"
    return unread
