"""The verb `campaign`: every study that was tried for one goal, with an error rate of 5 % for all of them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.inputs import find_store, read_by, read_plan
from ablate.cli.options import DEFAULT_RUNS, STUDY_HELP, AsJson, Runs, Settings
from ablate.errors import AblateError, RecordError

if TYPE_CHECKING:
    from ablate.analysis import Results
    from ablate.campaign.log import Choice
    from ablate.cli.outputs.campaign import CampaignState, CampaignTry, CheckedGrid, TriedArm
    from ablate.tracking.study_record import StudyRecord


def campaign(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the campaign. Without it, all campaigns under --runs are listed."),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option("--goal", metavar="TEXT", help="Start the campaign with this goal, or change its goal."),
    ] = None,
    add: Annotated[
        str | None,
        typer.Option(
            "--add",
            metavar="STUDY",
            help=f"Test a finished study as the next try. {STUDY_HELP} Adding it twice counts once.",
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

    if name is None:
        if what_is_known or again or because or settings or {goal, add, check, keep, drop} != {None}:
            raise AblateError("name the campaign: ablate campaign NAME")
        _print_list(runs, as_json=as_json)
        return
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
        checked = CheckedGrid.model_validate(knowledge.check_grid(known, *_read_planned(check, runs, settings)))
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


def _read_planned(grid: Path, runs: Path, settings: list[str] | None) -> tuple[StudyRecord, Results | None]:
    """The record that a grid would have, with its added seeds, and the results in its folder, if there are some."""
    from ablate.analysis.results import read_results
    from ablate.execution.jobs import record_study
    from ablate.sequential.added_seeds import extend
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.history import list_added

    plan = read_plan(grid, runs, settings)
    store = StudyFolder(runs / plan.study.name)
    trained = None
    with suppress(RecordError):
        trained = read_results(store)
    return record_study(extend(plan, list_added(store)), "", ""), trained


def _read_grid(study: str) -> str:
    """The text of a grid; empty if the study was named in another way."""
    path = Path(study)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _print_list(runs: Path, *, as_json: bool) -> None:
    """Print a line per campaign of the folder `runs`."""
    from rich.text import Text

    from ablate.campaign.knowledge import describe
    from ablate.campaign.log import list_campaigns
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.campaign import ListedCampaign
    from ablate.cli.tables import make_table, open_console, print_plain

    found = []
    for log in list_campaigns(runs):
        try:
            known, error = describe(log.read()), ""
        except RecordError as flaw:
            known, error = {"goal": "", "tries": (), "spent": 0.0}, str(flaw)
        found.append(
            ListedCampaign(
                name=log.name, goal=known["goal"], n_tries=len(known["tries"]), spent=known["spent"], error=error
            )
        )
    if as_json:
        print_output(found)
        return
    console = open_console()
    if not found:
        print_plain(console, f"no campaign in {runs}: `ablate campaign NAME --goal TEXT` starts one")
        return
    table = make_table(("campaign", "tries", "spent", "goal"))
    for one in found:
        facts = ("", "", one.error) if one.error else (str(one.n_tries), _percent(one.spent), one.goal)
        table.add_row(*map(Text, (one.name, *facts)))
    console.print(table)


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
    level = _percent(checked.alpha)
    if checked.is_added:
        print_plain(console, f"{checked.study} is try {checked.same} of {checked.name} already; --add spends nothing")
    elif checked.same is not None:
        print_plain(
            console,
            f"{checked.study} tests the arms of try {checked.same} of {checked.name}: --add refuses other results of "
            f"them; with --again, it tests them as try {checked.k} at {level}",
        )
    else:
        print_plain(console, f"{checked.study} would be try {checked.k} of {checked.name}, at {level}")
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
