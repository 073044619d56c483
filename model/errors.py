"""The error that bad model configurations raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 100  # legal values in a message
LONGEST_WORD = 200  # characters; longer words are not compared with legal ones

# What other programs call these settings.
_ELSEWHERE = {
    "context_length": ("block_size", "seq_len", "sequence_length", "max_seq_len", "n_ctx", "n_positions", "context"),
    "d_ff": ("intermediate_size", "ffn_dim", "n_inner", "mlp_dim"),
    "d_model": ("n_embd", "hidden_size", "dim", "embed_dim"),
    "differential": ("diff", "diff_transformer"),
    "linear_ensemble": ("let", "ensemble"),
    "n_heads": ("n_head", "heads", "num_heads", "num_attention_heads"),
    "n_layers": ("n_layer", "layers", "num_layers", "num_hidden_layers", "depth"),
    "n_kv_heads": ("num_key_value_heads", "kv_heads"),
    "standard": ("softmax", "mha", "causal"),
}


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
    near = find_near(str(word), [str(item) for item in legal])
    return f"unknown {kind} {quote(str(word))}" + (f"; did you mean {near!r}?" if near else "")


def find_near(word: str, legal: Iterable[str]) -> str | None:
    """Find the legal word that was probably meant: by its name elsewhere, or by its spelling without regard to case."""
    if len(word) > LONGEST_WORD:
        return None
    plain = {name.lower().replace("-", "_"): name for name in legal}
    meant = word.lower().replace("-", "_")
    known = next((name for name, others in _ELSEWHERE.items() if meant in others and name in plain), None)
    near = [known] if known else difflib.get_close_matches(meant, plain, n=1)
    return plain[near[0]] if near else None
