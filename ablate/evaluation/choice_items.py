"""Items with several answers, from JSON Lines, in the words of EleutherAI's harness."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ablate.data.files import decompressed
from ablate.errors import DataError, suggest

ENDING, LETTERS = ".jsonl", "ABCDEFGHIJ"
LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Item:
    """Choice i is `continuations[i]` after `contexts[i]`; lengths are normalized by `choices[i]`.

    An item with one choice is right where the model would write it (greedy decoding).
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int


def make_item(context: str, choices: list[str], gold: int) -> Item:
    """The usual kind: one context, then a space and each choice."""
    return Item((context,) * len(choices), tuple(f" {choice}" for choice in choices), tuple(choices), gold)


def _read_query(line: Mapping[str, Any]) -> Item:
    return make_item(line["query"], line["choices"], line["gold"])


def _read_stem(line: Mapping[str, Any]) -> Item:
    return make_item(_strip_frame(line["query"]), line["choices"], line["gold"])


def _strip_frame(query: str) -> str:
    return query.removeprefix("Question: ").removesuffix("\nAnswer:")


def _read_letters(line: Mapping[str, Any]) -> Item:
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, line["choices"], strict=False))
    context = f"Question: {_strip_frame(line['query']).strip()}\n{listed}Answer:"
    return make_item(context, list(LETTERS[: len(line["choices"])]), line["gold"])


def _read_supported(line: Mapping[str, Any]) -> Item:
    return make_item(f"{line['support'].lstrip()}\nQuestion: {line['query']}\nAnswer:", line["choices"], line["gold"])


def _read_goal(line: Mapping[str, Any]) -> Item:
    return make_item(f"Question: {line['question']}\nAnswer:", line["choices"], line["gold"])


def _read_cause(line: Mapping[str, Any]) -> Item:
    context = line["query"]
    for connector in ("because", "therefore"):
        context = context.replace(f", {connector}", f" {connector}")
    # the harness puts two spaces before these choices, and counts one of them
    return make_item(context, [f" {choice[:1].lower()}{choice[1:]}" for choice in line["choices"]], line["gold"])


def _read_social(line: Mapping[str, Any]) -> Item:
    return make_item(f"Q: {line['context']} {line['question']}\nA:", line["choices"], line["gold"])


def _read_ending(line: Mapping[str, Any]) -> Item:
    return make_item(line["ctx"], line["choices"], line["gold"])


def _read_blank(line: Mapping[str, Any]) -> Item:
    before, _, after = line["sentence"].partition("_")
    return _make_partial([before + choice for choice in line["choices"]], after.strip(), line["gold"])


def _read_pronoun(line: Mapping[str, Any]) -> Item:
    return _make_partial(line["context_options"], f" {line['continuation']}", line["gold"])  # two spaces, as above


def _make_partial(contexts: list[str], continuation: str, gold: int) -> Item:
    """Partial evaluation: each choice is in the context, and the same text after it is scored."""
    n = len(contexts)
    return Item(tuple(contexts), (f" {continuation}",) * n, (continuation,) * n, gold)


def _read_last_word(line: Mapping[str, Any]) -> Item:
    return make_item(line["context"], [line["continuation"]], 0)


FORMATS: Mapping[str, Callable[[Mapping[str, Any]], Item]] = {
    "arc_easy": _read_query,
    "arc_challenge": _read_query,
    "boolq": _read_query,
    "copa": _read_cause,
    "csqa": _read_letters,
    "hellaswag": _read_ending,
    "lambada": _read_last_word,
    "openbookqa": _read_stem,
    "piqa": _read_goal,
    "sciq": _read_supported,
    "socialiqa": _read_social,
    "winogrande": _read_blank,
    "winograd_wsc": _read_pronoun,
}


def read_items(path: Path, wanted: tuple[str, ...], limit: int | None) -> Iterator[tuple[str, list[Item]]]:
    """Yield the tasks at `path` by name: a JSON Lines file, a folder of them, or a tar archive of them.

    A file's name tells how its items are put; other names have the keys query, choices and gold. Names that end in
    `_train` are left out unless `wanted` names them. Raises `DataError` with the file, the line and the key.
    """
    found = dict(_list_tasks(path))
    for name in wanted:
        if name not in found:
            raise DataError(f"{path}: there is no task {name!r}{suggest(name, found)}")
    chosen = wanted or tuple(name for name in found if not name.endswith("_train") or len(found) == 1)
    if not chosen:
        raise DataError(f"{path}: there is no file that ends in {ENDING}")
    for name in chosen:
        yield name, list(_parse(name, found[name](), f"{path}: {name}" if len(found) > 1 else str(path), limit))


def _list_tasks(path: Path) -> Iterator[tuple[str, Callable[[], Iterator[bytes]]]]:
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if ENDING in file.suffixes:
                yield _name(file.name), lambda file=file: _read_file(file)  # type: ignore[misc]
        return
    if not path.is_file():
        raise DataError(f"multiple_choice.path: {path}: there is no such file or folder")
    if ".tar" in path.suffixes:
        try:
            with tarfile.open(path) as archive:
                members = [m.name for m in archive.getmembers() if m.isfile() and m.name.endswith(ENDING)]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        for member in sorted(members):
            yield _name(PurePosixPath(member).name), lambda member=member: _read_member(path, member)  # type: ignore[misc]
        return
    yield _name(path.name), lambda: _read_file(path)


def _name(file: str) -> str:
    return file.partition(ENDING)[0]


def _read_file(path: Path) -> Iterator[bytes]:
    with decompressed(path) as (stream, _):
        while line := stream.readline(LONGEST_LINE):
            yield line


def _read_member(path: Path, member: str) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        file = archive.extractfile(member)
        assert file is not None  # a file, as listed
        while line := file.readline(LONGEST_LINE):
            yield line


def _parse(name: str, lines: Iterator[bytes], place: str, limit: int | None) -> Iterator[Item]:
    longest = max((known for known in FORMATS if name.startswith(known)), key=len, default="")
    read = FORMATS.get(longest, _read_query)
    for number, line in enumerate(lines, start=1):
        if limit is not None and number > limit:
            return
        if not line.strip():
            continue
        try:
            item = read(json.loads(line))
            if not 0 <= item.gold < len(item.choices):
                raise DataError(f"{place}: line {number}: gold: {item.gold} is not one of {len(item.choices)} choices")
            yield item
        except KeyError as error:
            raise DataError(f"{place}: line {number}: the key {error} is missing") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{place}: line {number}: not an item of several choices: {error}") from None
