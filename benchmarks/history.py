"""Print the figures of a benchmark, and add them to the history of the repository."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
HISTORY = ROOT / "reports" / "performance" / "history.jsonl"

Figures = dict[str, float]


def add_record_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record", action="store_true", help=f"add the figures to {HISTORY.relative_to(ROOT)}, with the commit"
    )


def print_figures(benchmark: str, figures: Mapping[str, float], *, record: bool) -> None:
    """Print one line per figure. With `record`, also append them to the history."""
    for name, value in figures.items():
        print(f"{name:28} {value:,.4g}" if isinstance(value, float) else f"{name:28} {value:,}")
    if record:
        append_figures(benchmark, figures)


def append_figures(benchmark: str, figures: Mapping[str, float], history: Path = HISTORY) -> None:
    """Append one line of JSON to the history: what was measured, when, at which commit and on which machine."""
    line = {
        "benchmark": benchmark,
        "commit": _describe_commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": _describe_machine(),
        "figures": {name: round(value, 6) for name, value in figures.items()},
    }
    with history.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _describe_commit() -> str:
    """The commit of the checkout, marked if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _describe_machine() -> dict[str, object]:
    gpu = ""
    try:
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    except ImportError:
        pass
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cores": os.cpu_count(), **({"gpu": gpu} if gpu else {})}
