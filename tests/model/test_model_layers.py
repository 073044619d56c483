"""Who imports whom inside `model/`. An import that is not in this picture is a design change and needs a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "model"
LEAVES = {"errors", "numerics"}  # every room may import them
CONTRACTS = {"cache", "context", "contracts", "knobs", "parameters", "residual", "table"}
PLAIN = {"causality", "foreign", "plain"}  # the user's modules
AXES = {"attention", "normalization", "mlp", "position", "linear", "topology"}
ARROWS = {
    "errors": set(),
    "numerics": set(),
    "cache": set(),
    "context": {"cache"},
    "presets": set(),
    "knobs": set(),
    "kernels": set(),
    "parameters": {"kernels"},
    "own_code": set(),
    "own_modules": {"own_code"},
    "residual": {"context", "parameters"},
    "contracts": {"context", "knobs", "own_code", "parameters", "residual"},
    "own_variants": {"contracts", "own_code", "own_modules"},
    "table": {"contracts", "knobs", "own_code", "own_modules", "own_variants"},
    "signature": set(),
    "flops": set(),
    "foreign": {"parameters"},
    "plain": {"contracts", "flops", "foreign", "own_modules", "parameters", "signature"},
    "causality": set(),
    "contract_checks": {"cache", "causality", "config", "context", "gpt", "own_checks", "own_modules"},
    "own_checks": {"causality", "config", "context", "contracts", "own_code", "own_modules", "parameters", "plain"},
    "schema": {"table"},
    "cost": {"contracts"},
    "layers": {"contracts", "kernels", "parameters"},
    "blocks": {"cache", "contracts", "context", "parameters"},
    "position": {*CONTRACTS, "layers"},
    "linear": {*CONTRACTS, "layers"},
    "mlp": {*CONTRACTS, *PLAIN, "layers", "kernels"},
    "normalization": {*CONTRACTS, *PLAIN, "layers", "kernels", "position"},
    "attention": {*CONTRACTS, *PLAIN, "layers", "kernels", "position", "normalization"},
    "topology": {*CONTRACTS, "layers", "blocks"},
    "config": {*AXES, "contracts", "cost", "knobs", "presets", "schema", "table"},
    "training_methods": {"attention_backend", "blocks", "parameters"},
    "gpt": {
        "cache",
        "config",
        "blocks",
        "context",
        "contracts",
        "kernels",
        "layers",
        "parameters",
        "residual",
        "training_methods",
    },
    "stacked": {"blocks", "config", "context", "gpt"},
    "attention_backend": {"kernels"},
    "encoders": {
        "cache",
        "blocks",
        "config",
        "contracts",
        "context",
        "cost",
        "gpt",
        "kernels",
        "layers",
        "parameters",
        "table",
    },
    "kinds": {"config", "gpt"},
    "wrapped": {"config", "gpt", "kinds"},
    "storage": {"config", "gpt", "kinds", "wrapped"},
    "gpt2": {"config", "gpt", "presets", "storage"},
    "sampling": {"cache", "context", "gpt", "wrapped"},
    "attention_maps": {"attention", "contracts", "gpt", "kernels", "residual"},
    "transfer": {"config", "gpt", "kinds"},
    "pruning": {"cache", "attention_maps", "config", "context", "contracts", "gpt", "residual", "wrapped"},
    "__init__": {
        "cache",
        "config",
        "presets",
        "context",
        "encoders",
        "gpt",
        "gpt2",
        "kernels",
        "pruning",
        "sampling",
        "storage",
    },
}


def imported_files(path: Path) -> Iterator[Path]:
    """The files of the package that `path` imports anywhere: at its top, in a function, or under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for place in [folder, *(folder / alias.name for alias in node.names)]:
                yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists())


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = {path: set(imported_files(path)) - {path} for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_of_the_model_imports_only_its_neighbours(room: str) -> None:
    for path, imported in FILES.items():
        if room_of(path) == room:
            assert {room_of(other) for other in imported} - {room, "__init__"} <= ARROWS[room] | LEAVES, path


def test_every_file_of_the_model_is_in_the_picture() -> None:
    assert {room_of(path) for path in FILES} == set(ARROWS)


def test_no_file_of_the_model_imports_itself_in_a_circle() -> None:
    imports = {path: found - {ROOT / "__init__.py"} for path, found in FILES.items()}
    tuple(TopologicalSorter(imports).static_order())  # raises CycleError and names the circle


def test_variants_of_one_axis_do_not_know_the_others_tables() -> None:
    tables = {ROOT / axis / "__init__.py" for axis in AXES}
    assert {path for path, found in FILES.items() if found & tables} == {ROOT / "config.py"}
