"""Every figure quoted in the README and docs is in the linked report, rounded as printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from published import find_missing

from ablate.report import ReportOptions, write_report
from ablate.report.report import make_report
from ablate.report.summary import summarize
from ablate.report.verifications import find_verifications
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DIGITS = 9  # digits of a number that another version of numpy must reproduce


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository root with one published report of a made-up study."""
    root = tmp_path_factory.mktemp("root")
    arms = [
        SyntheticArm(f"attention={name}", {"attention": name}, "attention=a", speedup=speedup)
        for name, speedup in (("a", 1.0), ("b", 2.0), ("c", 0.7))
    ]
    write_study(StudyFolder(root / "runs" / "made-up"), arms, seeds=range(3), noise=0.02)
    write_report(StudyFolder(root / "runs" / "made-up"), root / "reports" / "made-up")
    return root


@pytest.fixture
def quote(published: Path) -> str:
    """A paragraph with figures of every kind, all of them right."""
    summary = json.loads((published / "reports" / "made-up" / "summary.json").read_text())
    row = next(r for r in summary["speedup"] if r["arm"] == "attention=b" and r["target"] == "final")
    bound = next(r for r in summary["speedup"] if r["bound"] == "at_most" and r["target"] == "final")
    arm = summary["arms"][0]
    return (
        f"In [made-up](reports/made-up/report.md), `a 7 in code` aside, b is {row['ratio']:.2f}x [{row['low']:.2f}, "
        f"{row['high']:.2f}] as fast (95 % interval, {row['n_pairs']} seeds, arXiv 2410.01131) and c at most "
        f"{bound['high']:.2f}x; at best {row['high']:.1f}x. It ends at {arm['final_loss']['mean']:.3f} nats after "
        f"{arm['n_tokens'] / 1e6:.2f}M tokens, {arm['n_steps']:,} steps."
    )


def missing_in(text: str, root: Path) -> list[str]:
    (root / "README.md").write_text(f"Elsewhere 123.4x.\n\n{text}\n\nAnd 567.8x, which quotes nothing.\n")
    return find_missing(root / "README.md", root)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_quoted_stands_in_the_report(page: Path) -> None:
    assert not find_missing(page, ROOT)


def test_right_figures_are_found(published: Path, quote: str) -> None:
    assert missing_in(quote, published) == []


def _changes(quote: str) -> Iterator[str]:
    """The paragraph with one digit changed, once per number."""
    for place in range(quote.index("aside"), len(quote)):
        if quote[place].isdigit() and not quote[place + 1 : place + 2].isdigit():
            yield f"{quote[:place]}{(int(quote[place]) + 5) % 10}{quote[place + 1 :]}"


def test_any_wrong_figure_is_told(published: Path, quote: str) -> None:
    wrong = [text for text in _changes(quote) if "95 %" in text and "arXiv 2410.01131" in text]
    assert len(wrong) > 10
    for text in wrong:
        assert missing_in(text, published), text


def test_a_quote_of_what_is_not_published_fails(published: Path) -> None:
    with pytest.raises(AssertionError, match="holds no numbers"):
        missing_in("It is 2x in [nothing](reports/nothing).", published)


def recompute(folder: Path) -> tuple[object, object]:
    """A published summary and the one that its curves give now, both rounded."""
    told = json.loads((folder / "summary.json").read_text())
    report = make_report(read_study(StudyFolder(folder)), ReportOptions())
    report = replace(report, verifications=find_verifications(report.record, [folder]))
    return _round(told), _round(json.loads(json.dumps(summarize(report))))


def _round(value: object) -> object:
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def test_a_published_summary_is_what_its_curves_say(published: Path, tmp_path: Path) -> None:
    folders = [path.parent for path in sorted((ROOT / "reports").rglob("curves.parquet"))]
    for folder in (published / "reports" / "made-up", *folders):
        told, made = recompute(folder)
        assert told == made, f"{folder}: make it again with `ablate report {folder.name} --out reports/{folder.name}`"
    changed = json.loads((published / "reports" / "made-up" / "summary.json").read_text())
    changed["speedup"][0]["ratio"] *= 1.01
    (tmp_path / "summary.json").write_text(json.dumps(changed))
    (tmp_path / "curves.parquet").write_bytes((published / "reports" / "made-up" / "curves.parquet").read_bytes())
    told, made = recompute(tmp_path)
    assert told != made
