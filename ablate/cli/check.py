"""The verb `check`: test a variant from a user's file against its contract, and print a table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from inspect import signature
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli.options import AsJson
from ablate.errors import AblateError

if TYPE_CHECKING:
    from ablate_model import ModelConfig
    from ablate_model.contract_checks import Check
    from ablate_model.own_code import Code

SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 256, "context_length": 128}
TRAIN = {"steps": 100, "warmup_steps": 10, "weight_decay": 0.1}
N_TIMED = 7
COLORS = {"pass": "green", "fail": "red", "skip": "yellow"}


def check(
    variant: Annotated[
        str, typer.Argument(metavar="FILE[:CLASS]", help="Your file, and the class in it if there are several.")
    ],
    against: Annotated[
        str | None, typer.Option("--against", metavar="NAME", help="Built-in variant to compare with.")
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            "--axis",
            metavar="AXIS",
            help="Kind of variant: attention, mlp, normalization, position, linear, topology, optimizer, ...",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="Set a knob of the variant. Repeatable.")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also check that the compiled variant equals the eager one.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check a variant in your own file: causality, gradients, decoding, resuming, cost. Exits 1 on a failure."""
    name, code = _find(variant)
    is_sure = True
    if axis is None:
        axis, is_sure = _find_axis(code, name)
    knobs = _read_knobs(set_)
    facts: dict[str, str] = {"axis": axis, "files": ", ".join(code.files), "version": code.version}
    checks: list[Check] = []
    if axis in ("optimizer", "schedule"):
        checks += _check_recipe(axis, name, knobs)
    else:
        from ablate_model.contract_checks import Check, check_variant

        config, base = _configure(axis, name, knobs, against)
        checks += check_variant(config, axis, compiled=compile_)
        if not any(found.outcome == "fail" and found.name == "output" for found in checks):
            facts |= _compare(config, base, axis)
        else:
            checks.append(Check("cost", "skip", "it cannot be called"))
    failed = [found for found in checks if found.outcome == "fail"]
    if as_json:
        print(json.dumps({"variant": name, **facts, "checks": [asdict(found) for found in checks]}, indent=1))
    else:
        _print(name, facts if is_sure else facts | {"axis": f"{axis} (a guess; --axis sets it)"}, checks)
    raise typer.Exit(bool(failed))


def _find(variant: str) -> tuple[str, Code]:
    """The full name and the code. Raises `AblateError` if the file has several classes and none is named."""
    from ablate.recipes.own import look_in, open_library
    from ablate_model import ConfigError
    from ablate_model.own_modules import defined_names

    file, _, attribute = variant.partition(":")
    path = Path(file)
    if path.suffix != ".py":
        raise AblateError(f"{variant}: name a Python file, as in my_attention.py:MyAttention")
    look_in(path.parent)
    try:
        code = open_library().find(path.name)
        names = [attribute] if attribute else defined_names(code)
    except ConfigError as error:  # its path is a key of a grid
        raise ConfigError("", error.message, error.legal) from None
    if not attribute:
        if len(names) != 1:
            found = ", ".join(f"{file}:{name}" for name in names) or "none"
            raise AblateError(f"{variant}: which class? (legal: {found})")
        attribute = names[0]
    return f"{path.name}:{attribute}", code


def _find_axis(code: Code, name: str) -> tuple[str, bool]:
    """The axis of a variant, and whether it is certain. For a plain module it is a guess from names."""
    import torch

    from ablate.recipes.optimizers.base import OptimizerVariant
    from ablate.recipes.schedules.base import ScheduleVariant
    from ablate_model.config import TABLES
    from ablate_model.own_modules import load_attribute

    found = load_attribute(code, name.rpartition(":")[2])
    if not isinstance(found, type):
        return "schedule", True
    if issubclass(found, torch.optim.Optimizer | OptimizerVariant):
        return "optimizer", True
    if issubclass(found, ScheduleVariant) or not issubclass(found, torch.nn.Module | _variant_class()):
        return "schedule", True
    for axis, table in TABLES.items():
        if issubclass(found, table.contract):
            return axis, True
    words = name.lower()
    if any(word in words for word in ("mlp", "ffn", "feedforward")) or "d_ff" in signature(found).parameters:
        return "mlp", False
    return "normalization" if "norm" in words else "attention", False


def _variant_class() -> type[Any]:
    from ablate_model.contracts import Variant

    return Variant


def _read_knobs(settings: list[str] | None) -> dict[str, Any]:
    from ablate.study.yaml_source import parse_yaml

    knobs: dict[str, Any] = {}
    for setting in settings or ():
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise AblateError(f"--set {setting}: write it as KNOB=VALUE")
        knobs[key] = parse_yaml(text, f"--set {key}")[0]
    return knobs


def _configure(axis: str, name: str, knobs: Mapping[str, Any], against: str | None) -> tuple[ModelConfig, ModelConfig]:
    """A small model with the variant, and the same one with a built-in variant. Raises `ConfigError`."""
    from ablate.errors import suggest
    from ablate_model import ModelConfig
    from ablate_model.config import TABLES

    if axis not in TABLES:
        raise AblateError(f"--axis: unknown axis {axis!r}{suggest(axis, (*TABLES, 'optimizer', 'schedule'))}")
    base = {axis: against} if against is not None else {}
    return ModelConfig.parse({**SIZES, axis: {"name": name, **knobs}}), ModelConfig.parse({**SIZES, **base})


def _check_recipe(axis: str, name: str, knobs: Mapping[str, Any]) -> Iterator[Check]:
    from pydantic import ValidationError

    from ablate.study.load import explain
    from ablate.study.schema import TrainConfig
    from ablate.training.recipe_checks import check_optimizer, check_schedule
    from ablate_model.contract_checks import Check

    try:
        train = TrainConfig.model_validate({**TRAIN, axis: name, **knobs})
    except ValidationError as error:
        problem = error.errors()[0]
        yield Check("loading", "fail", explain(problem, ("train", *problem["loc"])))
        return
    yield from check_optimizer(train) if axis == "optimizer" else check_schedule(train)


def _compare(config: ModelConfig, base: ModelConfig, axis: str) -> dict[str, str]:
    """Parameters, FLOPs and time per step, next to those of the built-in variant."""
    from ablate.formatting import format_count

    other = getattr(base, axis).name
    pairs = {
        "parameters": (format_count(config.num_params()), format_count(base.num_params())),
        "FLOPs per token": (format_count(config.flops_per_token()), format_count(base.flops_per_token())),
        "ms per step": tuple(f"{ms:.1f}" for ms in _time_steps(config, base)),
    }
    sizes = (
        f"d_model {config.d_model}, {config.n_layers} layers, {config.n_heads} heads, context {config.context_length}"
    )
    facts = {"in a model of": sizes} | {fact: f"{own} ({other}: {theirs})" for fact, (own, theirs) in pairs.items()}
    if notices := getattr(config, axis).notices(config):
        facts["note"] = "; ".join(notices)
    return facts


def _time_steps(*configs: ModelConfig) -> list[float]:
    """The median time (ms) of a forward and backward pass of each model on this machine. The models take turns."""
    import torch

    from ablate_model import GPT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [GPT(config).to(device) for config in configs]
    ids_bt = torch.zeros(4, SIZES["context_length"], dtype=torch.long, device=device)
    times: list[list[float]] = [[] for _ in models]
    for turn in range(N_TIMED + 1):
        for model, taken in zip(models, times, strict=True):
            started = time.perf_counter()
            model.loss(ids_bt, ids_bt).backward()  # type: ignore[no-untyped-call]
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first one loads libraries
                taken.append(1000 * (time.perf_counter() - started))
    return [median(taken) for taken in times]


def _print(name: str, facts: Mapping[str, str], checks: list[Check]) -> None:
    from rich.text import Text

    from ablate.cli.tables import make_table, open_console, print_plain

    console = open_console()
    print_plain(console, name, "bold")
    for fact, value in facts.items():
        print_plain(console, f"{fact}: {value}")
    table = make_table(["check", "", "found"])
    for (outcome, detail), alike in groupby(checks, key=lambda found: (found.outcome, found.detail)):
        names = [found.name for found in alike]
        for name in [", ".join(names)] if outcome == "skip" else names:
            table.add_row(name, Text(outcome, COLORS[outcome]), Text(detail))
    console.print(table)
