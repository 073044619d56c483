"""The verb `init`: a commented study to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.options import AsJson
from ablate.errors import AblateError, suggest
from ablate.files import write_atomic
from ablate.starters import KINDS, read_starter

KINDS_HELP = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())


def init(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help=f"{KINDS_HELP}. Default: list the kinds.")] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Folder to write to. Default: KIND, in this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a small commented study to start from. It runs as it is, in under two minutes on 2 CPU cores."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.study import Starter, StarterKind

    if kind is None and as_json:
        print_output([StarterKind(kind=name, about=text) for name, text in KINDS.items()])
        return
    if kind is None:
        print("\n".join(f"ablate init {name:<16} {text}" for name, text in KINDS.items()))
        return
    if kind not in KINDS:
        raise AblateError(f"there is no starter {kind!r}{suggest(kind, KINDS)}")
    folder = folder or Path(kind)
    texts = read_starter(kind)
    if there := [name for name in texts if (folder / name).exists()]:
        raise AblateError(f"{folder}: {', '.join(there)} would be overwritten; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    (declared,) = (name for name in texts if name.endswith(".yaml"))
    verb = "search" if declared.startswith("search") else "run"
    check = "ablate check my_attention.py && " if kind == "attention" else ""
    following = f"cd {folder} && {check}ablate plan {declared} && ablate {verb} {declared}"
    files = tuple(str(folder / name) for name in texts)
    if as_json:
        print_output(Starter(kind=kind, files=files, next=following))
    else:
        print("\n".join((*files, "", f"Next: {following}")))
