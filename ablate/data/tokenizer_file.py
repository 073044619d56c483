"""A user's tokenizer: the `tokenizer.json` that Hugging Face's `tokenizers` reads and writes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ablate.data.gpt2_vocabulary import END_OF_TEXT
from ablate.data.tokenizers import WholeTextTokenizer
from ablate.errors import DataError
from ablate.files import open_regular

if TYPE_CHECKING:
    import tokenizers

ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]")
"""Names of the token that ends a text, in the order in which they are looked for. The file does not say which it is."""


class FileTokenizer(WholeTextTokenizer):
    """A `tokenizer.json`. Its truncation, padding and start tokens are switched off, because they do not suit a corpus.

    Special tokens that a text spells out, such as `</s>`, are encoded as text.
    Raises `DataError` if the package is missing, or if the file is not a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise DataError(f"data.tokenizer: {path} needs the package tokenizers: pip install tokenizers") from None
        try:
            with open_regular(path) as file:
                content = file.read()
            self._tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except OSError as error:
            raise DataError(f"data.tokenizer: {path}: cannot be read: {error.strerror}") from None
        except Exception as error:  # noqa: BLE001 - the package raises plain `Exception`
            raise DataError(f"data.tokenizer: {path}: this is not a valid tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise DataError(f"data.tokenizer: {path}: has no tokens; train it before you use it")
        self.path = path
        self.vocab_size = max(vocabulary.values()) + 1  # numbers may have gaps
        self.separator = next((vocabulary[name] for name in ENDS if name in vocabulary), None)
        self.identity = f"tokenizer.json:{hashlib.sha256(content).hexdigest()}:{self.separator}"

    def encode_part(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # noqa: BLE001 - for example, of words without an unknown token
            raise DataError(f"data.tokenizer: {self.path}: cannot encode a text: {error}") from None
        return ids

    def decode(self, tokens: npt.ArrayLike) -> str:
        text: str = self._tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)
        return text
