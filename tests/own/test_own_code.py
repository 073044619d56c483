"""The user's files: what belongs to one, its version, and how it is loaded."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.tracking.code import hash_files as hash_tracked
from ablate.tracking.code import is_code_path, read_code, write_code
from ablate_model.own_code import LIBRARY, OwnCodeError, collect, hash_files
from ablate_model.own_modules import load, load_attribute

Write = Callable[[str, str], None]


def test_the_version_covers_every_file_that_is_imported_and_no_other(tmp_path: Path, write: Write) -> None:
    write("mine.py", "from helpers import f\nfrom .tools.deep import g\nimport json\nif False:\n    import late\n")
    write("helpers.py", "def f(): return 1\n")
    write("late.py", "")
    write("tools/__init__.py", "")
    write("tools/deep.py", "from ..helpers import f\ndef g(): return f() + 1\n")
    write("unused.py", "")
    code = collect(tmp_path, "mine.py")
    assert sorted(code.files) == ["helpers.py", "late.py", "mine.py", "tools/__init__.py", "tools/deep.py"]
    assert load(code).g() == 2
    write("unused.py", "x = 1\n")
    assert collect(tmp_path, "./mine.py").version == code.version
    write("tools/deep.py", "def g(): return 7\n")
    edited = collect(tmp_path, "mine.py")
    assert edited.version != code.version
    assert (load(edited).g(), load(code).g()) == (7, 2)  # both versions live in one process


def test_a_file_named_as_a_module_of_the_library_shadows_nothing(tmp_path: Path, write: Write) -> None:
    write("random.py", "def random(): return 'mine'\n")
    write("numpy.py", "ours = 1\n")
    write("mine.py", "import random\nfrom .random import random as own\nimport numpy\nimport pkg.sub\nx = numpy.ours\n")
    write("pkg/sub.py", "value = 3\n")
    before = list(sys.path)
    module = load(collect(tmp_path, "mine.py"))
    assert isinstance(module.random.random(), float)
    assert module.own() == "mine"
    assert module.x == 1  # a file beside the grid comes before an installed package, in the user's files only
    assert module.pkg.sub.value == 3
    assert sys.path == before
    assert sys.modules["random"] is random
    import numpy

    assert hasattr(numpy, "ndarray")
    assert "pkg" not in sys.modules


def test_an_error_shows_the_users_lines_and_none_of_ours(tmp_path: Path, write: Write) -> None:
    write("broken.py", "import helpers\n\nx = helpers.half(0)\n")
    write("helpers.py", "def half(n):\n    return 1 / n\n")
    with pytest.raises(OwnCodeError) as caught:
        load(collect(tmp_path, "broken.py"))
    lines = caught.value.message.splitlines()
    assert lines[0].endswith("broken.py:3, in <module>")
    assert lines[1:3] == ["    x = helpers.half(0)", lines[2]]
    assert lines[2].endswith("helpers.py:2, in half")
    assert lines[3:] == ["    return 1 / n", "ZeroDivisionError: division by zero"]
    write("broken.py", "def f(:\n")
    with pytest.raises(OwnCodeError, match=r"broken.py:1\n    def f\(:\nSyntaxError"):
        collect(tmp_path, "broken.py")
    with pytest.raises(OwnCodeError, match="there is no such file"):
        collect(tmp_path, "brokn.py")
    write("broken.py", "class Mine: pass\n")
    with pytest.raises(OwnCodeError, match="has no 'Mien'"):
        load_attribute(collect(tmp_path, "broken.py"), "Mien")


def test_a_study_keeps_code_under_its_hash_and_notices_a_change(tmp_path: Path, write: Write) -> None:
    write("mine.py", "from helpers import f\n")
    write("helpers.py", "f = 1\n")
    code = LIBRARY.find("mine.py")
    kept = write_code(tmp_path / "code", code.files)
    assert kept.name == code.version == hash_files(code.files) == hash_tracked(code.files)
    assert read_code(kept) == code.files
    LIBRARY.trust(tmp_path / "code")
    write("mine.py", "f = 2\n")
    assert LIBRARY.find("mine.py").version != code.version
    assert LIBRARY.find("mine.py", code.version).files == code.files
    (kept / "helpers.py").write_text("f = 'evil'\n")
    LIBRARY._known.clear()
    with pytest.raises(OwnCodeError, match="its files were changed"):
        LIBRARY.find("mine.py", code.version)


@pytest.mark.parametrize(
    ("path", "is_fine"),
    [
        ("code/0123456789abcdef/mine.py", True),
        ("code/0123456789abcdef/pkg/__init__.py", True),
        ("code/0123456789abcdef", False),
        ("code/0123456789abcdef/../x.py", False),
        ("code/git/x.py", False),
        ("other/0123456789abcdef/x.py", False),
        ("code/0123456789abcdef/.hidden", False),
    ],
)
def test_an_archive_can_place_code_only_below_its_version(path: str, is_fine: bool) -> None:
    from pathlib import PurePosixPath

    assert is_code_path(PurePosixPath(path)) is is_fine
