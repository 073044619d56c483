"""A study in a notebook: `ablate.load("runs/quickstart")`."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.analysis.comparison import TARGETS, Target
from ablate.analysis.differences import find_differences
from ablate.analysis.effects import find_effects
from ablate.analysis.evaluations import compare_evaluations
from ablate.analysis.full_schedule import full_schedule_speed_ups
from ablate.analysis.importance import find_importance
from ablate.analysis.results import Results
from ablate.analysis.selection import measure_by, rebase, select
from ablate.analysis.speedup import speed_ups
from ablate.analysis.trend import find_trends
from ablate.errors import AblateError
from ablate.report.chart import Chart, draw_file
from ablate.report.curve_charts import chart_curves, chart_minus_baseline
from ablate.report.ratio_charts import chart_ladder, chart_speedups
from ablate.report.report import Report, ReportOptions, make_report
from ablate.report.table import Table
from ablate.report.tables import tabulate_arms, tabulate_speedups
from ablate.report.write import read_study, write_report
from ablate.tracking.folders import StudyFolder
from ablate.tracking.values import Value

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

_NUMBERS = ("target_loss", "ratio", "low", "high", "p_value", "p_holm")  # None in some rows, NaN in a data frame


def load(path: str | Path) -> Study:
    """Load the study in a folder of runs or in a published report.

    Raises `RecordError` if the folder contains neither.
    """
    return Study(read_study(StudyFolder(Path(path))))


@dataclass(frozen=True, eq=False)
class Picture:
    """A chart that Jupyter displays: as SVG, and interactively where Vega-Lite is supported. `chart` is Altair's."""

    made: Chart

    @property
    def chart(self) -> alt.TopLevelMixin:
        """The Altair chart, to change it."""
        import altair as alt

        chart: alt.TopLevelMixin = alt.Chart.from_dict(self.made.draw())
        return chart

    def save(self, path: str | Path) -> None:
        """Write the picture; the ending is `.svg`, `.pdf` or `.png`. Raises `AblateError` for another one."""
        ending = Path(path).suffix.removeprefix(".")
        if ending not in ("svg", "pdf", "png"):
            raise AblateError(f"{path}: the ending must be .svg, .pdf or .png")
        Path(path).write_bytes(draw_file(self.made, ending))

    def _repr_svg_(self) -> str:
        return draw_file(self.made, "svg").decode()


@dataclass(frozen=True, eq=False)
class Study:
    """A study as data frames: `curves`, `runs`, `evaluations`, `speedup()`, `effects()`.

    Jupyter displays its answer and table.
    """

    results: Results

    @property
    def name(self) -> str:
        return self.results.record.study

    @property
    def question(self) -> str:
        return self.results.record.question

    @property
    def answer(self) -> tuple[str, ...]:
        """The sentences of the report."""
        return make_report(self.results, ReportOptions()).answer

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per run and logged step."""
        return self.results.frame()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: its arm, seed, levels, state, last step and the final value of each metric.

        The column of a language model's validation loss (nats per token) is `final_loss`, others have the metric's
        name.
        """
        import pandas as pd

        rows = [
            {
                "run_id": run.run_id,
                "arm": run.arm,
                "seed": run.seed,
                **self.results.arms[run.arm].axes,
                "state": run.state,
                "step": run.last_step,
                **{"final_loss" if metric.is_loss else metric.name: run.final_value(metric) for metric in run.metrics},
            }
            for run in self.results.runs
        ]
        return pd.DataFrame(rows)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row per evaluation, metric, cell and arm, as in `summary.json`. Empty if nothing was evaluated."""
        import pandas as pd

        return pd.DataFrame([row.to_dict() for row in compare_evaluations(self.results)])

    def by(self, metric: str) -> Study:
        """Compare the arms by another metric of the study. Raises `AblateError` if it has no such metric."""
        return Study(measure_by(self.results, metric))

    def where(self, expression: str) -> Study:
        """Select the runs that match the expression, with their baselines. Raises `AblateError` if it is not valid."""
        return Study(select(self.results, expression))

    def against(self, baseline: Mapping[str, Value]) -> Study:
        """Compare the same runs with another baseline, given as axis to level or as `arm` to a name.

        Raises `AblateError` if there is no such axis, level or arm.
        """
        return Study(rebase(self.results, baseline))

    def speedup(self, *targets: Target) -> pd.DataFrame:
        """The speedups of `summary.json`. Targets are "50", "75", "90", "final", or values of the metric."""
        import pandas as pd

        rows = [row.to_dict() for row in speed_ups(self.results, targets or TARGETS)]
        return pd.DataFrame(rows).astype(dict.fromkeys(_NUMBERS, "float64")) if rows else pd.DataFrame()

    def full_schedule(self) -> pd.DataFrame:
        """Speedups between complete schedules, for studies that vary `train.steps`."""
        import pandas as pd

        return pd.DataFrame([row.to_dict() for row in full_schedule_speed_ups(self.results)])

    def trends(self) -> pd.DataFrame:
        """How speedups change along a numeric axis of `compare_within`, such as the horizon."""
        import pandas as pd

        return pd.DataFrame([row.to_dict() for row in find_trends(self.results)])

    def effects(self, axis: str = "tokens") -> pd.DataFrame:
        """Differences of arms from their baselines, and the effects of a factorial on the metric and on log cost."""
        import pandas as pd

        found = (*find_differences(self.results), *find_effects(self.results, axis))
        return pd.DataFrame([effect.to_dict() for effect in found])

    def importance(self) -> pd.DataFrame:
        """The importance of each axis in a search or a grid with gaps. Empty for a balanced grid, which has effects."""
        import pandas as pd

        return pd.DataFrame([line.to_dict() for line in find_importance(self.results)])

    def plot_curves(self, axis: str | None = None) -> Picture:
        """Plot the metric against cost: means over seeds as thick lines, and each seed as a thin one."""
        return self._plot(chart_curves, axis)

    def plot_minus_baseline(self, axis: str | None = None) -> Picture:
        """Plot the metric minus that of the baseline with the same seed at the same cost.

        Raises `AblateError` if no arm has a baseline to be compared with.
        """
        self._require_baseline()
        return self._plot(chart_minus_baseline, axis)

    def plot_speedup(self, axis: str | None = None) -> Picture:
        """Plot the speedup of each arm to its baseline's final value, with 95 % intervals. An open arrow is a bound.

        Raises `AblateError` if no arm has a baseline to be compared with.
        """
        self._require_baseline()
        return self._plot(chart_speedups, axis)

    def plot_ladder(self, axis: str | None = None) -> Picture:
        """Plot speedup against target, from values that are reached early to the final one."""
        return self._plot(chart_ladder, axis)

    def _require_baseline(self) -> None:
        if not self.results.compared_arms:
            raise AblateError(f"{self.name}: no arm has a baseline to be compared with; choose one with against()")

    def report(self, out: str | Path, axis: str | None = None, *, figures: bool = False) -> Path:
        """Write the files of `ablate report` into a folder and return the path of `report.html`.

        Raises `ResourceError` if the folder cannot be written.
        """
        return write_report(self.results, out, options=ReportOptions(axis=axis, figures=figures)).paths["html"]

    def _plot(self, make: Callable[[Report], Chart], axis: str | None) -> Picture:
        return Picture(make(make_report(self.results, ReportOptions(axis=axis))))

    def __repr__(self) -> str:
        runs = self.results.runs
        n_finished = sum(run.is_whole for run in runs)
        return f"<study {self.name}: {len(self.results.arms)} arms, {n_finished} of {len(runs)} runs finished>"

    def _repr_html_(self) -> str:
        report = make_report(self.results, ReportOptions())
        heading = f"<h3>{html.escape(self.name)}</h3><p><i>{html.escape(self.question)}</i></p>"
        sentences = "".join(f"<p><b>{html.escape(sentence)}</b></p>" for sentence in report.verdict)
        sentences += "".join(f"<p>{html.escape(sentence)}</p>" for sentence in report.answer)
        table = tabulate_speedups(report) if report.headline_rows else tabulate_arms(report)
        return f"{heading}{sentences}{_write_table(table)}"


def _write_table(table: Table) -> str:
    def write(cells: tuple[str, ...], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    rows = "".join(write(row, "td") for row in table.rows)
    notes = "".join(f"<p><small>{html.escape(line)}</small></p>" for line in table.note.splitlines())
    caption = f"<caption>{html.escape(table.caption)}</caption>"
    return f"<table>{caption}<thead>{write(table.header, 'th')}</thead><tbody>{rows}</tbody></table>{notes}"
