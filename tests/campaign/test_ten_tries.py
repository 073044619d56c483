"""The campaign of ten tries by a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.campaign.levels import level_of
from ablate.campaign.log import CampaignLog
from benchmarks.ten_tries import CAMPAIGN, CANDIDATES, improve


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_script_makes_ten_tries_and_trains_no_dead_end_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    improve(tmp_path, seeds=3)
    campaign = CampaignLog(tmp_path / "runs", CAMPAIGN).read()
    assert [one.alpha for one in campaign.tries] == [level_of(k) for k in range(1, 11)]
    better = [one.k for one in campaign.tries if one.arms[0].verdict == "better"]
    assert [one.k for one in campaign.chosen("kept")] == better
    assert len(campaign.chosen("dropped")) == 10 - len(better)
    assert len(list((tmp_path / "runs").glob("try-*"))) == 10 == len(CANDIDATES) - 1
    assert "nothing is trained" in capsys.readouterr().out.splitlines()[-1]
