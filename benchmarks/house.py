"""Measure how much code a reader meets: the way of a forward pass, the size of files, and what an addition touches.

.venv/bin/python -m benchmarks.house [--against REVISION] [--files]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
PACKAGES = {"ablate": "ablate", "model": "ablate_model"}  # folder to import name

# Names by which the code knows one example of each kind of addition: every file that has one of them was touched.
EXAMPLES = {
    "an attention": ("forgetting", "ForgettingAttention"),
    "an optimizer": ("muon", "Muon"),
    "a data source": ("huggingface", "HuggingFaceSource"),
    "a report section": ("tabulate_importance",),
    "a CLI verb": ("doctor",),
}

# Prints the files of the package with a function that runs between the embedding and the loss of a default GPT.
TRACE = """
import json, sys, torch
import ablate_model
from ablate_model.config import ModelConfig
from ablate_model.gpt import GPT
model = GPT(ModelConfig(d_model=64, n_layers=2, n_heads=4, vocab_size=256, context_length=32))
ids = torch.zeros(2, 32, dtype=torch.long)
files = set()
sys.setprofile(lambda frame, event, _: files.add(frame.f_code.co_filename) if event == "call" else None)
model.loss(ids, ids).item()
sys.setprofile(None)
own = ("/ablate_model/", "/model/")
print(json.dumps(sorted(file for file in files if any(part in file for part in own) and "/site-packages/" not in file)))
"""

Trees = Mapping[Path, ast.Module]


def measure(root: Path) -> dict[str, str | list[str]]:
    """Measure the checkout in `root`. Lists are files."""
    trees = {
        path: ast.parse(path.read_text("utf-8"))
        for folder in PACKAGES
        for path in sorted((root / folder).rglob("*.py"))
    }
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in trees}
    largest = max(lines, key=lambda path: lines[path])
    passed = trace(root)
    n_passed = sum(len(path.read_text("utf-8").splitlines()) for path in passed)
    functions = {(path, node): count_lines(node) for path, tree in trees.items() for node in walk_functions(tree)}
    longest = max(functions, key=lambda key: functions[key])
    widest = max(functions, key=lambda key: count_arguments(key[1]) if key[1].name == "__init__" else 0)
    return {
        "files, lines": f"{len(trees)}, {sum(lines.values()):,}",
        "default forward pass, embedding to loss: files, lines": f"{len(passed)}, {n_passed:,}",
        "its files": [str(path.relative_to(root)) for path in passed],
        **{f"files with {kind}": list_touched(trees, names, root) for kind, names in EXAMPLES.items()},
        "largest file": f"{largest.relative_to(root)}, {lines[largest]}",
        "files above 300 lines": str(sum(n > 300 for n in lines.values())),
        "longest function": f"{longest[0].relative_to(root)}: {longest[1].name}, {functions[longest]} lines",
        "constructor with the most arguments": f"{widest[0].relative_to(root)}, {count_arguments(widest[1])}",
        "files in the largest import circle, while loading": str(count_circle(trees, root, is_whole=False)),
        "the same with imports in functions and for types": str(count_circle(trees, root, is_whole=True)),
    }


def trace(root: Path) -> list[Path]:
    """Find the files that a forward pass of the default model runs through."""
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / '.typings'}"}
    found = subprocess.run([sys.executable, "-c", TRACE], env=env, cwd=root, check=True, capture_output=True, text=True)
    return sorted({Path(file).resolve() for file in json.loads(found.stdout)})


def list_touched(trees: Trees, names: tuple[str, ...], root: Path) -> list[str]:
    """List the files with one of these names as an identifier or as a whole text."""
    return [str(path.relative_to(root)) for path, tree in trees.items() if not set(names).isdisjoint(walk_names(tree))]


def walk_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Constant(value=str(text)):
                yield from text.split(":")


def walk_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def count_lines(node: ast.FunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def count_arguments(node: ast.FunctionDef) -> int:
    """Count the arguments besides `self`."""
    return len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs) - 1


def count_circle(trees: Trees, root: Path, *, is_whole: bool) -> int:
    """Count the files of the largest circle of imports: of those that happen when a file is loaded, or of the whole
    files, with imports in functions and for types. Without a circle, it is one file."""
    modules = {name_module(path, root): (path, tree) for path, tree in trees.items()}
    numbers = {module: number for number, module in enumerate(modules)}
    pairs = [
        (numbers[module], numbers[found])
        for module, (path, tree) in modules.items()
        for found in walk_imports(ast.walk(tree) if is_whole else tree.body, module, path.name == "__init__.py")
        if found in modules and found not in parents(module)
    ]
    rows, columns = zip(*pairs, strict=True)
    graph = csr_array((np.ones(len(pairs)), (rows, columns)), shape=(len(modules), len(modules)))
    _, circles = connected_components(graph, connection="strong")
    return int(np.bincount(circles).max())


def parents(module: str) -> list[str]:
    """List the packages around a module, which it may import from while they load."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def name_module(path: Path, root: Path) -> str:
    folder, *parts = path.relative_to(root).with_suffix("").parts
    return ".".join([PACKAGES[folder], *(part for part in parts if part != "__init__")])


def walk_imports(nodes: Iterable[ast.AST], module: str, is_package: bool) -> Iterator[str]:
    """Yield what these statements import, with the names that may be modules themselves."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level + is_package or None] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.house", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", metavar="REVISION", help="measure this revision too")
    parser.add_argument("--files", action="store_true", help="name the files instead of counting them")
    options = parser.parse_args()
    columns = {"now": measure(ROOT)}
    if options.against:
        from benchmarks.gaps import checked_out  # loads torch and ray

        with checked_out(options.against) as source:
            columns = {options.against: measure(source.resolve()), **columns}
    print("| | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for row in columns["now"]:
        cells = [column[row] for column in columns.values()]
        if row != "its files" or options.files:
            texts = [
                cell if isinstance(cell, str) else ", ".join(cell) if options.files else len(cell) for cell in cells
            ]
            print(f"| {row} | " + " | ".join(map(str, texts)) + " |")


if __name__ == "__main__":
    main()
