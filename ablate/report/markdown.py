"""`report.md`: the report for a README or a pull request, with static figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ablate.report.chart import Chart
from ablate.report.document import Block, Code, Document, Facts, Folded, Text
from ablate.report.table import Table, shorten_table

MOST_ROWS = 100  # of a table that the page folds, because Markdown folds nothing
WHERE = "summary.json and the page have them all."

_MARKUP = re.compile(r"[\\`*_\[\]|~$]|^[#+-](?=[\s#])|^[=-](?=[=-]*$)")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def write_markdown(document: Document, pictures: Mapping[str, str], title: str = "") -> str:
    """Write the page. `pictures` maps names of charts to paths relative to the page; others are left out."""
    parts = [f"# {escape(title or document.heading)}"]
    if document.notice:
        parts.append(f"**{escape(document.notice)}**")
    if title and document.heading != title:
        parts.append(f"**{escape(document.heading)}**")
    parts += [escape(document.context), escape(" ".join(document.verdict))]
    if document.lead is not None:
        parts += _write_block(document.lead, pictures)
    if document.answer != document.verdict:
        parts += ["## In full", *map(escape, document.answer)]
    for section in document.sections:
        if texts := [text for block in section.blocks for text in _write_block(block, pictures)]:
            parts += [f"## {escape(section.title)}", *texts]
    return "\n\n".join(parts) + "\n"


def _write_block(block: Block, pictures: Mapping[str, str]) -> Iterator[str]:
    match block:
        case Text():
            yield escape(block.text)
        case Code():
            yield _write_code(block.text)
        case Facts():
            yield escape("; ".join(f"{name} {text}" for name, text in block.facts.items())) + "."
        case Table():
            yield write_table(block)
        case Chart():
            if block.name in pictures:
                yield f"![{escape(block.caption)}]({pictures[block.name]})"
        case Folded():
            for inner in block.blocks:
                short = shorten_table(inner, MOST_ROWS, WHERE) if isinstance(inner, Table) else inner
                yield from _write_block(short, pictures)


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
    return f"### {escape(table.caption)}\n\n" + "\n".join(body) + note


def _write_code(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
