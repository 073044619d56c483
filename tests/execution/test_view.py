"""What a terminal, a pipe and a program see of a study that is training."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.data import describe
from ablate.execution.progress import Event
from ablate.execution.run_line import draw_sparkline
from ablate.execution.view import View
from ablate.metrics import Metric
from ablate.plan import Plan, build_plan
from ablate.study import load_study


@pytest.fixture
def plan(write_grid: Callable[..., Path], tmp_path: Path) -> Plan:
    study = load_study(write_grid(seeds=5))
    return build_plan(study, describe(study.data, tmp_path))


def events(plan: Plan) -> list[Event]:
    first, second, *_ = plan.runs
    record: dict[str, Any] = {"step": 6, "train_loss": 2.5, "val_loss": 2.25, "tokens_per_s": 1000.0}
    return [
        Event("started", first),
        Event("started", second),
        Event("progress", first, record={**record, "memory_bytes": 3 * 10**9}),
        Event("ended", second, state="failed", text="ZeroDivisionError: [no]"),
        Event("notice", text="no room"),
    ]


def show(plan: Plan, width: int = 100, height: int = 30, **options: Any) -> tuple[View, Console, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=options.pop("terminal", False))
    view = View(console, **options)
    with view.shown(plan.runs, 2):
        for event in events(plan):
            view.observe(event)
    return view, console, out


def test_a_pipe_gets_whole_lines_without_escapes(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.execution.view.PLAIN_EVERY_S", 0.0)
    _, _, out = show(plan, width=40)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert any("step 6/12, loss 2.5000, validation loss 2.2500" in line for line in lines)
    assert any(line.startswith("[1/20]") and "ZeroDivisionError: [no]" in line for line in lines)


def test_a_metric_is_shown_by_its_name(plan: Plan) -> None:
    run, out = plan.runs[0], io.StringIO()
    view = View(Console(file=out, width=100, height=30, force_terminal=True))
    with view.shown(plan.runs, 2, Metric("acc", "higher")):
        view.observe(Event("progress", run, record={"step": 6, "acc": 0.25}))
        with view.console.capture() as captured:
            view.console.print(view)
        view.observe(Event("ended", run, state="finished"))
    table = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", captured.get())
    assert re.search(r"step +loss +acc ", table) and "0.2500" in table
    assert "finished, acc 0.2500" in out.getvalue()


def test_a_terminal_cut_losses_in_two(plan: Plan) -> None:
    run = plan.runs[0]
    name = f"[1/20] {run.arm.name},seed={run.seed}: "
    out = io.StringIO()
    # one column less than the line: the terminal itself would wrap the last digit
    width = len(name + "finished, validation loss 2.2500") - 1
    view = View(Console(file=out, width=width, force_terminal=True))
    with view.shown(plan.runs, 2):
        view.observe(Event("progress", run, record={"step": 12, "val_loss": 2.25}))
        view.observe(Event("ended", run, state="finished"))
    text = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert any(line.strip() == "2.2500" for line in text.splitlines())


@pytest.mark.parametrize(("width", "height"), [(200, 60), (60, 8), (20, 3)])
def test_the_live_table_fits_a_terminal_of_any_size(plan: Plan, width: int, height: int) -> None:
    view, console, _ = show(plan, terminal=True)
    console.width, console.height = width, height  # like after a resize
    with console.capture() as captured:
        console.print(view)
    text = re.sub("\x1b\\[[0-9;]*m", "", captured.get())
    assert "20 runs" in " ".join(text.split())
    seen = {
        200: ("━━━━━╌╌╌╌╌", "2.5000", "2.2500", "GB", "k", "6/12", "no room", f"{plan.runs[0].arm.name},seed=0"),
        60: ("6/12", "2.5000", "2.2500", "waiting", "…", "seed=0"),
        20: ("…", "seed=0"),
    }
    for word in seen[width]:
        assert word in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("height", [3, 4, 9])
def test_a_table_higher_than_the_terminal_left_its_header_behind(plan: Plan, height: int) -> None:
    view, console, _ = show(plan, terminal=True)
    for run in plan.runs[:9]:
        view.observe(Event("started", run))
    view.observe(Event("retry", plan.runs[0], text="a message that is longer than the terminal is wide, twice over"))
    console.width, console.height = 40, height
    with console.capture() as captured:
        console.print(view)
    lines = captured.get().splitlines()
    assert len(lines) == height
    assert "of 20 runs ended" in captured.get()


def test_a_study_is_not_over_before_its_last_run(plan: Plan) -> None:
    (run,) = plan.runs[:1]
    console = Console(file=io.StringIO(), width=100)
    view = View(console)
    with view.shown([run], 2):
        view.observe(Event("started", run))
        view.observe(Event("progress", run, record={"step": 6, "tokens_per_s": run.arm.n_tokens / 120}))
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    assert "about 1 min 00 s left" in console.file.getvalue()


def test_quiet_prints_what_went_wrong_alone(plan: Plan) -> None:
    text = show(plan, quiet=True)[2].getvalue()
    assert "ZeroDivisionError" in text
    assert "started" not in text
    assert "loss" not in text


def test_every_event_is_a_line_of_json(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(plan, as_json=True)[2].getvalue() == ""
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == ["started", "started", "progress", "ended", "notice"]
    assert rows[2]["run_id"] == plan.runs[0].run_id
    assert rows[2]["val_loss"] == 2.25
    assert rows[3]["state"] == "failed"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([8.0, 1.0, 4.5], "█▁▅"),
        (list(range(100)), "▁▅█"),
        ([1.0, float("nan"), 2.0], "▁!█"),
        ([float("inf"), float("nan")], "!!"),
    ],
)
def test_a_curve_in_a_few_characters(values: list[float], drawn: str) -> None:
    assert draw_sparkline(values, 3) == drawn


def test_a_terminal_without_unicode_gets_no_drawings(plan: Plan) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=out, width=200, height=30, force_terminal=True)
    view = View(console)
    with view.shown(plan.runs, 2):
        for event in events(plan):
            view.observe(event)
    out.flush()
    assert b"6/12" in out.buffer.getvalue()  # type: ignore[attr-defined]
