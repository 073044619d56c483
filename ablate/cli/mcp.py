"""The verb `mcp`: the verbs as tools for agents, over the Model Context Protocol.

Each tool runs one command with `--json` in a process of its own, and returns what it printed. So a tool can do nothing
that the command line cannot, and nothing that a command prints can get between the messages of the protocol.
"""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.cli.options import DEFAULT_RUNS, AsJson, Runs
from ablate.errors import AblateError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

LOGS = ".mcp"  # in the folder of all studies: what commands in the background print
MOST_WAIT_S = 600.0
ANSWER = ("study", "question", "is_complete", "verdict", "answer", "differences")  # keys of a summary
INSTRUCTIONS = (
    "Declare a study in a grid file, call plan to check it, run to train it, and verdict for the answer. run returns "
    "while training goes on; status tells how far it is. Add every finished study to a campaign, so that many tries "
    "keep one error rate. Paths are relative to the folder in which the server was started."
)


class CommandError(Exception):
    """A command failed before it had a result. The text is its message."""


@dataclass(frozen=True)
class Started:
    """A command in the background, and the files that get what it prints."""

    command: Sequence[str]
    at: str
    process: subprocess.Popen[bytes]
    out: Path
    log: Path

    def describe(self) -> dict[str, Any]:
        """The state of the command: its outcome once it has ended, or the message with which it failed."""
        code = self.process.poll()
        known = {"command": list(self.command), "at": self.at, "pid": self.process.pid, "log": str(self.log)}
        outcome, error = None, ""
        if code is not None:
            try:
                outcome = read_output(self.out.read_text(errors="replace"), self.log.read_text(errors="replace"))
            except CommandError as problem:
                error = str(problem)
        return {**known, "is_running": code is None, "exit_code": code, "outcome": outcome, "error": error}


@dataclass
class Tools:
    """The tools: each method runs a command in the folder `runs`. Raises `CommandError` if it has no result.

    `started` are the commands in the background.
    """

    runs: Path
    started: list[Started] = field(default_factory=list)

    def plan(self, grid: str, settings: list[str] | None = None) -> dict[str, Any]:
        """Check a grid and list its runs, without training. `settings` override its values: ["train.steps=100"]."""
        return {"runs": self._call("plan", grid, _repeat("--set", settings))}

    def run(
        self, grid: str, settings: list[str] | None = None, minutes: float | None = None, wait_s: float = 5.0
    ) -> dict[str, Any]:
        """Train what is missing of a grid, in the background. The same call again resumes it.

        Returns after `wait_s` seconds (at most 600), or when training ends. If it is still running, status tells how
        far it is; it goes on when this server ends. `minutes` starts no run that cannot finish in that time.
        """
        options = _repeat("--set", settings)
        self._call("plan", grid, options)  # a wrong grid is an error at once
        started = self._start("run", grid, [*options, *([] if minutes is None else ["--minutes", f"{minutes:g}"])])
        with suppress(subprocess.TimeoutExpired):
            started.process.wait(min(wait_s, MOST_WAIT_S))
        found = started.describe()
        if found["error"]:
            raise CommandError(found["error"])
        return found

    def status(self, study: str | None = None) -> dict[str, Any]:
        """Show the state of every run of a study, and of what this server started.

        `study` is a grid, a folder or a name.
        """
        started = [one.describe() for one in self.started]
        return {"started": started} if study is None else {"runs": self._call("status", study), "started": started}

    def stop(self, study: str) -> dict[str, Any]:
        """Ask a study that trains to save checkpoints and stop. run resumes it."""
        return dict(self._call("stop", study))

    def report(self, study: str, keys: list[str] | None = None) -> dict[str, Any]:
        """Write the report of a study, and return its summary. It can have a megabyte; `keys` chooses a part of it."""
        found = dict(self._call("report", study))
        if unknown := [key for key in keys or () if key not in found]:
            raise CommandError(f"keys: {unknown[0]!r} is not in the summary (legal: {', '.join(found)})")
        return found if keys is None else {key: found[key] for key in keys}

    def verdict(self, study: str) -> dict[str, Any]:
        """Say which arms of a study are better, worse, equivalent or undecided, and by how much, with intervals."""
        return self.report(study, list(ANSWER))

    def campaign(
        self,
        name: str,
        goal: str | None = None,
        add: str | None = None,
        again: bool = False,
        check: str | None = None,
        keep: int | None = None,
        drop: int | None = None,
        because: str | None = None,
    ) -> dict[str, Any]:
        """Remember every study that was tried for one goal, and keep the error rate of all tries together at 5 %.

        `goal` starts a campaign. `check` shows if arms of a grid were tested before. `add` tests a finished study as
        the next try, with `again` even if its arms were tested before. `keep` and `drop` decide on a try by its number,
        `because` of a reason. Returns everything that is known.
        """
        texts = {"--goal": goal, "--add": add, "--check": check, "--keep": keep, "--drop": drop, "--because": because}
        given = [word for option, value in texts.items() if value is not None for word in (option, str(value))]
        return dict(self._call("campaign", name, [*given, *(["--again"] if again else [])]))

    def _call(self, verb: str, subject: str, options: Sequence[str] = ()) -> Any:
        """Run a command to its end and return its JSON."""
        command = self._command(verb, subject, options)
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return read_output(ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))

    def _start(self, verb: str, subject: str, options: Sequence[str]) -> Started:
        """Start a command that goes on by itself, even after this server has ended."""
        folder = self.runs / LOGS
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        out, log = folder / f"{name}.json", folder / f"{name}.log"
        command = self._command(verb, subject, options)
        with out.open("xb") as stdout, log.open("xb") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
        at = datetime.now(UTC).isoformat(timespec="seconds")
        started = Started(("ablate", *command[3:]), at, process, out, log)
        self.started.append(started)
        return started

    def _command(self, verb: str, subject: str, options: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "ablate", verb, *options, "--runs", str(self.runs), "--json", "--", subject]


def read_output(out: str, err: str) -> Any:
    """The JSON that a command printed. Raises `CommandError`, with the command's own message, if it printed no JSON."""
    try:
        return json.loads(out)
    except ValueError:
        lines = err.strip().splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith("error: ")), max(len(lines) - 5, 0))
        message = "\n".join(lines[first:]).removeprefix("error: ")
        raise CommandError(message or "the command ended without a message") from None


def mcp(runs: Runs = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """Serve plan, run, status, stop, report, verdict and campaign to agents, over the Model Context Protocol on stdio.

    Start it in the folder of your grids. With --json, print the tools instead.
    """
    import asyncio

    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.machine import AgentTool

    server = make_server(runs)
    if not as_json:
        server.run("stdio")
        return
    found = asyncio.run(server.list_tools())
    print_output([AgentTool(name=t.name, description=t.description or "", arguments=t.input_schema) for t in found])


def make_server(runs: Path) -> MCPServer:
    """Build the server. Raises `AblateError` if the package is missing."""
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        raise AblateError("mcp: the package is missing: pip install 'ablate-studies[mcp]'") from None

    import ablate

    def report_errors(tool: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        @functools.wraps(tool)
        def call(*args: Any, **kwargs: Any) -> dict[str, Any]:
            try:
                return tool(*args, **kwargs)
            except CommandError as error:
                raise ToolError(str(error)) from None

        return call

    tools = Tools(runs)
    server = MCPServer("ablate", version=ablate.__version__, instructions=INSTRUCTIONS, log_level="ERROR")
    for tool in (tools.plan, tools.run, tools.status, tools.stop, tools.report, tools.verdict, tools.campaign):
        server.add_tool(report_errors(tool), description=inspect.getdoc(tool))
    return server


def _repeat(option: str, values: Sequence[str] | None) -> list[str]:
    return [word for value in values or () for word in (option, value)]
