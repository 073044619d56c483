"""Several corpora, one after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ablate.data import check_length, check_vocabulary, describe, prepare
from ablate.data.phases import find_ends, phase_of
from ablate.errors import DataError
from ablate.study import DataConfig


def test_phases_share_the_steps_that_are_left() -> None:
    assert find_ends((None, None, None), 10) == (3, 6, 10)
    assert find_ends((None, 4, None), 10) == (3, 7, 10)
    assert find_ends((4, 6), 10) == (4, 10)
    assert [phase_of(step, (3, 7, 10)) for step in range(1, 12)] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("lengths", "legal"), [((4, 5), "9"), ((4, 7), "11"), ((10, None), "at least 11"), ((None,) * 11, "at least 11")]
)
def test_phases_that_do_not_fit_the_steps_are_refused(lengths: tuple[int | None, ...], legal: str) -> None:
    with pytest.raises(DataError, match=rf"data.sequence: .* do not fit 10 steps of training \(legal: {legal}\)"):
        find_ends(lengths, 10)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, text in (("a.txt", "ab" * 500), ("b.txt", "cd" * 700)):
        (tmp_path / name).write_text(text)
    return ["a.txt", "b.txt"]


def sequence(*phases: dict[str, object]) -> DataConfig:
    return DataConfig.model_validate({"sequence": list(phases)})


def test_a_sequence_holds_each_corpus_as_it_is_by_itself(files: list[str], tmp_path: Path) -> None:
    phases: list[dict[str, object]] = [{"source": "text", "path": name} for name in files]
    config = sequence(phases[0], {**phases[1], "steps": 3})
    corpus = prepare(config, tmp_path, tmp_path / "shards")
    assert corpus.info == describe(config, tmp_path)
    separate = [prepare(DataConfig.model_validate(phase), tmp_path, tmp_path / "shards") for phase in phases]
    assert corpus.parts == tuple(separate)
    assert corpus.info.n_train_tokens == sum(part.info.n_train_tokens for part in separate)
    assert np.array_equal(corpus.validation, separate[1].validation)
    hashes = [
        describe(sequence(*order), tmp_path).hash
        for order in (phases, phases[::-1], [phases[0], {**phases[1], "steps": 3}], [phases[0], phases[0]])
    ]
    assert len({*hashes, *(part.info.hash for part in separate)}) == 6
    check_length(corpus.info, 99)
    with pytest.raises(DataError, match="validation split has 100 tokens"):
        check_length(corpus.info, 100)
    with pytest.raises(DataError, match="contains the token 100"):
        check_vocabulary(corpus, 100)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sequence": [{}]}, "at least two corpora"),
        ({"sequence": [{}, {}], "source": "text", "path": "a.txt"}, "path: each entry of the sequence has its own"),
        ({"sequence": [{}, {"source": "text"}]}, "source text needs a path"),
        ({"sequence": [{}, {"source": "bin", "path": "x"}]}, "source bin cannot be in it"),
        ({"sequence": [{}, {"tokenizer": "gpt2"}]}, "extra_forbidden|Extra inputs"),
    ],
)
def test_a_sequence_that_cannot_be_read_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(data)
