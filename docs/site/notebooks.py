"""A hook of MkDocs: every notebook of docs/ becomes a page with its outputs, and is also copied to the site."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

COLOR = re.compile(r"\x1b\[[0-9;]*m")  # of text that a command printed
KINDS = ("image/svg+xml", "image/png", "text/html", "text/plain")  # of an output, the best first


def on_files(files: Files, config: Any) -> Files:
    """Add NAME.md for every NAME.ipynb."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(Path(file.abs_src_path or "").read_text())["cells"]
        page = "\n\n".join([*map(write_cell, cells), f"[This page as a notebook]({file.src_uri})", ""])
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=page))
    return files


def write_cell(cell: Mapping[str, Any]) -> str:
    """A cell as Markdown: its text, or its code followed by what it showed."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *write_outputs(cell["outputs"])])


def write_outputs(outputs: list[Mapping[str, Any]]) -> Iterator[str]:
    """Each output in its best kind. Pictures are embedded."""
    for output in outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        kind = next(kind for kind in KINDS if kind in data)
        text = COLOR.sub("", "".join(data[kind]))
        if kind == "image/svg+xml":
            text = base64.b64encode(text.encode()).decode()
        if kind.startswith("image/"):
            yield f'<img alt="output of the cell above" src="data:{kind};base64,{text.strip()}">'
        elif kind == "text/html":
            yield f"<div>\n{text}\n</div>"
        else:
            yield f"```text\n{text.rstrip()}\n```"
