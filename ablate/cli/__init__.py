"""The command `ablate`.

`command` runs it, `options` declares what several verbs share, and `inputs` finds what their arguments mean. The verbs
are in `study`, `data`, `results`, `search`, `archive` and `machine`; a module `*_output` prints what its verbs show.
"""

from ablate.cli.command import app, main

__all__ = ["app", "main"]
