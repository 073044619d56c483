"""Write the pictures of pages: docs/report.png, of a published study, and docs/reading/. `make pictures` calls it.

It needs Chromium and its driver.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ablate.report import ReportOptions, write_report  # noqa: E402
from ablate.report.chart import draw_file  # noqa: E402
from ablate.report.sections import compose  # noqa: E402
from ablate.tracking.folders import StudyFolder  # noqa: E402
from benchmarks.browser import MISSING, Browser  # noqa: E402
from benchmarks.synthetic import SyntheticArm, write_study  # noqa: E402

PUBLISHED = ROOT / "reports" / "attention-x-normalization"
READING = ("differences", "curves", "minus-baseline", "speedup", "ladder")


def write_tutorial(folder: Path) -> StudyFolder:
    """The made-up study of docs/speedup.ipynb and docs/reading-a-report.md."""
    larger = {"step_s": 0.12, "n_params": 1_050_000, "flops_per_token": 6_300_000}
    arms = [
        SyntheticArm("variant=plain", {"variant": "plain"}, "variant=plain"),
        SyntheticArm("variant=better", {"variant": "better"}, "variant=plain", speedup=1.5, **larger),
        SyntheticArm("variant=worse", {"variant": "worse"}, "variant=plain", speedup=0.8),
    ]
    store = StudyFolder(folder / "tutorial")
    write_study(store, arms, seeds=range(5), noise=0.02, question="Does the better variant help?")
    return store


def main() -> None:
    if MISSING:
        sys.exit(MISSING)
    with TemporaryDirectory() as name, Browser(Path(name)) as browser:
        browser.open(write_report(StudyFolder(PUBLISHED), Path(name) / "published").paths["html"])
        browser.screenshot(ROOT / "docs" / "report.png", height=900)
        report = write_report(write_tutorial(Path(name)), Path(name) / "report", options=ReportOptions(axis="steps"))
        for chart in READING:
            content = draw_file(compose(report).charts[chart], "svg")
            (ROOT / "docs" / "reading" / f"{chart}.svg").write_bytes(content)
        browser.open(report.paths["html"])
        browser.screenshot(ROOT / "docs" / "reading" / "fairness.png", selector="#fairness")


if __name__ == "__main__":
    main()
