"""The page of claims is written from the published summaries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import (
    END,
    ROOT,
    START,
    ClaimError,
    Found,
    Side,
    conclude,
    describe,
    find,
    load_claims,
    write_page,
    write_readme_table,
)
from benchmarks.verdicts import put_into


def test_the_page_and_the_readme_are_what_the_summaries_say() -> None:
    groups = load_claims()
    assert (ROOT / "docs" / "claims.md").read_text() == write_page(groups), "run `python -m benchmarks.claims`"
    readme = (ROOT / "README.md").read_text()
    assert readme == put_into(readme, write_readme_table(groups), START, END), "run `python -m benchmarks.claims`"
    assert sum("readme" in claim for group in groups for claim in group["claims"]) <= 8


def test_every_claim_names_its_source_and_a_grid_or_why_it_cannot_be_told() -> None:
    for claim in (claim for group in load_claims() for claim in group["claims"]):
        assert claim["source"] and ("cannot" in claim) != ("studies" in claim)
        for study in claim.get("studies", ()):
            assert (ROOT / "experiments" / f"{study.get('grid', study['report'])}.yaml").is_file(), claim


@pytest.mark.parametrize(
    ("sides", "word"),
    [
        (["for", "for"], "seen"),
        (["for", "open"], "partly seen"),
        (["for", "against", "open"], "mixed"),
        (["open", "against"], "not seen"),
        (["open", "open"], "undecided"),
        (["for", "none"], "seen"),
        (["none"], "undecided"),
    ],
)
def test_one_word_never_says_more_than_its_numbers(sides: Sequence[Side], word: str) -> None:
    assert conclude([Found("", side, frozenset()) for side in sides]) == word


def row(verdict: str, estimate: float = -0.02) -> dict[str, Any]:
    ends = {"low_simultaneous": estimate - 0.01, "high_simultaneous": estimate + 0.01}
    return {"arm": "a=y", "estimate": estimate, **ends, "verdict": verdict, "n": 4}


def test_a_new_report_renews_the_row_and_a_missing_row_is_named(tmp_path: Path) -> None:
    place = {"in": "differences", "arm": "a=y", "label": "y", "unit": "nats"}
    claim = {"claim": "y helps", "source": "none", "studies": [{"report": "made-up", "numbers": [place]}]}
    assert describe(claim, tmp_path)[:2] == ("not yet measured", "")
    assert describe({"claim": "c", "source": "s", "cannot": "Too small."}, tmp_path)[:2] == (
        "cannot be tested here",
        "Too small.",
    )
    folder = tmp_path / "here" / "reports" / "made-up"
    folder.mkdir(parents=True)
    arms = [{"arm": "a=y", "n_params": 10_818_432, "n_tokens": 24_576_000, "n_runs": 4}]
    summary = {"study": "made-up", "arms": arms, "differences": [row("better")]}
    (folder / "summary.json").write_text(json.dumps(summary))
    word, numbers, links = describe(claim, tmp_path / "here")
    assert (word, links) == ("seen", "[`made-up`](../reports/made-up/report.md), [grid](../experiments/made-up.yaml)")
    assert numbers == "y: -0.0200 [-0.0300, -0.0100] nats, better (10.8M parameters, 24.6M tokens, 4 seeds)."
    assert find({**summary, "differences": [row("equivalent")]}, place).side == "against"
    assert find({**summary, "differences": [row("worse")]}, {**place, "for": ["worse"]}).side == "for"
    with pytest.raises(ClaimError, match=r"made-up: differences has 0 rows with \{'arm': 'a=z'\}"):
        find(summary, {**place, "arm": "a=z"})
