"""The evaluations by name. Each is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping

EVALUATIONS: Mapping[str, str] = {}  # name: "module:Class"

DEFAULT = ("bits_per_byte", "recall", "in_context", "outliers", "conditioning")
