"""What seeds can see: the verb `power`, and the line of `plan` about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.inputs import PUBLISHED, find_store, read_by
from ablate.cli.options import DEFAULT_RUNS, STUDY_HELP, AsJson, NoiseFrom, Runs
from ablate.errors import AblateError, RecordError

if TYPE_CHECKING:
    from ablate.analysis.arm_power import ArmPower
    from ablate.metrics import Metric
    from ablate.plan import Plan
    from ablate.tracking.folders import StudyFolder


def power(
    study: Annotated[str, typer.Argument(metavar="STUDY", help=f"{STUDY_HELP} A published report's folder works too.")],
    effect: Annotated[
        float | None,
        typer.Option(
            "--effect",
            metavar="SIZE",
            help="Difference of final losses to detect, e.g. 0.01 nats. Default: the study's smallest effect.",
        ),
    ] = None,
    share: Annotated[
        float, typer.Option("--power", metavar="SHARE", help="Share of studies that should detect it, from 0 to 1.")
    ] = 0.8,
    noise_from: NoiseFrom = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Show which differences a study can detect, and how many seeds each arm needs to detect a given difference."""
    from ablate.analysis.arm_power import find_power

    if not 0 < share < 1:
        raise AblateError(f"--power {share:g}: must be above 0 and below 1, such as 0.8")
    results = read_by([find_store(study, runs)], None, None, [find_store(name, runs) for name in noise_from or ()])
    size = results.smallest_effect if effect is None else effect
    if size is None:
        raise AblateError(f"--effect is needed: the study is compared by {results.metric.name}, of unknown scale")
    if not 0 < size < float("inf"):
        raise AblateError(f"--effect {size:g}: must be a number above 0")
    arms = find_power(results, size, share)
    if not arms:
        raise RecordError(f"{results.record.study}: no arm has two finished pairs of runs, so the scatter is unknown")
    if as_json:
        print("[" + ",\n ".join(json.dumps(asdict(arm)) for arm in arms) + "]")
    else:
        _print_power(arms, size, share, results.metric, has_looks=results.record.seed_rule is not None)


def _print_power(arms: tuple[ArmPower, ...], effect: float, share: float, metric: Metric, *, has_looks: bool) -> None:
    from rich.text import Text

    from ablate.analysis.power import MOST_SEEDS
    from ablate.cli.tables import make_table, open_console, print_plain
    from ablate.formatting import format_number
    from ablate.study.seeds import MAX_LOOKS_SEEDS

    most = MAX_LOOKS_SEEDS if has_looks else MOST_SEEDS
    table = make_table(
        ["arm"],
        ["seeds", "scatter", f"found in {100 * share:g} %", f"{'at_most' if has_looks else 'seeds'} for {effect:g}"],
    )
    for arm in arms:
        needed = f"over {most:,}" if arm.seeds_needed is None else f"{arm.seeds_needed:,}"
        numbers = (str(arm.n_seeds), format_number(arm.sd), format_number(arm.detectable), needed)
        table.add_row(Text(arm.arm), *numbers)
    console = open_console()
    console.print(table)
    what = f"{metric.unit.strip()}, " if metric.unit else ""
    how = f"({what}moderated if the test is)"
    print_plain(console, f"scatter: standard deviation of a paired difference in final {metric.short} {how}", "dim")
    if has_looks:
        print_plain(console, "until: decided: seeds are those of an arm's last look, and each look is stricter", "dim")


def describe_plan_power(
    plan: Plan, store: StudyFolder, noise: float | None, earlier: StudyFolder | None = None
) -> Iterator[str]:
    """Say which differences the seeds of a plan can detect, from --noise, an `earlier` study or one of that name."""
    from ablate.analysis.power import POWER, detectable_difference
    from ablate.analysis.spending import detectable_at_look
    from ablate.metrics import list_metrics

    sizes = Counter(arm.baseline for arm in plan.arms if arm.baseline != arm.name)
    if not sizes:
        return
    n_arms, n_seeds, rule = max(sizes.values()), len(plan.study.seeds), plan.until_decided
    if n_seeds < 2:
        yield "with one seed, no arm can be called better or worse than its baseline"
        return
    sd = _find_scatter(earlier or store, noise)
    source = "finished runs" if noise is None else f"--noise {noise:g}"
    if earlier is not None:
        source = str(earlier.path)
        if sd is None:
            earlier.read_study()  # which may not be there
            raise RecordError(f"--noise-from {source}: no arm has two pairs of runs, so its scatter is unknown")
    found = f"a difference of {{}} is detected in {'at least ' if rule else ''}{100 * POWER:g} % of studies"
    many = f"up to {n_seeds}" if rule else str(n_seeds)
    of = f"with {many} seeds{f' and {n_arms} arms per baseline' if n_arms > 1 else ''}"

    def detectable(sd: float) -> float:
        if rule is None:
            return detectable_difference(sd, n_arms, n_seeds)
        return detectable_at_look(sd, n_arms, rule.at_least, rule.at_most, rule.at_most)

    if sd is None:
        ratio = detectable(2**0.5)
        yield f"{of}, {found.format(f'{ratio:.1f} standard deviations over seeds')}"
        return
    unit = list_metrics(plan.metrics)[0].unit
    size = detectable(sd)
    yield f"{of}, {found.format(f'{size:.2g}{unit}')} (scatter from {source})"


def _find_scatter(store: StudyFolder, noise: float | None) -> float | None:
    """The scatter of paired differences: by --noise, or the median in the study that was run under this name."""
    if noise is not None:
        return noise * 2**0.5
    if not store.record.exists() and not (store.path / PUBLISHED).exists():
        return None
    from ablate.analysis.differences import find_differences
    from ablate.report import read_studies

    return median(known) if (known := [row.sd for row in find_differences(read_studies([store])) if row.sd]) else None


def find_margin(plan: Plan, store: StudyFolder, noise: float | None) -> float | None:
    """The smallest effect of a plan in standard deviations of a paired difference; None if one of them is not known."""
    from ablate.analysis.results import SMALLEST_EFFECT

    default = SMALLEST_EFFECT if plan.study.program is None else None
    smallest = default if plan.smallest_effect is None else plan.smallest_effect
    sd = _find_scatter(store, noise)
    return smallest / sd if smallest is not None and sd else None
