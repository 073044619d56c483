"""A page independent of its format: verdict, picture, and sections of blocks. HTML and Markdown are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ablate.report.chart import Chart, Legend
from ablate.report.table import Table


@dataclass(frozen=True)
class Text:
    """A paragraph. A flag is a warning."""

    kind: ClassVar[str] = "text"
    text: str
    is_flag: bool = False


@dataclass(frozen=True)
class Code:
    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names with their values, such as versions."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that unfolds them."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: tuple[Block, ...]


Block = Text | Code | Facts | Table | Chart | Folded


@dataclass(frozen=True)
class Section:
    """`name` is the anchor. A section without blocks is left out."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class Document:
    """A page: verdict, picture, evidence, detail.

    `context` is one line about what was compared. `verdict` can be quoted. `answer` has the longer sentences, which
    the page folds. `notice` says that the study is not finished. `arms` has the names and looks of the arms, which the
    page can hide.
    """

    name: str
    context: str
    heading: str
    verdict: tuple[str, ...]
    answer: tuple[str, ...]
    sections: tuple[Section, ...]
    lead: Chart | None = None
    notice: str = ""
    arms: Mapping[str, Legend] = field(default_factory=dict)

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks in the order of the page, also the folded ones, and the picture first."""
        if self.lead is not None:
            yield self.lead
        for section in self.sections:
            yield from _unfold(section.blocks)

    @property
    def charts(self) -> dict[str, Chart]:
        return {block.name: block for block in self.blocks if isinstance(block, Chart)}

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Table))


def _unfold(blocks: tuple[Block, ...]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Folded):
            yield from _unfold(block.blocks)
        else:
            yield block
