"""What happens to a run whose program fails, hangs, floods its output or leaves processes behind."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from program_bench import Bench

from ablate.formatting import name_error
from ablate.tasks import output
from ablate.tracking.curve import is_held, read_curve

PATIENCE_S = 30.0
REPORT = "print('step 1: val loss 2.0', flush=True)\n"


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_an_exit_code_is_a_failure_with_the_last_lines(bench: Callable[..., Bench]) -> None:
    script = REPORT + "for i in range(50): print('line', i)\nraise SystemExit(3)\n"
    result, status, curve = bench().run(script)
    assert (result, status.state) == ("failed", "failed")
    *lines, end = status.error.splitlines()
    assert lines == [f"line {i}" for i in range(30, 50)]
    assert end == "the program ended with exit code 3 after the line 'line 49'"
    assert len(curve) == 1


def test_an_exception_is_named_with_the_users_own_line(bench: Callable[..., Bench]) -> None:
    _, status, _ = bench().run("def train():\n    raise ValueError('bad idea')\ntrain()\n")
    assert name_error(status.error) == "ValueError: bad idea"
    assert 'train.py", line 2, in train' in status.error
    assert "guard" not in status.error


def test_a_signal_is_named(bench: Callable[..., Bench]) -> None:
    _, status, _ = bench().run("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert name_error(status.error) == "the program was killed by SIGSEGV"


def test_a_program_that_reports_nothing_has_failed_and_the_message_says_what_was_looked_for(
    bench: Callable[..., Bench],
) -> None:
    _, status, _ = bench().run("print('step 10: val_loss 2.0')\n")
    first, second = status.error.splitlines()
    assert first == "step 10: val_loss 2.0"
    assert second.startswith(
        "the program ended with exit code 0, but it never reported val_loss: looked for an `ablate"
    )
    assert "lines that match 'step (?P<step>" in second


def test_a_program_that_reports_other_metrics_is_told_their_names(bench: Callable[..., Bench]) -> None:
    _, status, _ = bench().run("""print('{"step": 1, "acc": 0.5, "note": "x"}')""")
    assert status.error.endswith("; it reported acc, which `program.metrics` can name")


@pytest.mark.parametrize("remove", ["shutil.rmtree(d)", "shutil.rmtree(d); os.mkdir(d)"])
def test_a_program_that_clears_the_folder_of_its_run_is_told_so(bench: Callable[..., Bench], remove: str) -> None:
    script = f"import os, shutil\nd = os.environ['ABLATE_RUN_DIR']\n{remove}\nprint('step 1: val loss 2.0')\n"
    result, status, _ = bench().run(script)
    assert result == "failed"
    assert status.error.startswith("the program removed files that ablate keeps in {run_dir}")


def test_a_metric_that_is_not_finite_ends_the_program_at_once(bench: Callable[..., Bench]) -> None:
    mine = bench()
    result, status, curve = mine.run(
        REPORT + "print('step 2: val loss nan', flush=True)\nimport time\ntime.sleep(60)\nopen('went on', 'w')\n"
    )
    assert (result, status.state, status.step) == ("diverged", "diverged", 2)
    assert status.notes == ("val_loss was not a finite number at step 2",)
    assert [record["val_loss"] for record in curve] == [2.0, None]
    assert status.took_s < 30


def test_output_of_any_size_leaves_a_small_log_with_both_ends(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "HEAD_BYTES", 10_000)
    monkeypatch.setattr(output, "TAIL_BYTES", 5_000)
    mine = bench()
    before = psutil.Process().memory_info().rss
    result, _, curve = mine.run(
        "import sys\nprint('the first line')\nblock = b'x' * 99 + b'\\n'\n"
        "for _ in range(100): sys.stdout.buffer.write(block * 10_000)\n"
        "sys.stdout.buffer.write(b'y' * 50_000_000)\n"
        "print()\nprint('step 1: val loss 2.0')\nprint('the last line')\n"
    )
    assert (result, len(curve)) == ("finished", 1)
    assert psutil.Process().memory_info().rss - before < 60_000_000
    log = (mine.folder_of(mine.plan()).path / "log.txt").read_text()
    assert log.startswith("the first line\nxxx")
    assert log.endswith("y\nstep 1: val loss 2.0\nthe last line\n")
    assert len(log) < 16_000
    assert "bytes of output are left out here ..." in log
    left_out = int(log.split(" bytes of output")[0].rpartition("... ")[2].replace(",", ""))
    kept = len(log) - len(f"\n... {left_out:,} bytes of output are left out here ...\n")
    assert kept + left_out == len("the first line\n\nstep 1: val loss 2.0\nthe last line\n") + 150_000_000


def test_nothing_that_a_program_starts_outlives_it(bench: Callable[..., Bench], tmp_path: Path) -> None:
    """Children, and daemons that left the session and lost their parents; one of them ignores SIGTERM."""
    script = f"""
import os, signal, subprocess, sys, time
def daemon(name, number):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if number else signal.SIG_DFL)
            open(f"{tmp_path}/{{name}}", "w").write(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    os.wait()
daemon("one", 0)
daemon("two", 1)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("{tmp_path}/three", "w").write(str(child.pid))
while not all(os.path.exists(f"{tmp_path}/{{name}}") for name in ("one", "two")): time.sleep(0.01)
print("step 1: val loss 2.0")
"""
    result, status, _ = bench().run(script)
    assert result == "finished"
    assert status.notes == ("3 processes that the program left behind were killed",)
    assert not [name for name in ("one", "two", "three") if is_alive(int((tmp_path / name).read_text() or 0))]


def test_a_silent_program_counts_as_hung(bench: Callable[..., Bench]) -> None:
    result, status, _ = bench({"silent_for": 0.5}).run(REPORT + "import time\ntime.sleep(600)\n")
    assert result == "failed"
    assert name_error(status.error) == "no output for 0.5 s, so it was stopped as hung (program.silent_for)"


def test_a_program_that_runs_too_long_is_ended(bench: Callable[..., Bench]) -> None:
    script = REPORT + "import time\nwhile True: print('busy', flush=True); time.sleep(0.05)\n"
    _, status, _ = bench({"timeout": 0.7}).run(script)
    assert name_error(status.error) == "it ran for more than 0.7 s, so it was stopped (program.timeout)"


def test_a_stopped_program_gets_sigterm_and_resumes_with_its_own_checkpoint(bench: Callable[..., Bench]) -> None:
    mine = bench({"command": "python train.py --out {run_dir}"})
    mine.write("""
import os, signal, sys, time
path = os.path.join(sys.argv[2], "state")
start = int(open(path).read()) if os.path.exists(path) else 0
def save(*_):
    open(path, "w").write("3")
    sys.exit()
signal.signal(signal.SIGTERM, save)
for step in range(start, 6):
    print(f"step {step}: val loss {9 - step}.{start}", flush=True)
    if step == 4 and not start: time.sleep(600)
""")
    plan = mine.plan()
    folder = mine.folder_of(plan)
    thread, results = mine.train_in_thread(plan)
    wait_for(lambda: (folder.path / "log.txt").exists() and "step 4" in (folder.path / "log.txt").read_text())
    mine.worker.stop([plan.runs[0].run_id])
    thread.join(PATIENCE_S)
    assert results == ["stopped"]
    assert folder.read_status().state == "queued"
    assert [record["step"] for record in read_curve(folder.curve)] == [0, 1, 2, 3, 4]
    before = read_curve(folder.curve)[2]["wall_s"]
    mine.worker._stopped.clear()
    assert mine.train(plan) == "finished"
    curve = read_curve(folder.curve)
    assert [(r["step"], r["val_loss"]) for r in curve] == [(0, 9.0), (1, 8.0), (2, 7.0), (3, 6.3), (4, 5.3), (5, 4.3)]
    assert curve[3]["wall_s"] > before
    assert folder.read_status().notes == ("resumed after step 2",)
    assert "step 0" in (folder.path / "log.before.txt").read_text()


def test_a_program_that_starts_again_has_a_fresh_curve(bench: Callable[..., Bench]) -> None:
    mine = bench()
    mine.write(
        "import os\nfor step in range(1, 4): print(f'step {step}: val loss {step}.0', flush=True)\n"
        "if not os.path.exists('once'): open('once', 'w'); raise SystemExit(1)\n"
    )
    plan = mine.plan()
    assert [mine.train(plan), mine.train(plan)] == ["failed", "finished"]
    folder = mine.folder_of(plan)
    assert [record["step"] for record in read_curve(folder.curve)] == [1, 2, 3]
    assert read_curve(folder.curve)[0]["wall_s"] < PATIENCE_S
    assert (folder.read_status().state, folder.read_status().error) == ("finished", "")


def test_a_program_that_had_nothing_left_to_do_keeps_its_curve(bench: Callable[..., Bench]) -> None:
    """The worker was killed between the end of the program and its own note of that."""
    mine = bench()
    mine.write(
        "import os\nif os.path.exists('done'): raise SystemExit\n"
        "print('step 7: val loss 2.0', flush=True); open('done', 'w'); os.kill(os.getpid(), 9)\n"
    )
    plan = mine.plan()
    assert [mine.train(plan), mine.train(plan)] == ["failed", "finished"]
    assert mine.folder_of(plan).read_status().step == 7


def test_a_program_that_ignores_sigterm_is_killed(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.tasks.process.TERM_S", 0.5)
    mine = bench()
    mine.write("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + REPORT + "time.sleep(600)\n")
    plan = mine.plan()
    thread, results = mine.train_in_thread(plan)
    wait_for(lambda: (mine.folder_of(plan).path / "log.txt").exists())
    wait_for(lambda: "step 1" in (mine.folder_of(plan).path / "log.txt").read_text())
    mine.worker.stop([plan.runs[0].run_id])
    thread.join(PATIENCE_S)
    assert results == ["stopped"]


def test_a_run_that_is_cut_has_ended_and_keeps_its_curve(bench: Callable[..., Bench]) -> None:
    mine = bench()
    mine.write(REPORT + "import time\ntime.sleep(600)\n")
    plan = mine.plan()
    folder = mine.folder_of(plan)
    thread, results = mine.train_in_thread(plan)
    wait_for(lambda: (folder.path / "log.txt").exists() and "step 1" in (folder.path / "log.txt").read_text())
    mine.worker.cut(plan.runs[0].run_id, "asha: number 3 of 3")
    thread.join(PATIENCE_S)
    assert results == ["finished"]
    status = folder.read_status()
    assert status.is_cut
    assert status.known_steps == 0
    assert status.notes == ("stopped early, at step 1: asha: number 3 of 3",)


def test_a_killed_worker_takes_its_program_along(bench: Callable[..., Bench]) -> None:
    """The run stays held until the program is gone, so that no second one starts in the same folder."""
    mine = bench()
    mine.write("import os, time\nopen('pid', 'w').write(str(os.getpid()))\n" + REPORT + "time.sleep(600)\n")
    plan = mine.plan()
    worker = multiprocessing.get_context("fork").Process(target=mine.train, args=(plan,))
    worker.start()
    pid_file, curve = mine.folder / "pid", mine.folder_of(plan).curve
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    assert is_held(curve)
    worker.kill()
    worker.join()
    wait_for(lambda: not is_held(curve))
    assert not is_alive(pid)


def test_a_killed_guard_is_a_failure_and_takes_the_program_along(bench: Callable[..., Bench]) -> None:
    mine = bench()
    result, status, _ = mine.run(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nos.kill(os.getppid(), 9)\ntime.sleep(600)\n"
    )
    assert result == "failed"
    assert name_error(status.error) == "the program was killed by SIGKILL"
    wait_for(lambda: not is_alive(int((mine.folder / "pid").read_text())))


def test_a_program_that_cannot_be_executed_says_why(bench: Callable[..., Bench]) -> None:
    mine = bench({"command": "./train"})
    mine.write("no script\n", "train")
    (mine.folder / "train").chmod(0o755)
    plan = mine.plan()
    assert mine.train(plan) == "failed"
    (error,) = mine.folder_of(plan).read_status().error.splitlines()
    assert error == "the program could not be started: Exec format error"


def test_code_that_changed_after_the_plan_is_not_run(bench: Callable[..., Bench]) -> None:
    mine = bench()
    mine.write(REPORT)
    before = mine.plan()
    mine.write(REPORT.replace("2.0", "1.0"))
    assert mine.train(before) == "failed"
    assert "the code has changed since the study was planned" in mine.folder_of(before).read_status().error
    after = mine.plan()
    assert {run.run_id for run in after.runs}.isdisjoint(run.run_id for run in before.runs)
    assert mine.train(after) == "finished"
