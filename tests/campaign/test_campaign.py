"""Campaigns: tries and their levels, what counts as the same try, and the file that several processes append to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ablate.analysis.differences import find_differences
from ablate.analysis.power import find_detectable
from ablate.analysis.results import read_results
from ablate.analysis.spending import spend
from ablate.analysis.stricter import find_differences_at
from ablate.campaign.knowledge import check_grid, describe
from ablate.campaign.levels import level_of, seeds_for
from ablate.campaign.log import CampaignLog
from ablate.campaign.tries import add_study, set_goal
from ablate.cli.inputs import read_plan
from ablate.data import CorpusInfo
from ablate.execution.jobs import record_study
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.tracking.code import write_code
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.study_record import SeedRule, Status
from benchmarks.campaign import measure
from benchmarks.families import Scenario
from benchmarks.synthetic import SyntheticArm, write_study

Ablate = Callable[..., tuple[int, str, str]]
NOISE = 0.02


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_study(name: str, speedup: float = 1.0, seeds: Sequence[int] = range(4), arms: Sequence[str] = ("y",)) -> Path:
    """A finished study with made-up losses of the baseline x and other arms."""
    rows = [SyntheticArm(f"{name}={arm}", {name: arm}, f"{name}=x") for arm in ("x", *arms)]
    rows[1:] = [replace(row, speedup=speedup) for row in rows[1:]]
    folder = Path("runs") / name
    write_study(StudyFolder(folder), rows, seeds=seeds, noise=NOISE)
    return folder


def start(name: str = "goal") -> CampaignLog:
    log = CampaignLog(Path("runs"), name)
    set_goal(log, "learn faster")
    return log


def add(log: CampaignLog, folder: Path, *, again: bool = False) -> int:
    store = StudyFolder(folder)
    return add_study(log, read_results(store), store, "", again=again).found.k


def test_the_levels_of_all_tries_add_up_to_5_percent() -> None:
    assert level_of(1) == pytest.approx(0.05 * 6 / np.pi**2)
    assert level_of(10) == pytest.approx(level_of(1) / 100)
    assert 0.04999 < sum(map(level_of, range(1, 10**5))) < 0.05
    fresh = describe(start().read())
    assert (fresh["spent"], fresh["alpha"], fresh["left"]) == (0.0, 0.05, 0.05)


def test_seeds_are_those_that_a_t_test_at_the_level_needs() -> None:
    n = seeds_for(0.02, 0.02, level_of(3))
    assert n is not None
    for seeds, enough in ((n, True), (n - 1, False)):
        critical = stats.t.ppf(1 - level_of(3) / 2, seeds - 1)
        power = 1 - stats.nct.cdf(critical, seeds - 1, np.sqrt(seeds))
        assert (power >= 0.8) == enough


@pytest.mark.timeout(60)
def test_what_two_seeds_detect_at_a_late_try_is_found_in_finite_time() -> None:
    """The search for the noncentral t did not end at critical values of a million."""
    one = np.asarray(1.0)
    values = [float(find_detectable(one, one, 1 - level_of(k))) for k in (5, 7, 10, 100, 10_000)]
    assert values == sorted(values)
    for k, value in zip((7, 10), values[1:3], strict=True):  # on either side of the switch
        critical = stats.t.ppf(1 - level_of(k) / 2, 1)
        assert 1 - stats.nct.cdf(critical, 1, value) == pytest.approx(0.8, abs=1e-3)
    assert seeds_for(1e-6, 1.0, level_of(10_000)) is None and seeds_for(1e3, 1e-3, level_of(2)) == 2


@pytest.mark.parametrize("scenario", [Scenario(0.0), Scenario(1.0, 0.6), Scenario(1.0, diverges=True)], ids=str)
@pytest.mark.parametrize(("arms", "seeds"), [(1, 3), (3, 3), (6, 5)])
def test_a_campaign_of_null_tries_is_wrong_in_at_most_5_percent(arms: int, seeds: int, scenario: Scenario) -> None:
    n = 10_000
    rates = measure(arms, seeds, scenario, n, tries=10)
    assert rates.campaign <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / n)
    assert rates.each_at_5_percent > 0.2  # what the levels are for


def test_each_try_is_tested_at_its_own_level_by_a_paired_t_test() -> None:
    log = start()
    for k in range(1, 6):
        name = f"s{k}"
        folder = make_study(name, speedup=1.12, arms=("y", "z"))
        assert add(log, folder) == k
        results = read_results(StudyFolder(folder))
        for arm in log.read().tries[-1].arms:
            losses = [{run.seed: run.final_loss for run in results.runs_of(side)} for side in (arm.arm, arm.baseline)]
            pairs = np.array([losses[0][seed] - losses[1][seed] for seed in range(4)])
            p_value = stats.ttest_1samp(pairs, 0).pvalue
            assert arm.p_value == pytest.approx(1 - (1 - p_value) ** 2)
            single = 1 - (1 - level_of(k)) ** (1 / 2)
            half = stats.t.ppf(1 - single / 2, 3) * stats.sem(pairs)
            assert (arm.low, arm.high) == (pytest.approx(pairs.mean() - half), pytest.approx(pairs.mean() + half))
            assert (arm.verdict in ("better", "worse")) == (arm.p_value < level_of(k))
    verdicts = [arm.verdict for one in log.read().tries for arm in one.arms]
    at_5_percent = [
        d.verdict for k in range(1, 6) for d in find_differences(read_results(StudyFolder(Path(f"runs/s{k}"))))
    ]
    assert at_5_percent.count("better") > verdicts.count("better")


def test_two_baselines_share_the_level_and_equal_differences_are_no_test() -> None:
    rows = [SyntheticArm(f"{w}{a}", {"a": a, "w": w}, f"{w}x", {"w": w}, 1.2) for w in "mn" for a in "xy"]
    for name, some in (("two", rows), ("one", rows[:2])):
        write_study(StudyFolder(Path("runs") / name), some, seeds=range(4), noise=NOISE)
    shared, alone = (
        find_differences_at(read_results(StudyFolder(Path("runs") / name)), alpha)
        for name, alpha in (("two", 0.02), ("one", 0.01))
    )
    assert len(shared) == 2
    assert shared[0].low_simultaneous == pytest.approx(alone[0].low_simultaneous)
    assert shared[0].p_simultaneous == pytest.approx(min(1, 2 * (alone[0].p_simultaneous or 0)))
    write_study(
        StudyFolder(Path("runs/flat")),
        [SyntheticArm("x", {"a": "x"}, "x"), SyntheticArm("y", {"a": "y"}, "x", speedup=2)],
    )
    (flat,) = find_differences_at(read_results(StudyFolder(Path("runs/flat"))), 0.03)
    assert (flat.verdict, flat.low_simultaneous, flat.p_simultaneous) == ("undecided", None, None)


def test_a_look_spends_only_its_share_of_the_level() -> None:
    store = StudyFolder(make_study("grown", speedup=2.0, seeds=range(4)))
    record = replace(store.read_study(), seed_rule=SeedRule(3, 8))
    store.write_study(record)
    results = read_results(store)
    (row,) = find_differences_at(results, 0.03)
    assert row.n_seeds == 3  # so large a difference is decided at the first look
    losses = [[run.final_loss for run in results.runs_of(side)][:3] for side in (row.arm, row.baseline)]
    pairs = np.subtract(*losses)
    level = 0.03 * spend(3 / 8)
    half = stats.t.ppf(1 - level / 2, 2) * stats.sem(pairs)
    assert row.high_simultaneous == pytest.approx(pairs.mean() + half)
    assert row.p_simultaneous == pytest.approx(min(1, stats.ttest_1samp(pairs, 0).pvalue / spend(3 / 8)))


def test_the_same_study_is_the_same_try_and_other_results_cost_another(call_ablate: Ablate) -> None:
    make_study("idea")
    assert call_ablate("campaign", "goal", "--goal", "learn faster")[0] == 0
    code, out, _ = call_ablate("campaign", "goal", "--add", "idea", "--json")
    first = json.loads(out)
    assert (code, first["added"], first["is_new"], first["left"]) == (0, 1, True, pytest.approx(0.05 - level_of(1)))
    _, out, _ = call_ablate("campaign", "goal", "--add", "idea")
    assert "this study is try 1 already; nothing was spent" in out
    assert call_ablate("campaign", "goal", "--drop", "1", "--because", "no difference")[0] == 0

    store = StudyFolder(Path("runs/idea"))
    identities = {"idea=x": "1" * 16, "idea=y": "2" * 16}
    log = start("named")
    for seeds, again in ((range(4), False), (range(6), True)):
        make_study("idea", seeds=seeds)
        record = store.read_study()
        store.write_study(replace(record, arms=tuple(replace(a, identity=identities[a.arm]) for a in record.arms)))
        if again:
            code, _, err = call_ablate("campaign", "named", "--add", "idea")
            assert code == 2
            assert "named: try 1 tested the same arms (1 undecided) and is open; these results differ" in err
            assert "--again tests them as try 2 at 0.76 %" in err
        add(log, store.path, again=again)
    assert [(one.k, one.repeats) for one in log.read().tries] == [(1, None), (2, 1)]
    for decision, shown in (("--keep", "kept"), ("--drop", "dropped")):  # also if it comes later
        call_ablate("campaign", "named", decision, "1", "--because", f"it is {shown}")
        assert describe(log.read())["tries"][1]["notes"] == [f"idea=y was tested in try 1: undecided, {shown}"]
    stored = log.path.read_text()  # as an earlier version wrote it
    log.path.write_text(stored.replace('"notes": []', '"notes": ["idea=y was tested in try 1: undecided, open"]'))
    assert log.path.read_text() != stored
    assert describe(log.read())["tries"][1]["notes"] == ["idea=y was tested in try 1: undecided, dropped"]


def test_a_decision_is_reversed_with_a_reason(call_ablate: Ablate) -> None:
    log = start()
    add(log, make_study("idea"))
    assert call_ablate("campaign", "goal", "--keep", "1", "--because", "it is fast")[0] == 0
    written = log.path.read_bytes()
    code, _, err = call_ablate("campaign", "goal", "--drop", "1")
    assert code == 2 and "goal: try 1 was kept because it is fast; to change that, say why with --because TEXT" in err
    assert call_ablate("campaign", "goal", "--keep", "1")[0] == 0  # the reason stays
    assert log.path.read_bytes() == written
    _, out, _ = call_ablate("campaign", "goal", "--drop", "1", "--because", "it was a bug", "--json")
    (one,) = json.loads(out)["tries"]
    assert (one["decision"], one["because"]) == ("dropped", "it was a bug")


def test_a_dead_end_is_recognized_in_another_grid(
    call_ablate: Ablate, write_grid: Callable[..., Path], corpus_info: CorpusInfo
) -> None:
    matrix = {"normalization": ["prenorm", "peri", "ngpt"]}
    grid = write_grid(matrix=matrix, baseline={})
    planned = record_study(build_plan(load_study(grid), corpus_info), "", "")
    identities = {arm.axes["normalization"]: arm.identity for arm in planned.arms}
    store = StudyFolder(make_study("old", arms=("y",)))
    record = store.read_study()
    told = {"old=x": identities["prenorm"], "old=y": identities["ngpt"]}
    store.write_study(replace(record, arms=tuple(replace(a, identity=told[a.arm]) for a in record.arms)))
    log = start()
    add(log, store.path)
    call_ablate("campaign", "goal", "--drop", "1", "--because", "it is slower")
    found = check_grid(log.read(), planned)
    tests = {arm["arm"]: arm["tests"] for arm in found["arms"]}
    assert tests["normalization=peri"] == []
    (test,) = tests["normalization=ngpt"]
    assert (test["k"], test["decision"], test["because"]) == (1, "dropped", "it is slower")
    code, out, _ = call_ablate("campaign", "goal", "--check", grid)
    assert code == 0 and "would be try 2 of goal, at 0.76 %" in out


def test_a_grid_says_if_its_study_is_a_try_already_or_needs_again(
    call_ablate: Ablate, write_grid: Callable[..., Path]
) -> None:
    grid = write_grid(matrix={"normalization": ["prenorm", "peri"]}, baseline={}, seeds=3)
    store = StudyFolder(Path("runs") / load_study(grid).study)
    code, out, _ = call_ablate("campaign", "goal", "--goal", "x", "--check", grid)
    assert code == 0 and f"{store.path.name} would be try 1 of goal, at 3.04 %" in out
    planned = record_study(read_plan(grid, Path("runs"), None), "", "")
    arms = [SyntheticArm(arm.arm, arm.axes, arm.baseline) for arm in planned.arms]
    written = write_study(store, arms, seeds=range(3), noise=NOISE)
    for row, run in zip(planned.runs, sorted(written.runs, key=lambda run: run.seed), strict=True):
        assert row.seed == run.seed
        store.run(run.run_id).path.rename(store.run(row.run_id).path)
    store.write_study(replace(written, arms=planned.arms, runs=planned.runs, metric=planned.metric))
    add(CampaignLog(Path("runs"), "goal"), store.path)
    code, out, _ = call_ablate("campaign", "goal", "--check", grid)
    assert code == 0 and "is try 1 of goal already; --add spends nothing" in out and "would be" not in out
    code, out, _ = call_ablate("campaign", "goal", "--check", grid, "--set", "seeds=5", "--json")
    found = json.loads(out)
    assert (found["k"], found["same"], found["is_added"]) == (2, 1, False)
    _, out, _ = call_ablate("campaign", "goal", "--check", grid, "--set", "seeds=5")
    assert "with --again, it tests them as try 2 at 0.76 %" in " ".join(out.split())


def test_without_a_name_all_campaigns_are_listed(call_ablate: Ablate) -> None:
    code, out, _ = call_ablate("campaign")
    assert code == 0 and "no campaign in runs" in out
    start("bad").path.write_text("nonsense\n")
    add(start("goal"), make_study("one"))
    code, out, _ = call_ablate("campaign", "--json")
    bad, good = json.loads(out)
    assert code == 0 and (good["name"], good["n_tries"], good["error"]) == ("goal", 1, "")
    assert good["spent"] == level_of(1) and "line 1: this is not an event" in bad["error"]
    assert "learn faster" in call_ablate("campaign")[1]
    code, _, err = call_ablate("campaign", "--keep", "1")
    assert code == 2 and "name the campaign" in err


def test_what_is_known_has_reasons_grids_and_the_change_in_code(call_ablate: Ablate) -> None:
    log = start()
    for k, body in ((1, b"scale = 1\n"), (2, b"scale = 2\n")):
        store = StudyFolder(make_study(f"code{k}"))
        version = write_code(store.code, {"mine.py": body}).name
        for run in store.read_study().runs:
            config = store.run(run.run_id).config
            attention = {"name": "mine.py:Mine", "version": version}
            write_json(config, read_json(config) | {"model": {"attention": attention}})
        grid = Path(f"code{k}.yaml")
        grid.write_text(f"study: code{k}\n")
        assert call_ablate("campaign", "goal", "--add", grid)[0] == 0
        assert call_ablate("campaign", "goal", "--keep", str(k))[0] == 0
    code, out, _ = call_ablate("campaign", "goal", "--next")
    known = json.loads(out)
    assert code == 0 and [one["decision"] for one in known["tries"]] == ["kept", "kept"]
    first, second = (one["code"] for one in known["tries"])
    assert (first["compared_with"], second["compared_with"]) == (None, 1)
    assert "-scale = 1\n+scale = 2\n" in second["diff"]
    assert known["tries"][1]["grid"]["text"] == "study: code2\n"
    assert known["next"]["k"] == 3 and known["next"]["seeds"] > 3 and log.read().goal == "learn faster"
    _, table, _ = call_ablate("campaign", "goal")
    assert "error rate: 3.8 % of 5 % spent, 1.2 % left for all further tries; try 3 is tested at 0.338 %" in table


def test_processes_that_add_at_once_get_different_numbers() -> None:
    log = start()
    folders = [make_study(f"n{i}") for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda folder: add(CampaignLog(Path("runs"), "goal"), folder), folders))
    assert sorted(numbers) == list(range(1, 9))
    assert [one.alpha for one in log.read().tries] == [level_of(k) for k in range(1, 9)]


def test_a_line_that_a_killed_process_left_is_written_over_and_damage_is_named(call_ablate: Ablate) -> None:
    log = start()
    add(log, make_study("one"))
    whole = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write(b'{"event": "try", "k": 2, "stu')
    assert len(log.read().tries) == 1
    assert add(log, make_study("two")) == 2
    assert log.path.read_bytes().startswith(whole) and len(log.read().tries) == 2
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:1] + lines[2:]))
    code, _, err = call_ablate("campaign", "goal")
    assert code == 2 and "goal.jsonl, line 2: try 2 follows try 0; restore the file" in err


def test_bad_input_is_one_message_and_changes_nothing(call_ablate: Ablate) -> None:
    log = start("faster")
    folder = make_study("idea")
    before = log.path.read_bytes()
    for arguments, message in (
        (("fasterr", "--add", "idea"), "fasterr: there is no such campaign in runs/campaigns; did you mean 'faster'?"),
        (("faster", "--keep", "1"), "faster: there is no try 1 (legal: none yet)"),
        (("faster", "--keep", "1", "--drop", "2"), "--keep and --drop cannot be used together"),
        (("faster", "--again"), "--again goes with --add"),
        (("faster", "--because", "x"), "--because goes with --keep or --drop"),
        (("../x",), "campaign: a campaign's name has up to 100 letters"),
        (("faster", "--add", "nothing"), "no study was run here"),
    ):
        code, _, err = call_ablate("campaign", *arguments)
        assert (code, err.count("\n")) == (2, 1) and message in err, err
    run = StudyFolder(folder).run(StudyFolder(folder).read_study().runs[0].run_id)
    run.write_status(Status("queued"))
    code, _, err = call_ablate("campaign", "faster", "--add", "idea")
    assert code == 1 and "idea: 1 of 8 runs have not ended" in err
    assert log.path.read_bytes() == before and not list(Path("runs/campaigns").glob("fasterr*"))


def test_levels_may_not_hide_that_results_were_looked_at() -> None:
    from ablate.tracking.study_record import HistoryEvent

    store = StudyFolder(make_study("seen"))
    events: list[Any] = [("seeds", 3), ("look", 3), ("seeds", 4)]
    history = tuple(HistoryEvent(what, "2026-01-01T00:00:00+00:00", n) for what, n in events)
    store.write_study(replace(store.read_study(), history=history))
    log = start()
    add(log, store.path)
    assert "looked at with 3 seeds before more were added" in log.read().tries[0].notes[0]
