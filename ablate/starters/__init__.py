"""Starters: small studies that run as they are, one folder per kind, for `ablate init`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

KINDS: Mapping[str, str] = {
    "language-model": "compare variants that come with ablate",
    "attention": "compare your own attention, a torch module in a file",
    "program": "compare settings of your own training script",
    "search": "search for the best settings of a variant",
}


def read_starter(kind: str) -> Mapping[str, str]:
    """File name -> text of one of the `KINDS`."""
    folder = files(__name__) / kind
    texts = {item.name: item.read_text() for item in folder.iterdir() if item.name.endswith((".yaml", ".py"))}
    return dict(sorted(texts.items()))
