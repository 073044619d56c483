"""What `ablate bench` measured, as the JSON that it writes and the Markdown that is made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.files import make_folder, write_atomic
from ablate.formatting import format_count, format_number

COLUMNS = (
    "arm",
    "parameters",
    "tokens/s",
    "ms a step",
    "slowest and fastest window",
    "TFLOP/s",
    "of ceiling",
    "memory",
    "first step cold",
    "warm",
    "attention",
)


def write_bench(report: Mapping[str, Any], folder: Path) -> None:
    """Write STUDY.json and STUDY.md into `folder`, which is made if it is missing."""
    make_folder(folder)
    write_atomic(folder / f"{report['study']}.json", f"{json.dumps(report, indent=1)}\n".encode())
    write_atomic(folder / f"{report['study']}.md", describe_bench(report).encode())


def describe_bench(report: Mapping[str, Any]) -> str:
    """The page of one JSON file: a line an arm, then where a step's time goes."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    yield f"# {report['study']}\n"
    yield f"`{report['command']}`\n"
    ceilings = " and ".join(f"{value:.0f} TFLOP/s in {name}" for name, value in report["ceiling_tflops"].items())
    yield f"{report['device']}; {versions}. The ceiling is a large matrix product on the same device: {ceilings}."
    yield f"A window is {report['steps_a_window']} steps; the median window counts. First steps are in seconds.\n"
    n = report.get("together", 1)  # reports of before it was measured have none
    if n > 1:
        yield f"{n} together: all tokens of {n} processes that train the arm at once on the device.\n"
    rows = [(*_row(speed), *together_cells(n, speed)) for speed in report["arms"]]
    yield from _table((*COLUMNS, *together_columns(n)), rows)
    for speed in report["arms"]:
        for title, parts in (("parts", speed["components_ms"]), ("kernels", speed["kernels_ms"])):
            if parts:
                yield f"\n## {speed['arm']}: {title}\n"
                yield from _table(("ms a step", title), [(f"{ms:.2f}", f"`{name[:90]}`") for name, ms in parts.items()])
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


def together_columns(n: int) -> tuple[str, ...]:
    """What a table says of `n` processes at once: nothing of one."""
    return (f"{n} together, tokens/s", "x alone") if n > 1 else ()


def together_cells(n: int, speed: Mapping[str, Any]) -> tuple[str, ...]:
    """An arm's cells below `together_columns`, blank where it failed."""
    if n == 1:
        return ()
    tokens_per_s = speed["together_tokens_per_s"]
    return (
        ("", "")
        if tokens_per_s is None
        else (format_count(tokens_per_s), f"{tokens_per_s / speed['tokens_per_s']:.2f}")
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(row) + " |"
