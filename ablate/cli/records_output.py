"""What `ablate verify` and `ablate leaderboard` print."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ablate.cli.outputs.records import RankedBenchmark, RankedBoard, RankedEntry, RankedPair, RefusedArm
from ablate.cli.tables import print_plain
from ablate.formatting import count
from ablate.records.leaderboard import Board, Leaderboard
from ablate.records.page import convert, describe_verdict, mean_of, state_leaders
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


def print_leaderboard(made: Leaderboard, page: Path, console: Console) -> None:
    """Print who may be first on each board, and which arms break which rules."""
    for sentence in state_leaders(made):
        print_plain(console, sentence, "bold")
    for item in made.refused:
        rules = ", ".join(dict.fromkeys(breach.rule for breach in item.breaches))
        print_plain(console, f"not admitted: {item.name}: {rules}: {item.breaches[0].message}", "yellow")
    print_plain(console, f"{count(len(made.entries), 'arm')} admitted; page: {page}")


def describe_leaderboard(made: Leaderboard, page: Path, csv: Path) -> RankedBenchmark:
    """The leaderboard for `--json`."""
    return RankedBenchmark(
        benchmark=made.rules.benchmark.name,
        boards=tuple(map(_describe_board, made.boards)),
        refused=tuple(
            RefusedArm(entry=item.name, report=str(item.folder), rule=breach.rule, message=breach.message)
            for item in made.refused
            for breach in item.breaches
        ),
        page=str(page),
        csv=str(csv),
    )


def _describe_board(board: Board) -> RankedBoard:
    entries, pairs = [], []
    for place in board.ranking.order:
        entry, (low, high) = board.entries[place], board.ranking.range_of(place)
        entries.append(
            RankedEntry(
                entry=entry.name,
                report=str(entry.folder),
                arm=entry.arm.arm,
                rank_low=low,
                rank_high=high,
                value=mean_of(board, place),
                n_seeds=len(entry.runs),
                verdict=describe_verdict(entry),
                verified=tuple(outcome for outcome, _ in entry.outcomes),
            )
        )
    for pair in board.ranking.pairs:
        value, least, most = convert(board, pair)
        pairs.append(
            RankedPair(
                first=board.entries[pair.first].name,
                second=board.entries[pair.second].name,
                value=value,
                low=least,
                high=most,
                p_value=pair.p_value,
                is_clear=pair.is_clear,
            )
        )
    return RankedBoard(
        name=board.name,
        axis=board.axis,
        device=board.device,
        entries=tuple(entries),
        pairs=tuple(pairs),
        not_ranked={entry.name: reason for entry, reason in board.left_out},
    )
