"""Find figures of a Markdown page that are not in the published report to which their paragraph links.

A paragraph, list or table between blank lines with a link to `reports/NAME` quotes that report. Each number in it must
be in a `summary.json` in `reports/NAME` (for a bench, in the `.json` files there), rounded as it is printed. Any other
number must be in another paragraph, or in `code`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATIOS = frozenset({"ratio", "growth", "low", "high", "step_ratio", "params_ratio", "flops_ratio"})
UNITS = {"%": 100.0, "k": 1e-3, "M": 1e-6, "G": 1e-9, "thousand": 1e-3, "million": 1e-6, "billion": 1e-9, "ms": 1e3}
NO_FIGURES = re.compile(r"`[^`]*`|\]\([^)]*\)|arXiv [\d.]+|95 %|https?://\S+")  # 95 % is the level of every interval
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?"
FIGURE = re.compile(
    rf"(?P<ratio>{NUMBER})x \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\]"
    rf"|(?P<bound>at most|at least) (?P<limit>{NUMBER})x"
    rf"|(?P<times>{NUMBER})x"
    rf"|(?P<number>(?<![\w.]){NUMBER})(?: ?(?P<unit>%|ms\b|[kMG]\b|thousand|million|billion))?(?![\w]*[A-Za-z_]\d)"
)


@dataclass(frozen=True)
class Source:
    """The contents of a report: its rows, each number with its key, and the numbers in its texts."""

    rows: Sequence[Mapping[str, Any]]
    numbers: Sequence[tuple[str, float]]
    printed: frozenset[str]

    def has(self, figure: re.Match[str]) -> bool:
        part = {key: value.replace(",", "") for key, value in figure.groupdict().items() if value}
        if "ratio" in part:
            wanted = (part["ratio"], part["low"], part["high"])
            return any(
                all(_is_printed(row.get(key), text) for key, text in zip((value, "low", "high"), wanted, strict=True))
                for row in self.rows
                for value in ("ratio", "growth")
            )
        if "bound" in part:
            end = "high" if part["bound"] == "at most" else "low"
            kind = part["bound"].replace(" ", "_")
            return any(row.get("bound") == kind and _is_printed(row.get(end), part["limit"]) for row in self.rows)
        if "times" in part:
            return any(key in RATIOS and _is_printed(value, part["times"]) for key, value in self.numbers)
        text, scale = part["number"], UNITS.get(part.get("unit", ""), 1.0)
        if "." not in text and scale == 1.0:
            return text in self.printed or any(value == int(text) for _, value in self.numbers)
        return text in self.printed or any(_is_printed(value * scale, text) for _, value in self.numbers)


def find_missing(page: Path, root: Path) -> list[str]:
    """The figures of a page that the reports do not have, each with its paragraph's report."""
    missing = []
    for block in re.split(r"\n\s*\n", page.read_text()):
        names = dict.fromkeys(re.findall(r"\]\([./]*reports/([\w.-]+)", block))
        if not names:
            continue
        sources = [read_source(root / "reports" / name) for name in names]
        text = " ".join(NO_FIGURES.sub(" ", block).replace("\N{MINUS SIGN}", "-").split())
        unknown = [f[0] for f in FIGURE.finditer(text) if not any(source.has(f) for source in sources)]
        missing += [f"{page.name}: {figure!r} is not in reports/{', '.join(names)}" for figure in unknown]
    return missing


def read_source(folder: Path) -> Source:
    files = sorted(folder.rglob("summary.json")) or sorted(folder.glob("*.json"))
    assert files, f"{folder}: a page links to it, and it holds no numbers"
    items = [item for file in files for item in _walk("", json.loads(file.read_text()))]
    texts = [value for _, value in items if isinstance(value, str)]
    return Source(
        rows=[value for _, value in items if isinstance(value, dict) and "low" in value],
        numbers=[(key, float(value)) for key, value in items if _is_number(value)],
        printed=frozenset(number.replace(",", "") for text in texts for number in re.findall(NUMBER, text)),
    )


def _walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    yield key, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(key, item)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_printed(value: Any, text: str) -> bool:
    """True if the value, rounded to as many digits as the text has, equals the text."""
    if not _is_number(value):
        return False
    digits = len(text.partition(".")[2])
    return f"{value:.{digits}f}" == text.removeprefix("+")
