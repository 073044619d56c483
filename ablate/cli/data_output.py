"""Prepare a corpus with a progress bar, and describe it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ablate.cli.outputs.study import PreparedCorpus
from ablate.cli.tables import print_plain
from ablate.data import SHARDS, Corpus, Means, prepare
from ablate.data.sources import load_source
from ablate.errors import DataError
from ablate.formatting import format_count
from ablate.study import DataConfig
from ablate.study.declaration import Declaration


def make_shards(
    declared: Declaration, runs: Path, console: Console, processes: int | None = None, max_memory: int | None = None
) -> Corpus:
    """The corpus of a grid or a search, with its token shards. If they are missing, shows the size, then progress.

    Raises `GridError` if the data cannot be used, and `ResourceError` if the disk or the memory is too small.
    """
    if declared.program is not None:
        raise declared.refuse(("program",), "a program reads its own data, so there is no corpus")
    if not declared.is_language_model:
        raise declared.refuse(("task",), "only language models read a corpus; the runs read the data of their task")
    with ShownProgress(console) as shown:
        try:
            return prepare(declared.data, declared.folder, runs / SHARDS, Means(processes, max_memory, shown))
        except DataError as error:
            raise declared.refuse_data(error) from None


class ShownProgress:
    """Shows the progress of `prepare` on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("tokenizing"),
            BarColumn(),
            TextColumn("{task.fields[done]} of {task.fields[size]}, {task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._n_done = 0

    def __enter__(self) -> ShownProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def wait(self, folder: Path) -> None:
        print_plain(self._console, f"waiting for another process that prepares this corpus in {folder}")

    def start(self, n_bytes: int, n_done: int, expected_bytes: int, free_bytes: int, processes: int) -> None:
        shards = f"; about {format_count(expected_bytes)}B of token shards" if expected_bytes else ""
        before = f"; {format_count(n_done)}B are already done" if n_done else ""
        print_plain(
            self._console,
            f"corpus: {format_count(n_bytes)}B{shards}, {format_count(free_bytes)}B free on the disk{before}; "
            f"{processes} process{'es' if processes > 1 else ''}",
        )
        self._task = self._progress.add_task("", total=max(n_bytes, 1), done="", size=f"{format_count(n_bytes)}B")
        self._progress.start()
        self.advance(n_done)

    def advance(self, n_bytes: int) -> None:
        if self._task is not None:
            self._n_done += n_bytes
            self._progress.update(self._task, completed=self._n_done, done=f"{format_count(self._n_done)}B")


def summarize_corpus(corpus: Corpus, config: DataConfig) -> PreparedCorpus:
    """The facts about a corpus that is ready."""
    return PreparedCorpus(
        folder=str(corpus.train_path.parent),
        n_train_tokens=corpus.info.n_train_tokens,
        n_validation_tokens=corpus.info.n_validation_tokens,
        vocab_size=corpus.info.vocab_size,
        bits_per_token=8 * np.dtype(corpus.dtype).itemsize,
        held_out="validation_path" if config.validation_path else load_source(config.source).validation,
        data_hash=corpus.info.hash,
    )


def describe_corpus(corpus: Corpus, config: DataConfig) -> Iterator[str]:
    """Lines about a corpus that is ready."""
    facts = summarize_corpus(corpus, config)
    yield (
        f"{facts.folder}: {format_count(facts.n_train_tokens)} tokens for training and "
        f"{format_count(facts.n_validation_tokens)} for validation, {facts.bits_per_token} bits per token; the "
        f"vocabulary has {facts.vocab_size:,}"
    )
    yield f"held out for validation: {facts.held_out}"
    yield f"data hash {facts.data_hash}"
