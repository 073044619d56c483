"""The task of running a user's program, which trains a model and reports its metrics."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.errors import AblateError
from ablate.formatting import quote
from ablate.sources.files import hash_program
from ablate.sources.variables import LOG, PREFIX, RUN_DIR, variable_name
from ablate.study.settings import flatten
from ablate.study.template import fill, placeholder_values, write_value
from ablate.tasks.contract import Job, Order, Result, Trainer
from ablate.tasks.log_lines import LineReader
from ablate.tasks.loop_trainer import describe_device
from ablate.tasks.output import OutputLog, tail_lines
from ablate.tasks.process import BLOCK_BYTES, End, Process
from ablate.tasks.program_curve import COSTS, ProgramCurve
from ablate.tasks.recorder import FolderRecorder
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.study_record import State

POLL_S = 0.05
DRAIN_S = 1.0  # how long to read what is left in the pipe once everything has ended
SHORT = 0.9  # a program that ends before this share of its steps is noted
ARM_NAME, DIFF_NAME = "arm.json", "code.diff"
MOST_OTHERS = 10  # names in a message
SEARCHED = "an `ablate.log(step=..., {0}=...)`, a JSON line with a step and {0}"
REMOVED = (
    "the program removed files that ablate keeps in {run_dir}: let it clear only a folder of its own, such as "
    "{run_dir}/out"
)


class ProgramError(AblateError):
    """A program that cannot be started, or that ended without a result."""


@dataclass
class _Watch:
    """Why a program is being ended, if it is."""

    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    reason: str = ""

    def check(self, silent_s: float, timeout_s: float | None) -> str:
        now = time.monotonic()
        if now - self.heard > silent_s:
            return f"no output for {silent_s:g} s, so it was stopped as hung (program.silent_for)"
        if timeout_s is not None and now - self.began > timeout_s:
            return f"it ran for more than {timeout_s:g} s, so it was stopped (program.timeout)"
        return ""


class ProgramTrainer(Trainer):
    """Runs one program at a time, with `cpus` threads, and the GPUs that the worker sees."""

    def __init__(self, device: str, cpus: int) -> None:
        self.device, self.cpus = device, cpus

    def train(self, job: Job, folder: RunFolder, recorder: FolderRecorder, order: Order) -> Result:
        try:
            return self._train(job, folder, recorder, order)
        except ProgramError as error:
            recorder.write_status("failed", error=str(error))
            return "failed"
        except FileNotFoundError as error:
            if Path(str(error.filename)).parent != folder.path:
                raise
            folder.path.mkdir(parents=True, exist_ok=True)
            recorder.write_status("failed", error=REMOVED)
            return "failed"

    def _train(self, job: Job, folder: RunFolder, recorder: FolderRecorder, order: Order) -> Result:
        program, told = job.config["program"], job.directions
        recorder.n_steps, recorder.measures_itself = told["n_steps"] or 0, False
        write_json(folder.config, job.config)
        _check_code(told, program["code"])
        provided = {
            "seed": job.config["seed"],
            "run_dir": str(folder.path),
            "run_id": job.run_id,
            "study": told["study"],
            "grid_dir": told["folder"],
            "python": sys.executable,
        }
        values = {**placeholder_values(told["settings"]), **provided}
        words = [fill(word, values) for word in program["command"]]
        write_json(
            folder.path / ARM_NAME,
            {**provided, "arm": told["arm"], "axes": told["axes"], "settings": told["settings"], "command": words},
            durable=False,
        )
        if told["diff"]:
            (folder.path / DIFF_NAME).write_bytes(Path(told["diff"]).read_bytes())
        manifest = {**job.manifest, **describe_device(self.device), "threads": self.cpus}
        write_json(folder.manifest, manifest, durable=False)  # it is written again at the end
        recorder.write_status("running")
        run = _Run(job, folder, recorder, order)
        with _new_file(folder.path) as logged:
            env = self._environment(program["env"], values, provided, told["settings"], str(logged))
            end = run.follow(words, env, logged)
        recorder.memory_bytes = end.memory_bytes
        write_json(folder.manifest, {**manifest, **run.flaws, "peak_memory_bytes": end.memory_bytes})
        return run.conclude(end)

    def _environment(
        self,
        own: Mapping[str, str],
        values: Mapping[str, Any],
        provided: Mapping[str, Any],
        settings: Mapping[str, Any],
        logged: str,
    ) -> dict[str, str]:
        """The variables of a program: the worker's without Ray's, the settings, and the grid's `env`."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", PREFIX))}
        env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
        env |= {variable_name(path): write_value(value) for path, value in (*flatten(settings), *provided.items())}
        env |= {RUN_DIR: str(provided["run_dir"]), LOG: logged}
        env |= {"OMP_NUM_THREADS": str(self.cpus), "PYTHONUNBUFFERED": "1"}
        if self.device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""  # a run without a share of a GPU must not use one
        return env | {name: fill(text, values) for name, text in own.items()}


@contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    """An empty file that is removed at the end, if the program has not done so."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".logged-")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _check_code(told: Mapping[str, Any], expected: str) -> None:
    """Raises `ProgramError` where the files are not those that the run's id was made of."""
    if told["files"] is None:
        return
    try:
        found = hash_program(Path(told["folder"]), told["files"])
    except AblateError as error:
        raise ProgramError(f"the code cannot be read: {error}") from None
    if found != expected:
        raise ProgramError(
            "the code has changed since the study was planned, so this run was not started; "
            "the same command plans it again, with new runs for the new code"
        )


class _Run:
    """One attempt at a run."""

    def __init__(self, job: Job, folder: RunFolder, recorder: FolderRecorder, order: Order) -> None:
        self.told, self.folder, self.recorder, self.order = job.directions, folder, recorder, order
        program = job.config["program"]
        self.metrics: dict[str, str] = dict(program["metrics"])
        self.patterns = program["pattern"]
        self.reader = LineReader(self.patterns, (*self.metrics, *COSTS))
        self.curve = ProgramCurve(recorder.curve, folder.curve, recorder, self.metrics, self._note)
        self.watch = _Watch()
        self.stopped = False
        self._offset = 0

    @property
    def flaws(self) -> dict[str, Any]:
        """What the manifest says about costs that do not count."""
        return {"no_cost": self.curve.no_cost} if self.curve.no_cost else {}

    @property
    def primary(self) -> str:
        return next(iter(self.metrics))

    def _note(self, text: str) -> None:
        if text not in self.recorder.status.notes:
            self.recorder.note(text)

    def follow(self, words: list[str], env: Mapping[str, str], logged: Path) -> End:
        """Run the program to its end, and keep what it prints and logs."""
        with closing(self.reader):
            end = self._follow(words, env, logged)
            self._take(self.reader.read(b"", is_last=True))
        self._take_logged(logged)
        return end

    def _follow(self, words: list[str], env: Mapping[str, str], logged: Path) -> End:
        with closing(OutputLog(self.folder.log)) as self.log, self._start(words, env) as process:
            drained_by = math.inf
            while process.end is None or (process.has_output and time.monotonic() < drained_by):
                block = process.read(POLL_S)
                if block:
                    self.watch.heard = time.monotonic()
                    self.log.write(block)
                    self._take(self.reader.read(block))
                self._take_logged(logged)
                self.curve.flush_if_idle()
                self.recorder.beat(self.recorder.status.step)
                if process.end is None:
                    self._command(process)
                elif math.isinf(drained_by):
                    drained_by = time.monotonic() + DRAIN_S
        assert process.end is not None
        return process.end

    def _start(self, words: list[str], env: Mapping[str, str]) -> Process:
        try:
            return Process(words, Path(self.told["cwd"]), env, self.recorder.curve.fileno())
        except OSError as error:
            raise ProgramError(f"{quote(words[0])} could not be started: {error.strerror}: {error.filename}") from None

    def _take_logged(self, logged: Path) -> None:
        while True:
            lines, self._offset = tail_lines(logged, self._offset, BLOCK_BYTES)
            if not lines:
                return
            self.watch.heard = time.monotonic()
            self._take(self.reader.read_logged(lines))

    def _take(self, found: Any) -> None:
        for step, values in found:
            if not self.curve.has_diverged:
                self.curve.add(step, values)
        for remark in self.reader.remarks.values():
            self._note(remark)

    def _command(self, process: Process) -> None:
        """End the program where the driver or its own records ask for that."""
        if self.stopped or self.watch.reason:
            return
        if self.curve.has_diverged:
            self.watch.reason = "diverged"
            process.kill()
        elif self.order.should_stop():
            self.stopped = True
            process.ask_to_end()
        elif reason := self.reader.failure or self.watch.check(self.told["silent_s"], self.told["timeout_s"]):
            self.watch.reason = reason
            process.ask_to_end()

    def conclude(self, end: End) -> Result:
        """Write how the run ended to its status."""
        if end.status == 0 and not self.stopped:
            self.curve.keep_earlier()
        self.curve.flush()
        if end.left:
            self._note(f"{end.left} processes that the program left behind were killed")
        step = self.recorder.status.step
        if self.curve.has_diverged:
            self._note(f"{self.primary} was not a finite number at step {step}")
            return self._end("diverged")
        if self.stopped and (reason := self.order.cut_reason()):
            self.recorder.note_cut(reason)
            self.recorder.n_steps = max(self.recorder.n_steps, step + 1)
            return self._end("finished")
        if self.stopped:
            self.recorder.write_status("queued")
            return "stopped"
        failure = self.watch.reason or self.reader.failure
        if failure or end.status or end.reason:
            printed = self.log.last_lines
            what = failure or f"the program {end.text}"
            if printed and not failure and end.status > 0:
                what += f" after the line {quote(printed.splitlines()[-1])}"  # often the reason, as argparse prints it
            raise ProgramError("\n".join(filter(None, (printed, what))))
        if not self.curve.has_primary:
            raise ProgramError("\n".join(filter(None, (self.log.last_lines, self._say_what_is_missing()))))
        if step < SHORT * self.recorder.n_steps:
            self._note(f"the program ended at step {step} of {self.recorder.n_steps}")
        self.recorder.n_steps = step
        return self._end("finished")

    def _end(self, state: State) -> Result:
        self.recorder.write_status(state)
        return state  # type: ignore[return-value]

    def _say_what_is_missing(self) -> str:
        where = SEARCHED.format(self.primary)
        if self.patterns:
            where += f", and lines that match {' or '.join(map(quote, self.patterns))}"
        if others := sorted(self.reader.others):
            where += f"; it reported {', '.join(others[:MOST_OTHERS])}, which `program.metrics` can name"
        return f"the program ended with exit code 0, but it never reported {self.primary}: looked for {where}"
