"""Training in phases: each has data or labels of its own, and what was reached in each is a metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ablate.data import Corpus, CorpusInfo
from ablate.data.corpora import CorpusSequence, SequenceInfo
from ablate.data.phases import find_ends
from ablate.metrics import Metric, metrics_of_phases
from ablate.study.schema import TrainConfig
from ablate.tasks.images import Images
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import train
from ablate.training.phases import slope, summarize_phases
from ablate_model import ConfigError, ModelConfig, ViTConfig

VOCABULARY = 32


@pytest.fixture
def sequence(tmp_path: Path) -> CorpusSequence:
    """Three corpora, in each of which one token follows itself forever."""
    parts = []
    for token in (3, 7, 3):
        paths = tmp_path / f"train{len(parts)}.bin", tmp_path / f"validation{len(parts)}.bin"
        for path in paths:
            np.full(500, token, np.uint8).tofile(path)
        parts.append(Corpus(CorpusInfo(f"hash{token}", 500, 500, VOCABULARY), *paths, "|u1"))
    infos = tuple(part.info for part in parts)
    info = SequenceInfo("hash", 1500, 1500, VOCABULARY, phases=infos, lengths=(None, 4, None))
    last = parts[-1]
    return CorpusSequence(info, last.train_path, last.validation_path, last.dtype, tuple(parts))


def test_each_phase_trains_on_its_corpus_and_measures_it(
    sequence: CorpusSequence,
    model_config: ModelConfig,
    make_train_config: Callable[..., TrainConfig],
    new_recording: Callable[[], Any],
) -> None:
    settings = make_train_config(steps=11, eval_every=100, log_every=100, checkpoint_every=6)
    ends = find_ends(sequence.info.lengths, 11)  # type: ignore[attr-defined]
    assert ends == (3, 7, 11)

    def run(recording: Any, stop_after: int = 0) -> None:
        task = LanguageModelling(model_config, sequence, settings.eval_tokens, settings.steps)
        for step, token in ((1, 3), (3, 3), (4, 7), (7, 7), (8, 3), (11, 3)):
            assert (task.batch(5, step, 2)[0] == token).all()
            assert (next(task.validation_batches(5, step))[0] == token).all()
        stops = iter([False] * (stop_after - 1) + [True] * 20)
        train(task, settings, 5, recording, device="cpu", threads=1, should_stop=lambda: stop_after > 0 and next(stops))

    whole = new_recording()
    run(whole)
    assert [line["step"] for line in whole.lines] == [3, 7, 11]
    reached = [line["val_phase_loss"] for line in whole.lines]
    assert reached == [line["val_loss"] for line in whole.lines]
    assert not any("val_mean_phase_loss" in line for line in whole.lines[:2])
    assert whole.lines[2]["val_mean_phase_loss"] == pytest.approx(np.mean(reached))
    assert whole.lines[2]["val_phase_loss_trend"] == pytest.approx(np.polyfit([1, 2, 3], reached, 1)[0])

    cut = new_recording()
    run(cut, stop_after=5)
    assert cut.saved == [5]
    run(cut)
    assert cut.curve() == whole.curve()


def test_the_trend_is_the_slope_of_a_line() -> None:
    assert slope([1.0, 3.0, 5.0]) == 2
    assert slope([4.0]) == 0
    assert summarize_phases("loss", [1.0, 2.0], is_last=False) == {"val_phase_loss": 2.0}
    names = metrics_of_phases({"val_loss": "lower"}, "loss")
    assert [*names] == ["val_mean_phase_loss", "val_phase_loss_trend", "val_phase_loss", "val_loss"]
    assert [Metric(name, "lower").has_curve for name in names] == [False, False, True, True]


@pytest.fixture(scope="module")
def images() -> Any:
    task = Images(permute_labels_every=4)
    data = task.describe(Path())
    config = ViTConfig.parse({**data.settings, "d_model": 16, "n_layers": 1, "n_heads": 2, "patch_size": 4})
    return task.open(config, Path()), Images().open(config, Path())


def test_classes_get_other_labels_in_each_phase(images: Any) -> None:
    permuted, plain = images
    maps = []
    for step in (1, 4, 5, 8, 9):
        pairs = {*zip(plain.batch(0, step, 256)[1].tolist(), permuted.batch(0, step, 256)[1].tolist(), strict=True)}
        held_out = (next(task.validation_batches(0, step))[1].tolist() for task in (plain, permuted))
        assert pairs == {*zip(*held_out, strict=True)}
        maps.append(dict(sorted(pairs)))
        assert sorted(maps[-1].values()) == list(range(10))
    assert maps[0] == maps[1]
    assert maps[2] == maps[3]
    assert maps[0] != maps[2] != maps[4] != maps[0]
    assert (permuted.batch(1, 1, 64)[1] != permuted.batch(2, 1, 64)[1]).any()
    assert np.array_equal(permuted.batch(0, 9, 8)[0], plain.batch(0, 9, 8)[0])
    reached: list[float] = []
    assert permuted.summarize(4, {"val_accuracy": 0.5}, reached, is_last=False) == {"val_phase_accuracy": 0.5}
    assert permuted.summarize(6, {"val_accuracy": 0.1}, reached, is_last=False) == {}
    permuted.summarize(8, {"val_accuracy": 0.25}, reached, is_last=False)
    found = permuted.summarize(10, {"val_accuracy": 0.1}, reached, is_last=True)
    assert found["val_mean_phase_accuracy"] == 0.375
    assert found["val_phase_accuracy_trend"] == -0.25


def test_permuted_labels_change_the_metrics_and_need_two_phases(
    make_train_config: Callable[..., TrainConfig],
) -> None:
    assert next(iter(Images(permute_labels_every=4).metrics)) == "val_mean_phase_accuracy"
    by_trend = Images(permute_labels_every=4, metric="phase_accuracy_trend")
    assert next(iter(by_trend.metrics)) == "val_phase_accuracy_trend"
    assert by_trend.identity() == Images(permute_labels_every=4).identity()
    assert "permute_labels_every" not in Images().identity()
    with pytest.raises(ConfigError, match="12 steps hold fewer than two phases of 7 steps"):
        Images(permute_labels_every=7).check_training(make_train_config(steps=12))
    with pytest.raises(ValidationError, match="cannot compare arms without"):
        Images(metric="phase_accuracy_trend")
