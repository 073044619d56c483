"""Write docs/claims.md: what papers claim, and what the published studies say about each claim.

`claims.yaml` lists the claims, each with the figures of its paper and the places of our numbers: a report, a section of
its `summary.json`, and the row. A new report therefore renews the page: run this command again. A study that is not
published yet counts as not yet measured. The README has some of the rows between two comments.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from ablate.analysis.curves_parquet import NAME as ARCHIVE
from ablate.analysis.curves_parquet import read_archive
from ablate.analysis.run_curve import device_of
from benchmarks.verdicts import put_into

ROOT = Path(__file__).parents[1]
CLAIMS = Path(__file__).with_name("claims.yaml")
START, END = "<!-- claims -->", "<!-- /claims -->"
CLEAR = 0.05
NOT_MEASURED, CANNOT = "not yet measured", "cannot be tested here"

Side = Literal["for", "against", "open", "none"]
Row = Mapping[str, Any]


class ClaimError(Exception):
    """A claim names a place that the report does not have."""


@dataclass(frozen=True)
class Found:
    """A number with its interval and verdict as text, and whether it speaks for the claim."""

    text: str
    side: Side
    size: str


def load_claims(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """The groups of claims."""
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text())
    return groups


@cache
def read_summary(folder: Path) -> Row | None:
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def find(summary: Row, place: Row) -> Found:
    """Read the number at a place of a summary. Raises `ClaimError` if there is not exactly one."""
    section = place["in"]
    wanted = {key: value for key, value in place.items() if key in KEYS}
    if section == "effects":
        wanted["outcome"] = "final_loss"
    rows = [row for row in summary[section] if all(_matches(row, key, value) for key, value in wanted.items())]
    if len(rows) != 1:
        raise ClaimError(f"{summary['study']}: {section} has {len(rows)} rows with {wanted}")
    (row,) = rows
    value, verdict = READERS[place.get("read", section)](row, place)
    side: Side = "open"
    if not place.get("counts", True):
        side = "none"
    elif verdict in _list(place.get("for", "better")):
        side = "for"
    elif verdict in _list(place.get("against", ["worse", "equivalent"])):
        side = "against"
    label = f"{place['label']}: " if place.get("label") else ""
    return Found(f"{label}{value}, {place.get('words', {}).get(verdict, verdict)}", side, _size(summary, row))


KEYS = ("arm", "axis", "target", "levels", "evaluation", "metric", "within", "along", "family")


def _matches(row: Row, key: str, wanted: Any) -> bool:
    """Compare a key of a row. An evaluation is named without the knobs in its label."""
    known = row.get(key)
    return known == wanted or (key == "evaluation" and str(known).partition(" ")[0] == wanted)


def read_difference(row: Row, place: Row) -> tuple[str, str]:
    unit = f" {place['unit']}" if place.get("unit") else ""
    return f"{_interval(row['estimate'], row['low_simultaneous'], row['high_simultaneous'])}{unit}", row["verdict"]


def read_interaction(row: Row, place: Row) -> tuple[str, str]:
    """The difference from the sum of the separate effects; below 0, both together are better than that sum."""
    verdict = "undecided"
    if row["p_simultaneous"] < CLEAR:
        verdict = "better" if row["estimate"] < 0 else "worse"
    return read_difference({**row, "verdict": verdict}, place)


def read_speedup(row: Row, _place: Row) -> tuple[str, str]:
    if row["ratio"] is None:
        bounds = {"at_most": ("at most", row["high"]), "at_least": ("at least", row["low"])}
        if row["bound"] not in bounds:
            raise ClaimError(f"{row['arm']}: it has no speedup")
        word, limit = bounds[row["bound"]]
        return f"{word} {limit:.2f}x in {row['axis']}", "undecided"
    is_clear = row["p_holm"] is not None and row["p_holm"] < CLEAR
    verdict = "undecided"
    if is_clear:
        verdict = "better" if row["low"] > 1 else "worse" if row["high"] < 1 else "undecided"
    return f"{row['ratio']:.2f}x [{row['low']:.2f}, {row['high']:.2f}] in {row['axis']}", verdict


def read_trend(row: Row, place: Row) -> tuple[str, str]:
    """The change of the difference in loss from the smallest level to the largest."""
    verdict = "better" if row["loss_high"] < 0 else "worse" if row["loss_low"] > 0 else "undecided"
    unit = f" {place['unit']}" if place.get("unit") else ""
    return f"{_interval(row['loss_change'], row['loss_low'], row['loss_high'])}{unit}", verdict


def read_evaluation(row: Row, _place: Row) -> tuple[str, str]:
    """An arm minus its baseline. The interval is unadjusted; the verdict is adjusted over the evaluation."""
    if row["difference"] is None:
        return row["note"] or "no number", "undecided"
    text = _interval(row["difference"], row["difference_low"], row["difference_high"])
    is_chance = row["verdict"] == "undecided" and "chance" in row["note"]
    return f"{text}{' (both at chance)' if is_chance else ''}", row["verdict"] or "undecided"


def read_mean(row: Row, place: Row) -> tuple[str, str]:
    """An arm by itself: above or below `level`, or chance, if its interval over seeds is."""
    if row["mean"] is None:
        return row["note"] or "no number", "undecided"
    level = place.get("level", row["chance"])
    verdict = "undecided"
    if level is not None and row["low"] is not None:
        verdict = "above" if row["low"] > level else "below" if row["high"] < level else "undecided"
    return _interval(row["mean"], row["low"], row["high"], sign=False), verdict


READERS = {
    "differences": read_difference,
    "effects": read_interaction,
    "speedup": read_speedup,
    "trends": read_trend,
    "evaluations": read_evaluation,
    "mean": read_mean,
}


def conclude(found: Sequence[Found]) -> str:
    """One word for all numbers of a claim. It is about the direction, never about the size."""
    sides = {one.side for one in found} - {"none"}
    if sides == {"for"}:
        return "seen"
    if {"for", "against"} <= sides:
        return "mixed"
    if "for" in sides:
        return "partly seen"
    return "not seen" if "against" in sides else "undecided"


def describe(claim: Row, root: Path = ROOT) -> tuple[str, str, str]:
    """The word for a claim, our numbers, and the links to reports and grids."""
    if "cannot" in claim:
        return CANNOT, claim["cannot"], ""
    texts, links, found = [], [], []
    for study in claim["studies"]:
        name = study["report"]
        grid = f"[grid](../experiments/{study.get('grid', name)}.yaml)"
        summary = read_summary(root / "reports" / name)
        if summary is None:
            links.append(f"{_code(name)}: {grid}")
            continue
        mine = [find(summary, place) for place in study["numbers"]]
        found += mine
        size = "; ".join(dict.fromkeys(one.size for one in mine))
        texts.append(f"{'; '.join(one.text for one in mine)} ({size}).")
        links.append(f"[{_code(name)}](../reports/{name}/report.md), {grid}")
    word = conclude(found) if found else NOT_MEASURED
    note = f" {claim['note']}" if claim.get("note") and found else ""
    return word, " ".join(texts) + note, "; ".join(links)


def write_costs(groups: Sequence[Row], root: Path) -> str:
    """A table of what the runs of each study took."""
    studies = [study for group in groups for claim in group["claims"] for study in claim.get("studies", ())]
    rows = ["| study | runs | minutes of all runs | device |", "| --- | --- | --- | --- |"]
    for name in dict.fromkeys(study["report"] for study in studies):
        path = root / "reports" / name / ARCHIVE
        if path.exists():
            runs = [run for run in read_archive(path).runs if run.is_whole]
            seconds = sum(run.status.took_s * max(run.n_gpus, 1) / run.n_stacked for run in runs)
            devices = " and ".join(sorted({str(device_of(run.manifest)["name"]) for run in runs}))
            rows.append(f"| {_code(name)} | {len(runs)} | {seconds / 60:.0f} | {devices} |")
    return "\n".join(rows)


def write_page(groups: Sequence[Row], root: Path = ROOT) -> str:
    parts = [HEAD]
    for group in groups:
        rows = ["| claim | paper | here | our numbers | study |", "| --- | --- | --- | --- | --- |"]
        for claim in group["claims"]:
            word, numbers, links = describe(claim, root)
            paper = f"{claim['source']}: {_code(': '.join(filter(None, (claim.get('at'), claim['paper']))))}"
            rows.append(f"| {claim['claim']} | {paper} | **{word}** | {numbers} | {links} |")
        parts.append(f"## {group['group']}\n\n" + "\n".join(rows))
    parts += [COST, write_costs(groups, root), NEXT]
    return "\n\n".join(parts) + "\n"


def write_readme_table(groups: Iterable[Row], root: Path = ROOT) -> str:
    """The rows that the README shows. Columns without outer bars keep it short."""
    chosen = [claim for group in groups for claim in group["claims"] if claim.get("readme")]
    lines = ["claim | here", "--- | ---"]
    return "\n".join([*lines, *(f"{claim['readme']} | {describe(claim, root)[0]}" for claim in chosen)])


def _size(summary: Row, row: Row) -> str:
    arm = next((arm for arm in summary["arms"] if arm["arm"] == row.get("arm")), summary["arms"][0])
    n_seeds = row["n"] if row.get("evaluation") or row.get("verdict") else row.get("n_pairs") or arm["n_runs"]
    parts = [f"{_count(arm['n_params'])} parameters", f"{_count(arm['n_tokens'])} tokens", f"{n_seeds} seeds"]
    return ", ".join(parts)


def _count(n: int) -> str:
    return f"{n / 1e6:.1f}M" if n >= 1e6 else f"{n / 1e3:.1f}k"


def _interval(value: float, low: float | None, high: float | None, *, sign: bool = True) -> str:
    ends = f" [{_number(low, sign)}, {_number(high, sign)}]" if low is not None and high is not None else ""
    return _number(value, sign) + ends


def _number(value: float, sign: bool) -> str:
    """Three significant digits, at least one of them behind the point."""
    decimals = max(1, 2 - math.floor(math.log10(abs(value)))) if value else 1
    return f"{value:{'+' if sign else ''}.{decimals}f}"


def _list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _code(text: str) -> str:
    """Figures of papers are in code, because every other number of this page must be in a linked report."""
    return f"`{text}`"


HEAD = """# What papers claim, and what we see

Each row has a claim, what its paper measured, and what our published studies say about it. This page is written from
their summaries by `python -m benchmarks.claims`.

The models of most papers are about a hundred times the size of ours. A small study can show the direction of an effect.
It can neither confirm nor refute its size, and an effect that it does not show may appear in larger models.

- **Seen**: the verdicts on all numbers support the claim. **Partly seen**: some support it, the others are undecided.
  **Mixed**: some support it, others contradict it. **Not seen**: at least one verdict contradicts it, by the opposite
  direction or by equivalence, and none supports it. **Undecided**: all numbers are undecided.
- Differences are arm minus baseline, with 95 % intervals: simultaneous for final losses, unadjusted for evaluations.
  Verdicts are adjusted for all arms, and in evaluations for all tests, so a number can be undecided although its
  unadjusted interval excludes zero."""


COST = """## What the studies took

The runs of the matrix, without evaluations of their final weights. Trials come on top where rates were tuned, and runs
on a CPU shared their machine with others."""

NEXT = """## What we would run next with 100 GPU hours

Hours are of one H200, estimated from the speeds that our studies reached.

1. nGPT against GPT at 24,000 and 96,000 steps, with rates tuned at each horizon and five seeds: does the gain of 6,000
   steps last once both are tuned? About 6 hours.
2. `ngpt-sizes.yaml` with rates tuned at every size, five seeds instead of two, 32 million parameters, and GPT-2 small
   (124 million) as the size to predict: do the gains of nGPT and differential V2 survive scale? About 18 hours.
3. Contexts of 1,024 to 8,192 at 124 million parameters, where the paper reports 4x to 20x. About 30 hours.
4. Models that retrieve above chance: standard, differential V1 and V2 at 124 million parameters on text that rewards
   it, then needles, recall and order. Without that, most claims about differential attention cannot be tested. About
   30 hours.
5. Selective attention at contexts of 512 to 2,048 with pruning, and BitNet from 10 to 124 million parameters. About 12
   hours."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.parse_args()
    groups = load_claims()
    (ROOT / "docs" / "claims.md").write_text(write_page(groups))
    readme = ROOT / "README.md"
    readme.write_text(put_into(readme.read_text(), write_readme_table(groups), START, END))


if __name__ == "__main__":
    main()
