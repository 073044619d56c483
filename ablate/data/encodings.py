"""The encodings of `tiktoken` by their names, from files on this machine."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ablate.data.files import find_path
from ablate.data.gpt2_vocabulary import END_OF_TEXT, GPT2_FOLDER
from ablate.data.tokenizers import GPT2Tokenizer, Tokenizer, WholeTextTokenizer
from ablate.errors import DataError, suggest
from ablate.files import open_regular

LONGEST_SPACE = 10_000
"""Longer runs of white space are encoded in parts, because the encodings' regular expressions overflow their stack."""

_LONG_SPACE = re.compile(rf"(\s{{{LONGEST_SPACE}}})(?=\s)")
_lock = threading.Lock()


class EncodingTokenizer(WholeTextTokenizer):
    """An encoding of `tiktoken`: its pattern, its ranks, and its token `<|endoftext|>`, if it has one."""

    def __init__(self, name: str, pattern: str, ranks: Mapping[bytes, int], special: Mapping[str, int]) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=dict(special)
        )
        self._numbers = {*ranks.values(), *special.values()}
        self.vocab_size = max(self._numbers) + 1
        self.separator = special.get(END_OF_TEXT)
        digest = hashlib.sha256(f"{pattern}\n{self.separator}\n".encode())
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            digest.update(b"%d %b\n" % (rank, base64.b64encode(token)))
        self.identity = f"tiktoken:{digest.hexdigest()}:{self.vocab_size}"

    def encode_part(self, text: str) -> list[int]:
        parts = _LONG_SPACE.split(text)  # of a text without such a run, the text itself
        return [token for part in parts if part for token in self._encoding.encode_ordinary(part)]

    def decode(self, tokens: npt.ArrayLike) -> str:
        known = [token for token in np.asarray(tokens).tolist() if token in self._numbers]
        return self._encoding.decode(known, errors="replace")


def load_encoding(name: str, folder: str | None, base: Path) -> Tokenizer:
    """The encoding `name`, from files in `folder` or in tiktoken's cache.

    Raises `DataError` if there is no encoding of that name, or if a file is missing: nothing is downloaded.
    """
    try:
        import tiktoken.registry
    except ImportError:
        raise DataError(f"data.tokenizer: {name} needs the package tiktoken: pip install tiktoken") from None
    names = tiktoken.list_encoding_names()
    if name not in names:
        raise DataError(
            f"data.tokenizer: {name!r} is not a .json file, a local folder or a known name"
            f"{suggest(name, ('bytes', *names))}"
        )
    constructors: Mapping[str, Any] = tiktoken.registry.ENCODING_CONSTRUCTORS or {}
    with _local_files(name, find_path(folder, base) if folder is not None else None):
        made = constructors[name]()
    ranks, special = made["mergeable_ranks"], made["special_tokens"]
    if name == "gpt2":
        return GPT2Tokenizer(ranks)
    return EncodingTokenizer(name, made["pat_str"], ranks, special)


@contextmanager
def _local_files(name: str, folder: Path | None) -> Iterator[None]:
    """Let tiktoken read its files only from this machine. Its own reader would download what is missing."""
    import tiktoken.load

    def read(blobpath: str, expected_hash: str | None = None) -> bytes:
        return _read_local(name, folder, blobpath, expected_hash)

    with _lock:
        original = tiktoken.load.read_file_cached
        tiktoken.load.read_file_cached = read
        try:
            yield
        finally:
            tiktoken.load.read_file_cached = original


def _read_local(name: str, folder: Path | None, address: str, expected_hash: str | None) -> bytes:
    own_name = address.rpartition("/")[2]
    cache = _cache_folder()
    places = [cache / hashlib.sha1(address.encode()).hexdigest()] if cache is not None else []
    places = [*([folder / own_name] if folder is not None else []), *places]
    for place in places:
        try:
            with open_regular(place) as file:
                content = file.read()
        except OSError:
            continue
        if expected_hash is not None and hashlib.sha256(content).hexdigest() != expected_hash:
            raise DataError(f"data.tokenizer: {name}: {place} is not the file at {address}: download it again")
        return content
    wanted = GPT2_FOLDER if name == "gpt2" else f"a folder with {own_name}"
    also = f", or download the file to {places[-1]}" if cache is not None else ""
    raise DataError(
        f"data.tokenizer: {name} needs data.tokenizer_path: {wanted}, because tiktoken's cache does not have "
        f"{address} and nothing is downloaded; set it{also}"
    )


def _cache_folder() -> Path | None:
    """tiktoken's own choice of a folder. None if its cache is switched off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"
