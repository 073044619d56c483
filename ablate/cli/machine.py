"""The verbs that describe the tool and this machine: `schema`, `variants`, `doctor`, `warm` and `bench`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ablate.cli.inputs import read_plan, write_command
from ablate.cli.options import DEFAULT_RUNS, AsJson, Grid, Runs, Settings
from ablate.errors import AblateError
from ablate.formatting import format_seconds


def schema(
    search: Annotated[bool, typer.Option("--search", help="Print the schema of search.yaml instead.")] = False,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Print the schemas of what every command prints with --json instead.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown instead of JSON.")] = False,
    _as_json: Annotated[bool, typer.Option("--json", help="Print JSON. This is the default.")] = False,
) -> None:
    """Print the JSON Schema of grid.yaml, so that an editor can complete and check it."""
    from ablate.cli.outputs.table import output_schemas
    from ablate.plan.json_schema import file_schema, grid_schema
    from ablate.plan.schema_reference import write_outputs, write_reference
    from ablate.search.schema import Search

    if search and (outputs or markdown):
        raise AblateError("--search prints the JSON Schema of search.yaml: leave out --outputs and --markdown")
    if markdown:
        print(write_outputs(output_schemas()) if outputs else write_reference(grid_schema()), end="")
    elif outputs:
        print(json.dumps(output_schemas(), indent=2))
    else:
        print(json.dumps(file_schema(Search, "search.yaml of ablate") if search else grid_schema(), indent=2))


def variants(as_json: AsJson = False) -> None:
    """List every variant of every component, and every task, with its paper and its knobs."""
    from ablate.tasks.task import describe_tasks
    from ablate_model import variants as list_variants
    from ablate_model.config import broken_lines

    table = {**list_variants(), "task": describe_tasks()}
    if as_json:
        print(json.dumps(table, indent=2))
    else:
        print_variants(table)
    if broken := broken_lines():
        raise AblateError("\n".join(map(str, broken)))


def print_variants(table: Mapping[str, Mapping[str, Any]]) -> None:
    """Print each component's variants: summary, paper, neutral point, and knobs with their defaults."""
    from rich.markup import escape

    from ablate.cli.tables import open_console

    console = open_console()
    for component, entries in table.items():
        console.print(f"\n[bold]{component}[/]")
        for name, entry in entries.items():
            console.print(f"  [cyan]{name}[/]  {escape(entry['summary'])}", highlight=False)
            if entry.get("paper"):
                console.print(f"    paper: {escape(entry['paper'])}", highlight=False, style="dim")
            if entry.get("neutral"):
                console.print(f"    neutral point: {escape(entry['neutral'])}", highlight=False, style="dim")
            for knob, about in entry["knobs"].items():
                default, text = json.dumps(about["default"]), about.get("description") or ""
                console.print(f"    {knob} = {escape(default)}  {escape(text)}", highlight=False)


def doctor(runs: Runs = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """Show what this machine has: versions, torch's build, GPUs, CPU cores, disk, shared memory and TMPDIR."""
    from ablate.cli.doctor import describe, examine

    findings = list(examine(runs))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(describe(findings)))


def warm(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    set_: Settings = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Number of processes that compile at a time.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Compile the models of a grid in advance, so that its runs start at once. Works while other runs train."""
    planned = read_plan(grid, runs, set_)
    if planned.study.program is not None or not planned.study.is_language_model:
        raise planned.study.refuse(("study",), "warm compiles language models, and this grid trains something else")
    from ablate.execution.placement import local_resources, place
    from ablate.training.warming import find_kinds, warm_kinds

    resources = planned.study.resources
    placement = place(resources, [local_resources()], None, 1, planned.study.locate(("resources",)))
    n_stacked = len(planned.study.seeds) if resources.stack else 1
    kinds = find_kinds({arm.name: (arm.model, arm.train) for arm in planned.arms}, n_stacked)
    if not kinds:
        raise planned.study.refuse(("train",), "no arm compiles, so there is nothing to do: set train.compile")
    done = []
    for kind, seconds, error in warm_kinds(kinds, "cuda" if placement.gpus else "cpu", placement.cpus, workers):
        done.append({"arms": kind.arms, "seconds": seconds, "error": error})
        typer.echo(f"{', '.join(kind.arms)}: {error or format_seconds(seconds)}", err=as_json)
    if as_json:
        print(json.dumps(done, indent=1))
    raise typer.Exit(any(entry["error"] for entry in done))


def bench(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    set_: Settings = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Optimizer steps per timed window.")] = 10,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also time the first step with an empty compilation cache.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where a step's time goes, by part and by kernel.")
    ] = False,
    together: Annotated[
        int, typer.Option("--together", metavar="N", min=1, help="Also measure N processes that share the device.")
    ] = 1,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Also write STUDY.json and STUDY.md to this folder.")
    ] = None,
) -> None:
    """Measure how fast each arm of a grid trains on this machine's first device, with random tokens."""
    planned = read_plan(grid, runs, set_)
    if planned.study.program is not None:
        raise planned.study.refuse(("program",), "bench measures ablate's own models, and this grid trains a program")
    if not planned.study.is_language_model:
        raise planned.study.refuse(("task",), "bench measures language models on random tokens")
    from ablate.cli.bench_output import print_speeds, write_bench
    from ablate.training.bench.arms import bench_arms

    report = bench_arms(
        {arm.name: (arm.model, arm.train) for arm in planned.arms},
        study=planned.study.name,
        command=write_command(),
        threads=planned.study.resources.cpus or 1,
        steps=steps,
        is_cold=cold,
        has_profile=profile,
        together=together,
        tell=partial(typer.echo, err=True),
    )
    if out is not None:
        write_bench(asdict(report), out)
    if as_json:
        print(json.dumps(asdict(report), indent=1))
    else:
        print_speeds(report)
    raise typer.Exit(bool(report.failed))
