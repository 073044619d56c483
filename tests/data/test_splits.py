"""Which files are found, and to which split each belongs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.data import describe
from ablate.data.sources import split_files
from ablate.data.splits import choose_validation
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

keys = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=40, unique=True)
fractions = st.floats(0.01, 0.99)


def text(folder: Path, *paths: str, **more: object) -> DataConfig:
    return DataConfig(source="text", path=tuple(str(folder / path) for path in paths), **more)


def names(files) -> list[str]:
    return [file.path.name for file in files]


@given(keys=keys, fraction=fractions)
def test_both_splits_hold_something(keys, fraction):
    assert set(choose_validation(keys, fraction)) == {True, False}


@given(fraction=fractions, more=keys)
def test_a_larger_corpus_keeps_the_sides(fraction, more):
    few = [f"file {i}" for i in range(1000)]  # enough files that neither split is empty
    assert choose_validation(few + more, fraction)[:1000] == choose_validation(few, fraction)


@given(keys=keys, fraction=fractions, random=st.randoms())
def test_the_order_of_the_files_does_not_matter(keys, fraction, random):
    side = dict(zip(keys, choose_validation(keys, fraction), strict=True))
    shuffled = random.sample(keys, len(keys))
    assert choose_validation(shuffled, fraction) == [side[key] for key in shuffled]


def test_the_share_is_about_the_fraction():
    chosen = choose_validation([str(i) for i in range(4000)], 0.1)
    assert 0.08 < sum(chosen) / 4000 < 0.12  # four standard deviations of a binomial share


def test_equal_keys_cannot_be_parted():
    with pytest.raises(DataError, match="same content"):
        choose_validation(["a", "a"], 0.1)


def test_copies_of_a_text_stand_on_one_side(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(f"text {i % 4}")
    split = split_files(text(tmp_path, "*.txt", validation_fraction=0.4), tmp_path)
    assert not {f.digest for f in split.train} & {f.digest for f in split.validation}
    assert len(split.train) + len(split.validation) == 12


def test_files_are_sorted_and_none_stands_twice(tmp_path):
    for name in "bca":
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "v.md").write_text("v")
    split = split_files(text(tmp_path, "b.txt", "*.txt", validation_path=str(tmp_path / "v.md")), tmp_path)
    assert names(split.train) == ["b.txt", "a.txt", "c.txt"]
    assert names(split.validation) == ["v.md"]


def test_validation_files_are_left_out_of_training(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    split = split_files(text(tmp_path, "*.txt", validation_path=str(tmp_path / "b.txt")), tmp_path)
    assert names(split.train) == ["a.txt", "c.txt"]
    with pytest.raises(DataError, match="nothing is left to train on"):
        split_files(text(tmp_path, "*.txt", validation_path=str(tmp_path / "*.txt")), tmp_path)


def test_a_lone_file_gives_its_tail(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 100)
    split = split_files(text(tmp_path, "a.txt", validation_fraction=0.25), tmp_path)
    assert (names(split.train), split.validation, split.tail) == (["a.txt"], (), 0.25)


def test_relative_paths_count_from_the_working_directory_then_from_the_grid(tmp_path, monkeypatch):
    here, grid = tmp_path / "here", tmp_path / "grid"
    for folder in (here, grid):
        (folder / "sub").mkdir(parents=True)
        (folder / "both.txt").write_text(folder.name)
    (grid / "sub" / "only.txt").write_text("grid")
    monkeypatch.chdir(here)
    config = DataConfig(source="text", path=("both.txt", "sub/*.txt"), validation_path="sub/only.txt")
    assert [file.path for file in split_files(config, grid).train] == [here / "both.txt"]
    assert [file.path for file in split_files(config, grid).validation] == [grid / "sub" / "only.txt"]


def test_names_with_glob_signs_are_files_first(tmp_path):
    (tmp_path / "a[1].txt").write_text("a")
    assert names(split_files(text(tmp_path, "a[1].txt"), tmp_path).train) == ["a[1].txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.txt", r"data\.path: .*missing\.txt matches no file in .* name a text file, or a glob"),
        ("*.none", r"data\.path: .*\*\.none matches no file"),
        ("folder", r"data\.path: .*folder is a folder; name files, or a glob such as .*folder/\*\*/\*\.txt"),
        ("empty.txt", r"data\.path: .*empty\.txt is empty"),
    ],
)
def test_what_is_no_text_file_is_refused(tmp_path, path, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=message):
        split_files(text(tmp_path, path), tmp_path)


def test_the_standard_library_is_split_by_relative_path():
    split = split_files(DataConfig(), Path())
    files = [*split.train, *split.validation]
    assert sum(file.path.stat().st_size for file in files) > 4_000_000
    assert {"os.py", "argparse.py"} <= set(names(files))
    parts = {part for file in files for part in file.path.parts}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    assert not any(name.startswith("_sysconfigdata") for name in names(files))
    assert 0.05 < len(split.validation) / len(files) < 0.15


def test_the_library_may_lie_anywhere(tmp_path, monkeypatch):
    found = []
    for folder in ("one", "two"):
        root = tmp_path / folder
        (root / "test").mkdir(parents=True)
        for i in range(20):
            (root / f"module_{i}.py").write_text(f"{folder} {i}")
        (root / "__init__.py").touch()
        (root / "test" / "test_it.py").write_text("assert True")
        monkeypatch.setattr("sysconfig.get_path", lambda _, root=root: str(root))
        found.append(split_files(DataConfig(), Path()))
    assert names(found[0].train) == names(found[1].train)
    assert names(found[0].validation) == names(found[1].validation)
    assert len(found[0].train) + len(found[0].validation) == 20


def test_a_library_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match="no source files"):
        split_files(DataConfig(), Path())


def test_links_to_the_same_file_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, away = tmp_path / "data", tmp_path / "away"
    (folder / "sub").mkdir(parents=True)
    away.mkdir()
    for path in (folder / "m.txt", folder / "sub" / "a.txt", folder / "z.txt", away / "linked.txt"):
        path.write_text(path.name)
    (folder / "again.txt").symlink_to(folder / "m.txt")
    os.link(folder / "z.txt", folder / "zz.txt")
    for i in range(3):  # each loop of links doubles the number of paths to a file
        (folder / f"circle{i}").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "away").symlink_to(away)
    monkeypatch.chdir(folder)
    for more in (("**/*.txt",), ("**/*.txt", "*.txt", "./m.txt", "sub/../z.txt", "**/**/a.txt")):
        split = split_files(DataConfig(source="text", path=more), tmp_path)
        files = [*split.train, *split.validation]
        assert sorted(file.path.read_text() for file in files) == ["a.txt", "linked.txt", "m.txt", "z.txt"]


def test_a_link_does_not_change_the_order(tmp_path: Path) -> None:
    for name in ("b.txt", "z.txt"):
        (tmp_path / name).write_text(name)
    config = text(tmp_path, "*.txt", "**/*.txt", validation_path=str(tmp_path / "v"))
    (tmp_path / "v").write_text("v")
    before = split_files(config, tmp_path)
    (tmp_path / "a").symlink_to(tmp_path)
    assert split_files(config, tmp_path) == before


def test_a_folder_name_behind_a_link_is_not_shortened(tmp_path: Path) -> None:
    """`link/..` is the parent of the link's target, not the folder that holds the link."""
    for folder in ("here", "there/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here" / "a.txt").write_text("here")
    (tmp_path / "there" / "a.txt").write_text("there")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "deep")
    (file,) = split_files(text(tmp_path, "here/link/../a.txt"), tmp_path).train
    assert file.path.read_text() == "there"


def test_a_glob_passes_over_empty_files(tmp_path: Path) -> None:
    for name in ("a.txt", "empty.txt", "z.txt"):
        (tmp_path / name).write_text(name.removeprefix("empty.txt"))
    (tmp_path / "v").write_text("v")
    split = split_files(text(tmp_path, "*.txt", validation_path=str(tmp_path / "v")), tmp_path)
    assert names(split.train) == ["a.txt", "z.txt"]
    with pytest.raises(DataError, match="matches only empty files"):
        split_files(text(tmp_path, "e*.txt"), tmp_path)


def test_devices_and_pipes_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match=rf"data\.path: {path} is a device or a pipe"):
            split_files(DataConfig(source="text", path=(str(path),)), tmp_path)
    for name in ("state.json", "dataset_dict.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: cannot be read: this is a FIFO, not a file"):
            describe(DataConfig(source="huggingface", path=(str(tmp_path),)), tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "a.txt").write_text("a")
    assert names(split_files(text(tmp_path, "*"), tmp_path).train) == ["a.txt"]
