"""The page and the CSV file of a leaderboard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ablate.errors import ResourceError
from ablate.files import make_folder, write_atomic
from ablate.formatting import count, format_count
from ablate.records.leaderboard import Board, Entry, Leaderboard
from ablate.records.ranking import Pair
from ablate.report.document import Block, Document, Facts, Section, Text
from ablate.report.markdown import write_markdown
from ablate.report.notation import (
    AXIS_NAMES,
    DASH,
    LISTED,
    capitalize,
    clean_name,
    format_ratio,
    format_signed,
    format_time,
    join_with_and,
    name_rest,
)
from ablate.report.offline_page import write_html
from ablate.report.summary import write_csv
from ablate.report.table import Table

FILES = {"html": "leaderboard.html", "markdown": "leaderboard.md", "csv": "leaderboard.csv"}


def write_leaderboard(made: Leaderboard, out: Path) -> dict[str, Path]:
    """Write the page and the CSV file into the folder `out`. Raises `ResourceError` if it cannot be written."""
    document, paths = compose(made), {name: out / file for name, file in FILES.items()}
    try:
        make_folder(out)
        write_atomic(paths["csv"], write_rows(made).encode())
        write_atomic(paths["markdown"], write_markdown(document, {}, made.rules.benchmark.name).encode())
        write_atomic(paths["html"], write_html(document).encode())
    except OSError as error:
        raise ResourceError(f"{out}: the leaderboard cannot be written: {error.strerror or error}") from None
    return paths


def compose(made: Leaderboard) -> Document:
    """The page: who is first on each board, the boards, the arms that were refused, and the rules."""
    benchmark = made.rules.benchmark
    sections = [
        Section(clean_name(board.name), capitalize(_title(board)), tuple(_show(board, made))) for board in made.boards
    ]
    if made.refused:
        sections.append(Section("refused", "Not admitted", (_tabulate_refused(made),)))
    sections.append(Section("rules", "Rules", (Facts(_list_rules(made)),)))
    leaders = tuple(state_leaders(made))
    n_entries, n_folders = len(made.entries), len({entry.folder for entry in made.entries})
    return Document(
        name=benchmark.name,
        context=f"{benchmark.name}: {count(n_entries, 'arm')} of {count(n_folders, 'report')}",
        heading=benchmark.question or benchmark.name,
        verdict=leaders,
        answer=leaders,
        sections=tuple(sections),
    )


def state_leaders(made: Leaderboard) -> list[str]:
    """One sentence per board: which entries may be first."""
    return [_state_leader(board) for board in made.boards] or ["No arm of these reports obeys the rules."]


def _state_leader(board: Board) -> str:
    ranking, what = board.ranking, _title(board)
    first = [board.entries[entry].name for entry in ranking.order if ranking.range_of(entry)[0] == 1]
    if not first:
        return f"In {what}, no entry is ranked."
    if len(board.entries) == 1:
        return f"In {what}, {first[0]} is the only entry."
    if len(first) == 1:
        return f"In {what}, {first[0]} is first: it is shown to be better than every other entry."
    shown = join_with_and(first[:LISTED] + name_rest(first))
    return (
        f"In {what}, {len(first)} of {len(board.entries)} entries may be first, without a verdict among them: {shown}."
    )


def _title(board: Board) -> str:
    return board.name.replace(board.axis, AXIS_NAMES.get(board.axis, board.axis), 1)


def _show(board: Board, made: Leaderboard) -> Iterator[Block]:
    if board.entries:
        yield _tabulate(board, made)
    for entry, reason in board.left_out:
        yield Text(f"Not ranked: {entry.name}: {reason}.", is_flag=entry.is_refuted)


def _tabulate(board: Board, made: Leaderboard) -> Table:
    order, target = board.ranking.order, made.rules.benchmark.target
    numbers = {entry: str(place + 1) for place, entry in enumerate(order)}
    versus = {pair.second: pair for pair in board.ranking.pairs if pair.first == order[0]}
    metric = board.entries[0].runs[0].metric
    what = f"{AXIS_NAMES[board.axis]} to {target:g}" if board.is_cost else f"final {metric.label}"
    header = ("Entry", "Rank", "#", capitalize(what), "Against #1", "Shown better than", "Seeds", "Verdict", "Verified")
    rows = tuple(
        (
            board.entries[entry].name,
            _format_range(*board.ranking.range_of(entry)),
            numbers[entry],
            _format_value(board, entry),
            _format_pair(board, versus.get(entry)),
            _name_numbers([int(numbers[other]) for other in board.ranking.better_than(entry)]),
            str(len(board.values[entry])),
            describe_verdict(board.entries[entry]),
            describe_outcome(board.entries[entry]),
        )
        for entry in order
    )
    kind = "ratio" if board.is_cost else "difference"
    note = (
        "The ranks that an entry may have follow from tests of all pairs: lines whose ranks overlap share a place. "
        f"Against #1 is the {kind} to the first line, with its 95 % interval, which holds for all pairs together. The "
        "verdict is the published one against the entry's own baseline."
    )
    return Table(f"board-{clean_name(board.name)}", _caption(board, target), header, rows, note)


def _caption(board: Board, target: float) -> str:
    if not board.is_cost:
        return "Mean final value"
    return f"{capitalize(_title(board))} to a value of {target:g} (geometric mean)"


def _format_range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def mean_of(board: Board, entry: int) -> float:
    """The mean final value of an entry, or the geometric mean of its costs."""
    mean = float(np.mean(list(board.values[entry].values())))
    return math.exp(mean) if board.is_cost else float(board.entries[entry].runs[0].metric.orient(mean))


def _format_value(board: Board, entry: int) -> str:
    mean = mean_of(board, entry)
    return f"{mean:.4f}" if not board.is_cost else format_time(mean) if board.axis == "seconds" else format_count(mean)


def convert(board: Board, pair: Pair) -> tuple[float, float | None, float | None]:
    """The difference of final values, or the ratio of costs, with its interval: second against first."""
    if board.is_cost:
        low, high = (None if end is None else math.exp(end) for end in (pair.low, pair.high))
        return math.exp(pair.estimate), low, high
    orient = board.entries[pair.first].runs[0].metric.orient
    if pair.low is None or pair.high is None:
        return float(orient(pair.estimate)), None, None
    low, high = sorted((float(orient(pair.low)), float(orient(pair.high))))
    return float(orient(pair.estimate)), low, high


def _format_pair(board: Board, pair: Pair | None) -> str:
    if pair is None:
        return DASH
    value, low, high = convert(board, pair)
    if not board.is_cost:
        return format_signed(value, low, high)
    return format_ratio(value) + (f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else "")


def _name_numbers(numbers: Sequence[int]) -> str:
    """`4 to 7, 9`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = [f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts]
    return ", ".join(shown) or DASH


def describe_verdict(entry: Entry) -> str:
    """The published verdict on an entry against its own baseline."""
    return "baseline" if entry.difference is None else entry.difference.verdict


def describe_outcome(entry: Entry) -> str:
    """What fresh seeds said about the published verdict of an entry."""
    if entry.difference is None:
        return DASH
    return ", ".join(f"{outcome} ({count(n, 'seed')})" for outcome, n in entry.outcomes) or "not verified"


def _tabulate_refused(made: Leaderboard) -> Table:
    rows = tuple(
        (item.name, rule, "; ".join(breach.message for breach in item.breaches if breach.rule == rule))
        for item in made.refused
        for rule in dict.fromkeys(breach.rule for breach in item.breaches)
    )
    return Table("refused", "Arms that break a rule", ("Arm", "Rule", "How"), rows)


def _list_rules(made: Leaderboard) -> dict[str, str]:
    benchmark = made.rules.benchmark
    limits = {
        "training tokens of a run": benchmark.limits.tokens,
        "FLOPs of a run": benchmark.limits.flops,
        "parameters": benchmark.limits.parameters,
    }
    machine = {"machine": benchmark.machine} if benchmark.machine else {}
    folders = dict.fromkeys([entry.folder.name for entry in made.entries] + [item.folder.name for item in made.refused])
    return machine | {
        "reports": ", ".join(folders),
        "data": f"{benchmark.data.name}, {benchmark.data.tokenizer}, hash {benchmark.data.hash}",
        "metric": f"{benchmark.metric}; the boards of costs rank the cost of a value of {benchmark.target:g}",
        **{name: f"at most {format_count(most)}" for name, most in limits.items() if most is not None},
        "seeds of an entry": f"at least {benchmark.seeds}",
        "may change": ", ".join(benchmark.may_change),
    }


def write_rows(made: Leaderboard) -> str:
    """One line per entry and board. Entries that are not ranked have no rank, and the reason."""
    header = [
        "board",
        "device",
        "rank_low",
        "rank_high",
        "entry",
        "report",
        "arm",
        "value",
        "first",
        "against_first",
        "low",
        "high",
    ]
    header += ["better_than", "seeds", "verdict", "verified", "note"]
    lines: list[list[object]] = []
    for board in made.boards:
        ranking = board.ranking
        for entry in ranking.order:
            item, first = board.entries[entry], board.entries[ranking.order[0]].name
            pair = next((p for p in ranking.pairs if (p.first, p.second) == (ranking.order[0], entry)), None)
            against = ("", "", "") if pair is None else convert(board, pair)
            better = "; ".join(board.entries[other].name for other in ranking.better_than(entry))
            lines.append(
                [
                    board.name,
                    board.device,
                    *ranking.range_of(entry),
                    *_name(item),
                    mean_of(board, entry),
                    first,
                    *against,
                ]
            )
            lines[-1] += [better, len(item.runs), describe_verdict(item), describe_outcome(item), ""]
        for item, reason in board.left_out:
            lines.append([board.name, board.device, "", "", *_name(item), *[""] * 6])
            lines[-1] += [len(item.runs), describe_verdict(item), describe_outcome(item), reason]
    return write_csv(header, lines)


def _name(entry: Entry) -> tuple[str, str, str]:
    return entry.name, entry.folder.name, entry.arm.arm
