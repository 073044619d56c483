"""Vega, Vega-Lite and their embedding as one script. The user's cache keeps it, because making it takes seconds."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ablate.files import make_folder, open_regular, write_atomic

_NO_CACHE = (OSError, RuntimeError)  # RuntimeError: the user has no home


@cache
def read_vega() -> str:
    """The script for the installed version of vl-convert.

    It is made again if its copy is damaged, and not kept if the cache cannot be written.
    """
    script = None
    with suppress(*_NO_CACHE):
        script = _read_checked(_name_copy())
    if script is None:
        script = _make_script()
        with suppress(*_NO_CACHE):
            make_folder(_name_copy().parent)
            write_atomic(_name_copy(), b"%d\n" % zlib.crc32(script) + script, durable=False)
    return script.decode()


def _name_copy() -> Path:
    """A file in the folder of `ablate_model.kernels.flash.cache_folder`, which would load torch."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ablate"
    return folder / f"vega-{version('vl-convert-python')}.js"


def _read_checked(path: Path) -> bytes | None:
    """The script of a file that starts with the script's checksum; None if it is damaged. Raises `OSError`."""
    with open_regular(path) as file:
        checksum, _, script = file.read().partition(b"\n")
    return script if checksum == b"%d" % zlib.crc32(script) else None


def _make_script() -> bytes:
    import vl_convert

    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub demands a snippet
    return script.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").encode()
