"""What the verbs that keep studies print: `clean`, `pack` and `merge`."""

from __future__ import annotations

from ablate.cli.outputs.base import Output


class Removal(Output):
    """A file that is removed."""

    path: str
    """The file."""
    n_bytes: int
    """Its size."""
    reason: str
    """Why it goes."""


class Cleaned(Output):
    """What `clean` removed."""

    study: str
    """Name of the study."""
    dry_run: bool
    """Whether the files are still there."""
    n_bytes: int
    """Size of all of them."""
    removals: tuple[Removal, ...]
    """The files."""


class PackedStudy(Output):
    """The archive of a study."""

    study: str
    """Name of the study."""
    archive: str
    """Path of the archive."""
    n_runs: int
    """Runs in the archive."""


class MergedStudy(Output):
    """What `merge` added to a study."""

    study: str
    """Name of the study."""
    folder: str
    """Folder of the study."""
    n_added: int
    """Runs that were added."""
    n_present: int
    """Runs that were there already."""
