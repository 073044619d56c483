"""`tables/*.tex`: each table of the report for a paper, in the style of booktabs."""

from __future__ import annotations

import re

from ablate.report.table import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\N{EN DASH}": "--",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{REPLACEMENT CHARACTER}": "?",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
}
_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))


def write_latex(table: Table) -> str:
    r"""Write a `tabular` for `\input` inside a `table`. It needs `\usepackage{booktabs}` and `[T1]{fontenc}`."""
    lines = [_write_row(row) for row in table.rows]
    return "\n".join(
        [
            f"% {' '.join(table.caption.split())}",
            r"\begin{tabular}{l" + "r" * (len(table.header) - 1) + "}",
            r"\toprule",
            _write_row(table.header),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX prints it literally, on one line."""
    return _PATTERN.sub(lambda match: _SPECIAL[match[0]], " ".join(text.split()))


def _write_row(cells: tuple[str, ...]) -> str:
    # A row that begins with a bracket would be read as the optional argument of the line break before it.
    return " & ".join(f"{{{text}}}" if text.startswith("[") else text for text in map(escape_latex, cells)) + r" \\"
