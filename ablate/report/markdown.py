"""`report.md`: the report for a README or a pull request, with static figures."""

from __future__ import annotations

import re

from ablate.report.report import Report
from ablate.report.table import Table
from ablate.report.tables import tabulate

_MARKUP = re.compile(r"[\\`*_\[\]|~$]|^[#+-](?=[\s#])|^[=-](?=[=-]*$)")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def write_markdown(report: Report, pictures: dict[str, str]) -> str:
    """Write the page. `pictures` maps paths relative to the page to captions."""
    record = report.record
    parts = [f"# {escape(record.study)}"]
    if record.question:
        parts.append(f"**{escape(record.question)}**")
    parts.append(escape(" ".join(report.answer)))
    parts += [f"![{escape(caption)}]({path})" for path, caption in pictures.items()]
    parts += [write_table(table) for table in tabulate(report)]
    parts.append("## How to reproduce this study")
    if report.command:
        parts.append(_write_code(report.command))
    facts = [
        *([f"ablate {record.version}"] if record.version else []),
        *(f"{name} {version}" for name, version in report.versions.items() if name != "ablate"),
    ]
    facts += [f"data {name} {text}" for name, text in report.data_facts.items()]
    parts.append(escape("; ".join(facts)) + ".")
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Escape text so that Markdown shows it literally, on one line, also in the cell of a table."""
    line = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return re.sub("[<>&]", lambda match: _HTML[match[0]], line)


def write_table(table: Table) -> str:
    """Write a table with its caption above and its note below."""
    lines = [table.header, *table.rows]
    body = ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines]
    body.insert(1, "| --- " * len(table.header) + "|")
    note = "".join(f"\n\n{escape(line)}" for line in table.note.splitlines())
    return f"## {escape(table.caption)}\n\n" + "\n".join(body) + note


def _write_code(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
