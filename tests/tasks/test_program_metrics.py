"""How the metrics of a program get into its curve."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import numpy as np
import psutil
import pytest
from program_bench import Bench

from ablate.analysis.results import read_results
from ablate.tasks.log_lines import LineReader, find_literal

NANOGPT = [
    r"step (?P<step>\d+): train loss (?P<train_loss>[\d.]+), val loss (?P<val_loss>[\d.]+)",
    r"iter (?P<step>\d+): loss (?P<iter_loss>[\d.]+), time [\d.]+ms, mfu (?P<mfu>-?[\d.]+)%",
]
NANOGPT_SCRIPT = """
loss = 4.0
for i in range(0, 11):
    if i % 5 == 0:
        print(f"step {i}: train loss {loss:.4f}, val loss {loss + 0.1:.4f}")
    print(f"iter {i}: loss {loss:.4f}, time 12.30ms, mfu {-100 if i < 5 else 3.1:.2f}%")
    loss *= 0.9
"""


Make = Callable[..., LineReader]


@pytest.fixture
def make_reader() -> Iterator[Make]:
    """A function that makes readers, which are closed at the end."""
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(closing(LineReader(*args)))


def test_the_lines_of_nanogpt_are_one_line_of_the_curve_per_step(bench: Callable[..., Bench]) -> None:
    result, status, curve = bench({"pattern": NANOGPT}).run(NANOGPT_SCRIPT)
    assert result == "finished"
    assert (status.step, status.n_steps, status.notes) == (10, 10, ())
    assert [record["step"] for record in curve] == list(range(11))
    assert [record["val_loss"] for record in curve if "val_loss" in record] == [4.1, 2.4620, 1.4947]
    assert curve[5]["train_loss"] == curve[5]["iter_loss"] == 2.362
    assert [record["mfu"] for record in curve] == [-100.0] * 5 + [3.1] * 6
    seconds = [record["wall_s"] for record in curve]
    assert 0 < seconds[0] <= seconds[-1] < 20


def test_a_script_of_ten_lines_logs_with_one_import(bench: Callable[..., Bench]) -> None:
    result, _, curve = bench({"pattern": None, "metrics": {"val_acc": "higher"}}).run(
        "import ablate, numpy\n"
        "for step in (10, 20):\n"
        "    acc, tokens = numpy.float32(step / 32), numpy.int64(100 * step)\n"
        "    ablate.log(step=step, val_acc=acc, tokens=tokens, **{'val/f1': 0.5})\n"
        "print('done')\n"
    )
    assert result == "finished"
    seconds = [record.pop("wall_s") for record in curve]
    assert curve == [
        {"step": 10, "val_acc": 0.3125, "tokens": 1000, "val/f1": 0.5},
        {"step": 20, "val_acc": 0.625, "tokens": 2000, "val/f1": 0.5},
    ]
    assert seconds == sorted(seconds)


def test_ablate_log_does_nothing_outside_a_run_and_needs_only_the_standard_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys; before = set(sys.modules); import ablate; ablate.log(step=1, val_loss=2.0); "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=".")
    assert done.stdout == "['ablate']\n"


def test_a_value_that_is_no_number_is_an_error_in_the_line_that_logs_it(bench: Callable[..., Bench]) -> None:
    _, status, _ = bench().run("import ablate\nablate.log(step=1, val_loss='low')\n")
    assert "TypeError: ablate.log: val_loss must be a number, got 'low'" in status.error


def test_lines_of_several_processes_stay_whole(bench: Callable[..., Bench]) -> None:
    _, status, curve = bench({"pattern": None}).run(
        "import ablate, os\n"
        "children = [os.fork() for _ in range(2)]\n"
        "name = f'rank{sum(pid > 0 for pid in children)}'\n"
        "for step in range(300):\n"
        "    ablate.log(step=1, **{f'{name}_{step}': step})\n"
        "if all(children):\n"
        "    [os.waitpid(pid, 0) for pid in children]\n"
        "    ablate.log(step=1, val_loss=2.0)\n"
    )
    assert status.state == "finished"
    assert curve[0]["val_loss"] == 2.0
    assert len(curve[0]) > 200


def test_json_lines_with_a_step_and_a_metric_count(bench: Callable[..., Bench]) -> None:
    lines = [
        {"_step": 1, "val_loss": 3.0, "epoch": 0.5, "name": "x", "nested": {"a": 1}},
        {"message": "no step", "val_loss": 9.0},
        {"step": 2, "message": "no metric"},
        {"global_step": 3, "val_loss": 2.0, "seconds": 40},
    ]
    script = f"import json\nfor line in {lines!r}:\n    print(json.dumps(line))\nprint('{{not json')\n"
    _, _, curve = bench({"pattern": None}).run(script)
    assert curve[0].pop("wall_s") < 20
    assert curve == [{"step": 1, "val_loss": 3.0, "epoch": 0.5}, {"step": 3, "val_loss": 2.0, "wall_s": 40}]


def test_steps_that_go_back_are_left_out_and_noted_once(bench: Callable[..., Bench]) -> None:
    _, status, curve = bench().run("for s in (1, 2, 1, 1, 3): print(f'step {s}: val loss {s}.5')\n")
    assert [(record["step"], record["val_loss"]) for record in curve] == [(1, 1.5), (2, 2.5), (3, 3.5)]
    assert status.notes == ("values of step 1 came after step 2: left out",)


def test_a_thousand_bad_steps_leave_one_note_of_each_kind(bench: Callable[..., Bench]) -> None:
    script = "for s in [*range(300)] * 2: print(f'step {s}: val loss {s}.5')\nimport ablate\n"
    script += "for s in range(300): ablate.log(s + 0.5, val_loss=1)\n"
    _, status, curve = bench().run(script)
    assert len(curve) == 300 and len(status.notes) == 2


@pytest.mark.parametrize(
    ("tokens", "flaw"),
    [
        ((64, 64, 64), "tokens was 64 at step 0 and at step 1"),
        ((64, 32, 96), "tokens fell from 64 at step 0 to 32 at step 1"),
        ((-1, 64, 128), "tokens was not a number of at least 0 at step 0"),
    ],
)
def test_a_cost_that_is_no_total_does_not_count(
    bench: Callable[..., Bench], tokens: tuple[int, ...], flaw: str
) -> None:
    """The tokens of one batch, logged at each step, would make every arm equally fast in tokens."""
    script = f"import ablate\nfor s, n in enumerate({tokens}): ablate.log(s, val_loss=3 - s, tokens=n)\n"
    made = bench({"pattern": None})
    result, status, _ = made.run(script)
    assert result == "finished"
    assert status.notes == (f"{flaw}, so it is no total since the start: it does not count",)
    (run,) = (run for run in read_results(made.store).runs if run.has_ended)
    assert np.isnan(run.cost_of_evaluations("tokens")).all() and run.evaluation_loss.tolist() == [3, 2, 1]
    assert run.why_no_cost("tokens").startswith(flaw)


def test_a_metric_in_a_json_line_may_be_a_text(bench: Callable[..., Bench]) -> None:
    script = """for v in ('"2.5"', 'null', '"NaN"'): print('{"step": 1, "val_loss": %s}' % v)\n"""
    result, status, _ = bench({"pattern": None}).run(script)
    assert result == "diverged"
    assert status.notes[0] == "val_loss: 'null' is not a number: left out"


def test_a_late_value_of_a_step_joins_its_line(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.tasks.program_curve.IDLE_S", 0.1)
    _, _, curve = bench({"pattern": None}).run(
        "import ablate, time\nablate.log(5, val_loss=2.0)\n"
        "time.sleep(0.5)\nablate.log(5, mfu=3)\nablate.log(6, mfu=4)\n"
    )
    assert [(r["step"], r.get("val_loss"), r["mfu"]) for r in curve] == [(5, 2.0, 3), (6, None, 4)]


def test_a_misspelt_metric_is_kept_and_the_nearest_is_named(bench: Callable[..., Bench]) -> None:
    _, status, curve = bench({"pattern": None}).run(
        "import ablate\nablate.log(1, val_los=2.0)\nablate.log(2, val_loss=1.0, mfu=3)\n"
    )
    assert curve[0]["val_los"] == 2.0
    note = "'val_los' is not a metric of the grid, so it is kept as a diagnostic; did you mean 'val_loss'?"
    assert status.notes == (note,)


def test_progress_bars_and_colours_hide_no_metric(make_reader: Make) -> None:
    reader = make_reader([r"step (?P<step>\d+) val_loss=(?P<val_loss>\S+)"], ["val_loss"])
    output = b"  3%|#   | 1/30\r\x1b[32mstep 1 val_loss=\x1b[1m2.5\x1b[0m\r\n\rstep 2 val_loss=2.0 \r"
    found = [one for byte in output for one in reader.read(bytes([byte]))]
    assert [*found, *reader.read(b"", is_last=True)] == [(1, {"val_loss": 2.5}), (2, {"val_loss": 2.0})]


def test_a_pattern_of_digits_still_sees_that_a_run_diverges(bench: Callable[..., Bench]) -> None:
    """nanoGPT prints `nan`, which its pattern of digits does not match. The run must not end as a good one."""
    script = "for s, v in ((0, '4.0'), (1, 'nan'), (2, 'nan')): print(f'step {s}: train loss {v}, val loss {v}')\n"
    result, status, curve = bench({"pattern": NANOGPT}).run(script)
    assert result == "diverged" and curve[-1]["val_loss"] is None
    assert status.notes == ("val_loss was not a finite number at step 1",)


@pytest.mark.parametrize(
    ("train", "val"), [("2.0", "9.9e-05"), ("1e-05", "2.5"), ("1e-05", "1E+2"), ("2.0", "inf"), ("-inf", "3.0")]
)
def test_a_number_is_never_read_in_part(make_reader: Make, train: str, val: str) -> None:
    reader = make_reader(NANOGPT, ["val_loss"])
    found = [*reader.read(f"step 5: train loss {train}, val loss {val}\n".encode())]
    assert found == [(5, {"train_loss": float(train), "val_loss": float(val)})]


def test_values_of_a_step_that_cannot_be_read_join_no_other_step(make_reader: Make) -> None:
    reader = make_reader([r"step (?P<step>\S+): val loss (?P<val_loss>\S+)"], ["val_loss"])
    lines = "".join(f"step {step}: val loss {loss}\n" for step, loss in (("900", 3), ("1,000", 2), ("1k1", 1)))
    assert [*reader.read(lines.encode())] == [(900, {"val_loss": 3}), (1000, {"val_loss": 2})]
    assert [*reader.remarks.values()] == ["step: '1k1' is not a number: left out"]


def test_a_colour_inside_the_text_of_a_pattern_hides_no_metric(make_reader: Make) -> None:
    reader = make_reader(NANOGPT, ["val_loss"])
    line = b"step 5\x1b[0m: train \x1b[1mloss 2.0, val\x1b[0m loss \x1b[32m2.5\x1b[0m\n"
    assert [*reader.read(line)] == [(5, {"train_loss": 2.0, "val_loss": 2.5})]


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        (r"step (?P<step>\d+): train loss (?P<a>[\d.]+), val loss (?P<b>\S+)", b": train loss "),
        (r"(?P<val_loss>[\d.]+)", b""),
        (r"(?i)loss (?P<a>\S+)", b""),
        (r"(?:loss|error)=(?P<a>\d+)", b"="),
        (r"^\[eval\] (?P<a>\d+)$", b"[eval] "),
        (r"(?:warm)?up (?P<a>\d+)", b"up "),
    ],
)
def test_only_text_that_every_match_has_is_looked_for_first(pattern: str, literal: bytes) -> None:
    assert find_literal(pattern) == literal


def test_blocks_are_read_as_lines_would_be(make_reader: Make) -> None:
    """The fast way over whole blocks finds what a search of every line finds, however the output is cut."""
    lines = [f"step {i}: val loss {i / 7:.3f}" if i % 3 else f"noise {{ {i}" for i in range(200)]
    lines += [json.dumps({"step": 200 + i, "val_loss": i}) for i in range(20)]
    output = ("\n".join(lines) + "\n").encode()
    pattern = r"step (?P<step>\d+): val loss (?P<val_loss>\S+)"
    expected = [(i, {"val_loss": float(f"{i / 7:.3f}")}) for i in range(200) if i % 3]
    expected += [(200 + i, {"val_loss": i}) for i in range(20)]
    for size in (1, 7, 100, len(output)):
        reader = make_reader([pattern], ["val_loss"])
        found = [one for at in range(0, len(output), size) for one in reader.read(output[at : at + size])]
        assert found == expected


def test_a_pattern_that_backtracks_without_end_hung_the_worker(bench: Callable[..., Bench]) -> None:
    """One line costs its metrics; lines that go on so end the run, with the pattern and the line in the message."""
    slow = r"step (?P<step>\d+) (?:\w+,?)+: (?P<val_loss>[\d.]+)"
    line = f"step 2 {'a' * 40}!"
    once = f"print('step 1 a,b: 2.5'); print({line!r}); print('step 3 a,b: 1.5')\n"
    result, status, curve = bench({"pattern": slow}).run(once)
    assert (result, [(record["step"], record["val_loss"]) for record in curve]) == ("finished", [(1, 2.5), (3, 1.5)])
    (note,) = status.notes
    assert note == f"program.pattern {slow!r} took more than 0.25 s to search the line {line!r}: left out"
    result, status, curve = bench({"pattern": slow}).run(f"{once}for _ in range(2000): print({line!r})\n")
    assert (result, len(curve)) == ("failed", 2)
    assert f"program.pattern {slow!r} took more than 0.25 s to search the line {line!r}; write it" in status.error
    assert status.took_s < 60


@pytest.mark.parametrize("slow", [r"(a|aa)+b(?P<x>)", r".*.*.*.*=(?P<x>\d)"])
def test_a_slow_search_leaves_the_other_patterns_to_their_work(make_reader: Make, slow: str) -> None:
    reader = make_reader([slow, r"s(?P<step>\d+) (?P<loss>\S+)"], ["loss"])
    line = f"s1 2.5 {'a' * 60}{'1' * 60}{'aa' * 1500}\n".encode()
    assert [*reader.read(line)] == []
    assert [*reader.read(b"s2 1.5\n")] == [(2, {"loss": 1.5})]
    assert repr(slow) in reader.remarks["late"] and not reader.failure


def test_a_pattern_of_any_characters_reaches_the_process_that_searches(make_reader: Make) -> None:
    reader = make_reader([r"Schritt (?P<step>\d+)\0+: größe=(?P<loss>\S+)"], ["loss"])
    assert [*reader.read("Schritt 3\0\0: größe=2.5\n".encode())] == [(3, {"loss": 2.5})]


def test_a_search_process_that_dies_is_named_and_ends_nothing_else(make_reader: Make) -> None:
    reader = make_reader([r"s(?P<step>\d+) (?P<loss>\S+)"], ["loss"])
    assert [*reader.read(b"s1 2.5\n")] == [(1, {"loss": 2.5})]
    (child,) = [child for child in psutil.Process().children() if "pattern_search.py" in "".join(child.cmdline())]
    child.kill()
    child.wait()
    assert [*reader.read(b's2 1.5\n{"step": 3, "loss": 1}\n')] == [(3, {"loss": 1})]
    assert reader.failure.startswith("the process that searches the output for patterns died")
