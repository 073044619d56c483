"""What `ablate verify` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ablate.cli.tables import print_plain
from ablate.report.verifications import describe_verification, format_measured
from ablate.tracking.verifications import Verification


def print_verification(made: Verification, path: Path, console: Console) -> None:
    """Print what the fresh seeds say, the numbers, what differs from the published runs, and where the file is."""
    refuted = any(arm.outcome == "refuted" for arm in made.arms)
    print_plain(console, describe_verification(made), "bold red" if refuted else "bold")
    for arm in made.arms:
        fresh = "no pair of runs" if arm.fresh is None else f"{arm.fresh.verdict}, {format_measured(arm.fresh)}"
        print_plain(console, f"{arm.label}: {arm.outcome}. {arm.reason}")
        print_plain(console, f"  published: {arm.published.verdict}, {format_measured(arm.published)}")
        print_plain(console, f"  fresh:     {fresh}; size: {arm.size}")
    for change in made.differences:
        there, here = change.published or "unknown", change.here or "unknown"
        print_plain(console, f"differs: {change.what}: {there} published, {here} here")
    print_plain(console, f"\nOutcome: {path}")
