"""Exact match and F1 of an answer, as SQuAD (arXiv 1606.05250) and CoQA (arXiv 1808.07042) define them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """1 if both texts are equal once normalized, else 0."""
    return float(normalize(answer) == normalize(gold))


def f1(answer: str, gold: str) -> float:
    """The harmonic mean of precision and recall of words. If one text has no word, 1 if the other has none, else 0."""
    words, wanted = normalize(answer).split(), normalize(gold).split()
    if not words or not wanted:
        return float(words == wanted)
    n_common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * n_common / (len(words) + len(wanted))


def best_score(score: Callable[[str, str], float], answer: str, golds: Sequence[str]) -> float:
    """The score against several correct answers, as CoQA computes it.

    One correct answer at a time is left out, as if it were a human competitor, and the best score against the others
    is averaged. With one correct answer, it is the score against it.
    """
    if len(golds) == 1:
        return score(answer, golds[0])
    scores = [score(answer, gold) for gold in golds]
    return sum(max(scores[:left_out] + scores[left_out + 1 :]) for left_out in range(len(scores))) / len(scores)
