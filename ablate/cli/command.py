"""The command itself: its verbs, the check of every path, and how errors end it.

Verbs import what they need when they are called, so `--help`, `status` and `report` never load torch.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ablate.cli import (
    archive,
    campaign,
    check,
    data,
    evaluate,
    init,
    machine,
    mcp,
    power,
    records,
    report,
    results,
    search,
    study,
)
from ablate.cli.source_lines import point_at
from ablate.errors import AblateError, GridError
from ablate.execution.packages import check_packages
from ablate.formatting import quote

PLACES = frozenset({"ARCHIVE", "DIR", "FILE", "FOLDER", "GRID", "REPORT", "RUN", "SEARCH", "STUDY"})
LARGEST: Mapping[type, float] = {int: 2**63 - 1, float: 10**9}  # of an option; flags are not numbers
MAX_TEXT = 10_000  # characters of an option, which messages may repeat
FREE_TEXTS = frozenset({"--prompt"})
RARELY = 200_000  # new objects before the next search for garbage
MAX_NAME_BYTES = 255  # of one part of a path, on every file system in use


class Verbs(typer.core.TyperGroup):
    """The verbs, whose arguments are all checked in one place."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        for parameter in command.params if command is not None else ():
            parameter.callback = _check_value
        return command


def _check_value(_ctx: object, parameter: Any, value: Any) -> Any:
    """Return the value. Raises `AblateError` for a path that no file can have, and a number that none can need."""
    label = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
    most = LARGEST.get(type(value))
    if most is not None and not -most <= value <= most:
        raise AblateError(f"{label}: must be a number of at most {most:,}, got {value:g}")
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, str) and len(item) > MAX_TEXT and label not in FREE_TEXTS:
            raise AblateError(f"{label}: {quote(item)} is too long (legal: at most {MAX_TEXT:,} characters)")
        if not isinstance(item, Path) and (not isinstance(item, str) or parameter.metavar not in PLACES):
            continue
        text = str(item)
        if any(ord(character) < 32 for character in text):
            raise AblateError(f"{label}: {text!r} cannot name a file or folder: it holds a control character")
        longest = max(Path(text).parts, key=lambda part: len(os.fsencode(part)), default="")
        if len(os.fsencode(longest)) > MAX_NAME_BYTES:
            raise AblateError(f"{label}: {longest[:40]}... is too long: a name has at most {MAX_NAME_BYTES} bytes")
    return value


app = typer.Typer(
    cls=Verbs,
    help="Declare an ablation study, train it, and learn whether a change helps, by how much, and how certain it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS: Mapping[str, Sequence[Callable[..., None]]] = {  # by their heading in `ablate --help`
    "Train a study": (init.init, study.plan, study.run, study.stop, study.submit),
    "Look at results": (
        results.status,
        results.logs,
        report.report,
        power.power,
        evaluate.evaluate,
        results.generate,
        campaign.campaign,
    ),
    "Search for settings": (search.search,),
    "Check and compare published results": (records.verify, records.leaderboard),
    "Clean up and move results": (archive.clean, archive.pack, archive.merge),
    "Variants and this machine": (
        machine.variants,
        check.check,
        machine.schema,
        machine.doctor,
        machine.warm,
        machine.bench,
    ),
    "For agents": (mcp.mcp,),
}
for title, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=title)(verb)
corpus = typer.Typer(
    cls=Verbs, no_args_is_help=True, help="Prepare the corpus of a grid, and list the sources of data."
)
for verb in (data.prepare, data.sources):
    corpus.command()(verb)
app.add_typer(corpus, name="data", rich_help_panel="Train a study")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        import ablate

        print(f"ablate {ablate.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of the command itself."""


def main() -> None:
    """Run the command line. An `AblateError` becomes one message and its exit code, never a traceback."""
    collect_rarely()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # under LANG=C, a character that cannot be shown becomes "?"
    for word in sys.argv[1:]:
        if "\0" in word:  # typer would fail on it when it makes a path
            _fail(f"the argument {word!r} holds a NUL byte", 2)
    try:
        check_packages()
        try:
            app()
        finally:
            _flush()
    except AblateError as error:
        _fail(str(error), error.exit_code, error.column if isinstance(error, GridError) else None)
    except ValueError as error:
        from ablate_model import ConfigError

        if not isinstance(error, ConfigError):
            raise
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ablate", "ablate_model"):
            raise
        _fail(f"the package {package} is not installed: install ablate with its dependencies again", 2)
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), 2)


def collect_rarely() -> None:
    """Look for garbage less often, because plans and reports make many objects that all live until the end."""
    gc.set_threshold(RARELY)


def _flush() -> None:
    """Write out what was printed while a full disk behind `> FILE` can still be reported. A closed pipe is fine."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python tries again when it exits
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        raise


def _fail(message: str, exit_code: int, column: int | None = None) -> None:
    for line in message.splitlines():
        print(f"error: {line}", *point_at(line, column), sep="\n", file=sys.stderr)
    sys.exit(exit_code)
