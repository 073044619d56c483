"""Write docs/terminal.svg: what two commands print in a terminal. `make pictures` calls it after the quickstart ran."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
COMMANDS = {  # with options that the picture does not show
    "ablate plan experiments/quickstart.yaml": "--runs {empty}",  # as before the first run
    "ablate report experiments/quickstart.yaml": "--no-attach",
}
WIDTH = 110  # columns of the terminal
FONT = re.compile(r"@font-face \{\{.*?\}\}", re.DOTALL)  # rich would load a font from another server


def draw(commands: Mapping[str, str]) -> str:
    """Run the commands, and draw them with what they print as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with TemporaryDirectory() as empty:
        for command, options in commands.items():
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            console.print(Text.from_ansi(run(f"{command} {options.format(empty=empty)}")))
    return console.export_svg(title="ablate", code_format=FONT.sub("", CONSOLE_SVG_FORMAT))


def run(command: str) -> str:
    """What a command prints in a terminal, with the paths of this machine relative to the checkout."""
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | terminal, capture_output=True, text=True, check=True)
    return done.stdout.replace(f"{ROOT}{os.sep}", "")


if __name__ == "__main__":
    (ROOT / "docs" / "terminal.svg").write_text(draw(COMMANDS))
