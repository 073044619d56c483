"""Write a report: `report.html`, `report.md` with its pictures, `speedup.csv` and `summary.json`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ablate.analysis.curves import read_results
from ablate.errors import ResourceError
from ablate.files import write_atomic
from ablate.report.content import Report, ReportOptions, make_report
from ablate.report.markdown import write_markdown
from ablate.report.page import write_page
from ablate.report.pictures import draw_pictures, save_picture
from ablate.report.summary import summarize, write_speedup_csv
from ablate.tracking.store import Store


def write_report(store: Store, out: Path, *, options: ReportOptions | None = None) -> Report:
    """Report on a study into the folder `out`. Nothing is written before all numbers are there.

    Raises `RecordError` where no study was run or a record cannot be read, `ResourceError` where `out` cannot be
    written.
    """
    report = make_report(read_results(store), options or ReportOptions())
    paths = {name: out / file for name, file in _FILES.items()}
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        pictures = {}
        for name, figure in draw_pictures(report).items():
            save_picture(figure, out / "figures" / f"{name}.svg")
            pictures[_CAPTIONS[name]] = f"figures/{name}.svg"
        summary = json.dumps(summarize(report), indent=1, allow_nan=False) + "\n"
        texts = (write_page(report), write_markdown(report, pictures), write_speedup_csv(report), summary)
        for path, text in zip(paths.values(), texts, strict=True):
            write_atomic(path, text.encode())
    except OSError as error:
        raise ResourceError(f"{out}: the report cannot be written: {error.strerror or error}") from None
    return replace(report, paths=paths)


_FILES = {"html": "report.html", "markdown": "report.md", "csv": "speedup.csv", "summary": "summary.json"}
_CAPTIONS = {
    "curves": "Validation loss against cost, with the band of the extremes over seeds",
    "speedup": "Speed-up of each arm over its baseline, with 95 % intervals",
}
