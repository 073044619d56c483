"""The error that bad model configurations raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 100  # legal values in a message
LONGEST_WORD = 200  # characters; longer words are not compared with legal ones


def quote(value: object, limit: int = 120) -> str:
    """Format a value for a message: its repr, without the middle if it is long."""
    text = repr(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 4 :]} ({len(text):,} characters)"


class ConfigError(ValueError):
    """A model configuration that cannot be built.

    `path` is the dotted place inside the `model` mapping ("attention.num_maps"; empty for the whole mapping),
    `message` says what is wrong, and `legal` lists the legal keys or values where possible.
    """

    def __init__(self, path: str, message: str, legal: Iterable[object] = ()) -> None:
        self.path = path
        self.message = message
        self.legal = tuple(legal)
        super().__init__(path, message, self.legal)

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        more = f", and {len(self.legal) - MOST_SHOWN:,} more" if len(self.legal) > MOST_SHOWN else ""
        choices = f" (legal: {', '.join(map(str, self.legal[:MOST_SHOWN]))}{more})" if self.legal else ""
        return f"{place}{self.message}{choices}"

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str, tuple[object, ...]]]:
        return type(self), (self.path, self.message, self.legal)

    def under(self, prefix: str) -> ConfigError:
        """Return the same error as seen from the mapping that has the key `prefix`."""
        return ConfigError(".".join(part for part in (prefix, self.path) if part), self.message, self.legal)


def describe_unknown(word: object, legal: Iterable[object], kind: str) -> str:
    """Say 'unknown <kind> "wrod"; did you mean "word"?', with the nearest legal spelling if there is one."""
    text = str(word)
    near = difflib.get_close_matches(text, [str(item) for item in legal], n=1) if len(text) <= LONGEST_WORD else []
    return f"unknown {kind} {quote(text)}" + (f"; did you mean {near[0]!r}?" if near else "")
