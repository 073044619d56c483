"""The verb `campaign`: every study that was tried for one goal, with an error rate of 5 % for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.inputs import find_store, read_by, read_plan
from ablate.cli.options import DEFAULT_RUNS, STUDY_HELP, AsJson, Runs, Settings
from ablate.errors import AblateError

if TYPE_CHECKING:
    from ablate.campaign.log import Choice
    from ablate.cli.outputs.campaign import CampaignState, CampaignTry, CheckedGrid, TriedArm


def campaign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the campaign.")],
    goal: Annotated[
        str | None,
        typer.Option("--goal", metavar="TEXT", help="Start the campaign with this goal, or change its goal."),
    ] = None,
    add: Annotated[
        str | None,
        typer.Option(
            "--add", metavar="STUDY", help=f"Test a finished study as the next try. {STUDY_HELP} Twice is once."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With --add: spend a try on arms that were tested before.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="GRID", help="Show which arms of a grid were tested, without training."),
    ] = None,
    keep: Annotated[int | None, typer.Option("--keep", metavar="K", help="Keep try number K.")] = None,
    drop: Annotated[int | None, typer.Option("--drop", metavar="K", help="Drop try number K.")] = None,
    because: Annotated[str, typer.Option("--because", metavar="TEXT", help="The reason to keep or drop it.")] = "",
    what_is_known: Annotated[
        bool,
        typer.Option("--next", help="Print everything that helps to choose the next try, as JSON."),
    ] = False,
    runs: Runs = DEFAULT_RUNS,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Remember every study that was tried for one goal, and keep the error rate of all tries together at 5 %.

    Try number k is tested at 0.05 x 6 / (pi^2 k^2). Without options, show the tries, and the error rate spent and left.
    """
    from ablate.campaign import knowledge, tries
    from ablate.campaign.log import CampaignLog
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.campaign import CampaignState, CheckedGrid

    log = CampaignLog(runs, name)
    _refuse_mixtures(add, again, check, keep, drop, because, settings)
    if goal is not None:
        tries.set_goal(log, goal)
    added = None
    if add is not None:
        log.read()  # before the study, which may be large
        store = find_store(add, runs)
        added = tries.add_study(log, read_by([store], None, None), store, _read_grid(add), again=again)
    if (k := drop if keep is None else keep) is not None:
        choice: Choice = "kept" if drop is None else "dropped"
        tries.decide(log, k, choice, because)
    known = log.read()
    if check is not None:
        from ablate.execution.jobs import record_study

        found = knowledge.check_grid(known, record_study(read_plan(check, runs, settings), "", ""))
        checked = CheckedGrid.model_validate(found)
        print_output(checked) if as_json else _print_checked(checked)
        return
    state = CampaignState.model_validate(
        {**knowledge.describe(known), **({} if added is None else {"added": added.found.k, "is_new": added.is_new})}
    )
    print_output(state) if as_json or what_is_known else _print_state(state)


def _refuse_mixtures(
    add: str | None,
    again: bool,
    check: Path | None,
    keep: int | None,
    drop: int | None,
    because: str,
    settings: list[str] | None,
) -> None:
    actions = {"--add": add, "--check": check, "--keep": keep, "--drop": drop}
    given = [option for option, value in actions.items() if value is not None]
    if len(given) > 1:
        raise AblateError(f"{' and '.join(given)} cannot be used together: one command does one thing")
    for option, is_given, wanted in (
        ("--again", again, ("--add",)),
        ("--because", bool(because), ("--keep", "--drop")),
        ("--set", bool(settings), ("--check",)),
    ):
        if is_given and not set(wanted) & set(given):
            raise AblateError(f"{option} goes with {' or '.join(wanted)}")


def _read_grid(study: str) -> str:
    """The text of a grid; empty if the study was named in another way."""
    path = Path(study)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _print_state(state: CampaignState) -> None:
    from rich.text import Text

    from ablate.campaign.tries import summarize_verdicts
    from ablate.cli.tables import make_table, open_console, print_plain

    console = open_console()
    print_plain(console, f"{state.name}: {state.goal}" if state.goal else state.name)
    if state.tries:
        table = make_table(("try", "level", "study", "verdict", "difference", "decision"))
        for one in state.tries:
            best = _find_best(one)
            shown = "" if best is None else f"{best.arm} {_format(best.estimate, best.low, best.high)}"
            reason = f" ({one.because})" if one.because else ""
            mark = f" *{one.repeats}" if one.repeats else ""
            row = (
                f"{one.k}{mark}",
                _percent(one.alpha),
                one.study,
                summarize_verdicts(one.arms),
                shown,
                one.decision + reason,
            )
            table.add_row(*map(Text, row))
        console.print(table)
        if any(one.repeats for one in state.tries):
            print_plain(console, "*k: tests the arms of try k again", "dim")
        for one in state.tries:
            for note in one.notes:
                print_plain(console, f"try {one.k}: {note}", "dim")
    if state.added is not None and not state.is_new:
        print_plain(console, f"this study is try {state.added} already; nothing was spent")
    print_plain(
        console,
        f"error rate: {_percent(state.spent)} of {_percent(state.alpha)} spent, {_percent(state.left)} left for all "
        f"further tries; try {state.next.k} is tested at {_percent(state.next.alpha)}",
    )
    if (coming := state.next).seeds:
        found = f"{coming.effect:g} in 80 % of cases with {coming.seeds:,} seeds"
        print_plain(console, f"one arm of try {coming.k} finds {found}")


def _print_checked(checked: CheckedGrid) -> None:
    from ablate.cli.tables import open_console, print_plain
    from ablate.formatting import format_number

    console = open_console()
    print_plain(console, f"{checked.study} would be try {checked.k} of {checked.name}, at {_percent(checked.alpha)}")
    for arm in checked.arms:
        size = "" if arm.detectable is None else f": finds {format_number(arm.detectable)} in 80 % of cases"
        print_plain(console, f"{arm.arm}, {arm.seeds} seeds{size}")
        for test in arm.tests:
            reason = f" because {test.because}" if test.because else ""
            difference = _format(test.estimate, test.low, test.high)
            print_plain(console, f"  try {test.k}: {test.verdict} {difference}, {test.decision}{reason}")
    if not any(arm.tests for arm in checked.arms):
        print_plain(console, "no try has tested these arms")


def _find_best(one: CampaignTry) -> TriedArm | None:
    """The arm with the best verdict, and of several the one with the best difference; None without a number."""
    ranks = ("better", "equivalent", "undecided", "worse")
    sign = 1 if one.direction == "lower" else -1
    known = [(ranks.index(arm.verdict), sign * arm.estimate, arm) for arm in one.arms if arm.estimate is not None]
    return min(known, key=lambda row: row[:2])[2] if known else None


def _format(estimate: float | None, low: float | None, high: float | None) -> str:
    from ablate.report.notation import format_signed

    return "" if estimate is None else format_signed(estimate, low, high)


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
