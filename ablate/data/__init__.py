"""From corpora to memory-mapped token shards and batches, which are pure functions of (seed, step). No torch here."""

from ablate.data.batches import training_batch, validation_batches
from ablate.data.corpora import Corpus, CorpusInfo
from ablate.data.corpus import (
    CHECKED_TOKENS,
    SHARDS,
    check_length,
    check_vocabulary,
    describe,
    find_corpus,
    prepare,
)
from ablate.data.shards import Means, Observer
from ablate.data.tokenizers import Tokenizer, load_tokenizer

__all__ = [
    "CHECKED_TOKENS",
    "SHARDS",
    "Corpus",
    "CorpusInfo",
    "Means",
    "Observer",
    "Tokenizer",
    "check_length",
    "check_vocabulary",
    "describe",
    "find_corpus",
    "load_tokenizer",
    "prepare",
    "training_batch",
    "validation_batches",
]
