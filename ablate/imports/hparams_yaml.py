"""Hyperparameters in the `hparams.yaml` that Lightning writes beside its logs. Python tags in it are never obeyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ablate.imports.log_files import Notes
from ablate.imports.table_files import flatten

_LARGEST = 1 << 20  # bytes


class _PlainLoader(yaml.SafeLoader):
    """Reads a value under an unknown tag as if it had no tag."""

    has_tags = False


def _read_plain(loader: _PlainLoader, node: yaml.Node) -> Any:
    loader.has_tags = True
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_PlainLoader.add_constructor(None, _read_plain)


def read_hparams(folder: Path, notes: Notes) -> dict[str, str]:
    """Read the hyperparameters of a run as text, by their dotted names. May be empty."""
    path = folder / "hparams.yaml"
    if not path.is_file():
        return {}
    if path.stat().st_size > _LARGEST:
        notes.add(path, "not read, because it is larger than 1 MB")
        return {}
    loader = _PlainLoader(path.read_bytes())
    try:
        tree = loader.get_single_data()
        leaves = flatten(tree) if isinstance(tree, dict) else {}
    except (yaml.YAMLError, RecursionError, ValueError, TypeError):
        notes.add(path, "not read, because it is not valid YAML")
        return {}
    finally:
        loader.dispose()
    if loader.has_tags:
        notes.add(path, "its Python tags were ignored")
    return {name: str(value) for name, value in leaves.items() if value is not None}
