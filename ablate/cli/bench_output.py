"""What `bench` measured: a table in the terminal, a JSON file, and the Markdown page made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ablate.cli.tables import make_table, open_console, print_plain
from ablate.files import make_folder, write_atomic
from ablate.formatting import format_count, format_number

if TYPE_CHECKING:
    from ablate.training.bench.arms import BenchReport

COLUMNS = (
    "arm",
    "parameters",
    "tokens/s",
    "ms per step",
    "slowest and fastest window",
    "TFLOP/s",
    "of ceiling",
    "memory",
    "first step cold",
    "warm",
    "attention",
)


def print_speeds(report: BenchReport) -> None:
    """Print the speed of each arm, and where the time of its steps goes."""
    console = open_console()
    ceilings = ", ".join(
        f"{format_number(value, 4)} TFLOP/s in {name}" for name, value in report.ceiling_tflops.items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(f"{report.device}, {versions}; a large matrix product: {ceilings}", highlight=False)
    table = make_table(["arm"], (*COLUMNS[1:4], *COLUMNS[5:10]))
    table.add_column("attention")
    for name in _together_columns(report.together):
        table.add_column(name, justify="right")
    for speed in report.arms:
        cold = "" if speed.first_step_cold_s is None else f"{speed.first_step_cold_s:.1f} s"
        table.add_row(
            Text(speed.arm),
            format_count(speed.n_params),
            format_count(speed.tokens_per_s),
            f"{speed.step_ms:.2f}",
            format_number(speed.model_tflops, 4),
            f"{speed.ceiling_share:.0%}",
            f"{format_count(speed.peak_memory_bytes)}B",
            cold,
            f"{speed.first_step_warm_s:.1f} s",
            speed.backend,
            *_together_cells(report.together, asdict(speed)),
        )
    console.print(table)
    for speed in report.arms:
        for title, parts in (("parts", speed.components_ms), ("kernels", speed.kernels_ms)):
            if parts:
                print_plain(console, f"\n{speed.arm}: {title}, ms per step")
            for name, milliseconds in parts.items():
                print_plain(console, f"  {milliseconds:9.3f}  {name[:100]}")
    for name, error in report.failed.items():
        print_plain(console, f"failed: {name}: {error}", "red")


def write_bench(report: Mapping[str, Any], folder: Path) -> None:
    """Write STUDY.json and STUDY.md into `folder`, which is created if it is missing."""
    make_folder(folder)
    write_atomic(folder / f"{report['study']}.json", f"{json.dumps(report, indent=1)}\n".encode())
    write_atomic(folder / f"{report['study']}.md", describe_bench(report).encode())


def describe_bench(report: Mapping[str, Any]) -> str:
    """The Markdown page of a JSON file: one row per arm, then where the time of a step goes."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    yield f"# {report['study']}\n"
    yield f"`{report['command']}`\n"
    ceilings = " and ".join(f"{value:.0f} TFLOP/s in {name}" for name, value in report["ceiling_tflops"].items())
    yield f"{report['device']}; {versions}. The ceiling is a large matrix product on the same device: {ceilings}."
    yield f"A window is {report['steps_a_window']} steps; the median window counts. First steps are in seconds.\n"
    n = report.get("together", 1)  # reports from before this was measured do not have it
    if n > 1:
        yield f"{n} together: the tokens/s of {n} processes, added up, that train the arm on the device at once.\n"
    rows = [(*_row(speed), *_together_cells(n, speed)) for speed in report["arms"]]
    yield from _markdown_table((*COLUMNS, *_together_columns(n)), rows)
    for speed in report["arms"]:
        for title, parts in (("parts", speed["components_ms"]), ("kernels", speed["kernels_ms"])):
            if parts:
                yield f"\n## {speed['arm']}: {title}\n"
                cells = [(f"{ms:.2f}", f"`{name[:90]}`") for name, ms in parts.items()]
                yield from _markdown_table(("ms per step", title), cells)
    for name, error in report["failed"].items():
        yield f"\n{name} failed: {error}"


def _row(speed: Mapping[str, Any]) -> tuple[str, ...]:
    cold, windows = speed["first_step_cold_s"], speed["windows_ms"]
    return (
        speed["arm"],
        format_count(speed["n_params"]),
        format_count(speed["tokens_per_s"]),
        f"{speed['step_ms']:.2f}",
        f"{max(windows):.2f}, {min(windows):.2f}",
        format_number(speed["model_tflops"]),
        f"{speed['ceiling_share']:.0%}",
        f"{format_count(speed['peak_memory_bytes'])}B",
        "" if cold is None else f"{cold:.1f}",
        f"{speed['first_step_warm_s']:.1f}",
        speed["backend"],
    )


def _together_columns(n: int) -> tuple[str, ...]:
    """The columns for `n` processes that share the device; none for a single process."""
    return (f"{n} together, tokens/s", "x one process") if n > 1 else ()


def _together_cells(n: int, speed: Mapping[str, Any]) -> tuple[str, ...]:
    """An arm's cells in `_together_columns`, blank if its processes failed."""
    if n == 1:
        return ()
    tokens_per_s = speed["together_tokens_per_s"]
    if tokens_per_s is None:
        return ("", "")
    return (format_count(tokens_per_s), f"{tokens_per_s / speed['tokens_per_s']:.2f}")


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(row) + " |"
