"""Multiple choice and question answering: what is scored, what is written, and fine-tuning from other weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ablate.data import describe, prepare
from ablate.data.tokenizers import ByteTokenizer
from ablate.errors import DataError, GridError
from ablate.evaluation.subject import find_tokenizer
from ablate.execution.jobs import record_study
from ablate.plan import build_plan
from ablate.plan.program_setup import NO_CORPUS
from ablate.study import load_study
from ablate.tasks.answer_scores import best_score, exact_match, f1, normalize
from ablate.tasks.multiple_choice import ChoiceTraining, MultipleChoice
from ablate.tasks.question_answering import AnswerTraining, QuestionAnswering
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import read_json
from ablate_model import GPT, ModelConfig, generate
from in_process import train_here

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LETTERS = "abcd"
SIZES: dict[str, Any] = {"d_model": 32, "n_layers": 1, "n_heads": 2}


def write_lines(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_questions(n: int) -> Iterator[dict[str, Any]]:
    """Questions in which the right choice repeats a letter of the question; some have two choices, others three."""
    draw = np.random.default_rng(0)
    for number in range(n):
        letters = draw.choice(list(LETTERS), 3 - number % 2, replace=False).tolist()
        gold = int(draw.integers(len(letters)))
        query = f"{letters[gold]}?\nAnswer:"
        yield {"id": number, "query": query, "choices": letters, "gold": gold}


def make_stories(n: int) -> list[dict[str, Any]]:
    """Stories whose answers are in their text."""
    names = ["Ann", "Bob", "Cy", "Di"]
    return [
        {
            "id": number,
            "story": f"{names[number % 4]} has {number + 2} cats.",
            "turns": [
                {"q": "Who?", "answers": [names[number % 4], f"the {names[number % 4]}"]},
                {"q": "How many?", "answers": [str(number + 2)]},
                {"q": "Of what?", "answers": ["cats", "Cats."]},
            ],
        }
        for number in range(n)
    ]


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_lines(tmp_path_factory.mktemp("items") / "choices.jsonl", [*make_questions(80)])


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_lines(tmp_path_factory.mktemp("items") / "stories.jsonl", make_stories(6))


def test_answers_are_compared_as_in_squad_and_coqa() -> None:
    assert normalize(" The  Cat's,\nhat. An apple") == "cats hat apple"
    assert exact_match("The cat.", "cat") == 1
    assert f1("a black cat", "the cat") == pytest.approx(2 / 3)
    assert f1("the", "") == 1
    assert f1("dog", "") == 0
    # Left out in turn: white -> max(0, 1); black -> max(1, 1); black -> max(1, 0).
    assert best_score(exact_match, "black", ["white", "black", "black"]) == 1
    assert best_score(exact_match, "white", ["white", "black", "black"]) == pytest.approx(2 / 3)
    assert best_score(exact_match, "white", ["white"]) == 1


def test_the_score_of_a_choice_is_its_log_likelihood(choices: str, tmp_path: Path) -> None:
    task = MultipleChoice(path=(choices,))
    data = task.describe(tmp_path)
    model = GPT(ModelConfig(**SIZES, **data.settings), seed=3).double()
    training = task.open(model.config, tmp_path)
    assert isinstance(training, ChoiceTraining)
    batch = [torch.from_numpy(array) for array in next(training.validation_batches(0, 1))]
    scores = training.score(model, *batch[:-1])
    tokenizer = ByteTokenizer()
    for question, row in zip(training.held_out, scores, strict=False):
        for choice, score in zip(question.choices, row, strict=False):
            ids = torch.from_numpy(choice.ids.astype(np.int64))
            logs = model(ids[None, :-1]).log_softmax(-1)[0].detach()
            n_context = len(tokenizer.decode(choice.ids).rsplit(":", 1)[0]) + 1
            expected = sum(float(logs[place, ids[place + 1]]) for place in range(n_context - 1, len(ids) - 1))
            assert score.item() == pytest.approx(expected, rel=1e-9)
        assert torch.isinf(row[len(question.choices) :]).all()
    measured = training.measure(model, *batch)
    assert measured[2] == len(batch[-1])
    assert training.conclude([1.0, 3.0, 4.0]) == {"val_accuracy": 0.75, "val_loss": 0.25}


def test_a_cut_keeps_the_choice_and_the_end_of_the_question(choices: str, tmp_path: Path) -> None:
    task = MultipleChoice(path=(choices,), max_tokens=10)
    data = task.describe(tmp_path)
    assert "shortened to 10" in data.notices[0]
    training = task.open(ModelConfig(**SIZES, **data.settings), tmp_path)
    ids, places, targets, *_ = training.batch(0, 1, 4)
    texts = [ByteTokenizer().decode(row).rstrip("\0") for row in ids[0]]
    assert all(text.startswith("Answer: ") or text.endswith(tuple(LETTERS)) for text in texts if text)
    assert ids.shape[2] == 10
    assert (targets[:, :, 0] == np.take_along_axis(ids, places[:, :, :1] + 1, 2)[:, :, 0])[places[:, :, 0] > 0].all()
    with pytest.raises(DataError, match="cannot hold the longest answer"):
        MultipleChoice(path=(write_lines(tmp_path / "long.jsonl", [
            {"query": f"{n}", "choices": ["x" * 20, "y"], "gold": 0} for n in range(30)
        ]),), max_tokens=10).describe(tmp_path)  # fmt: skip


def test_each_turn_is_learned_once_and_a_prompt_has_what_came_before(stories: str, tmp_path: Path) -> None:
    task = QuestionAnswering(path=(stories,), max_tokens=64, max_answer_tokens=6)
    whole = task.encode(tmp_path)
    assert {len(story.turns) for story in whole.train} == {3}
    rows = whole.pack(64)
    decode = ByteTokenizer().decode
    learned = "".join(decode(row.ids[row.is_scored]) for row in rows)
    assert learned == "".join(decode(turn.answer) for story in whole.train for turn in story.turns)
    assert len(rows) > len(whole.train)
    assert all(len(row.ids) <= 64 and "has" in decode(row.ids) for row in rows)
    prompt = decode(whole.train[0].prompt(2, 200, 6))
    assert prompt.endswith("Q: Of what?\nA:")
    assert "Q: Who?\nA: " in prompt
    assert len(whole.train[0].prompt(2, 64, 6)) <= 58


def test_what_is_written_is_what_greedy_sampling_writes(stories: str, tmp_path: Path) -> None:
    task = QuestionAnswering(path=(stories,), max_answer_tokens=5)
    data = task.describe(tmp_path)
    model = GPT(ModelConfig(**SIZES, **data.settings), seed=1).eval()
    training = task.open(model.config, tmp_path)
    assert isinstance(training, AnswerTraining)
    ids, _, _, lengths, _ = (torch.from_numpy(array) for array in next(training.validation_batches(0, 1)))
    written = training.write(model, ids, lengths)
    from ablate_model import Sampling

    for row, length, found in zip(ids, lengths.tolist(), written, strict=True):
        text = generate(model, row[None, :length], 5, sampling=Sampling(temperature=0.0), stop=training.stops)
        expected = text[0, length:].tolist()
        cut = next((place for place, token in enumerate(expected) if token in training.stops), len(expected))
        assert found == expected[:cut]


def train_steps(model: GPT, training: Any, n_steps: int, rate: float) -> dict[str, float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(1, n_steps + 1):
        batch = [torch.from_numpy(array) for array in training.batch(0, step, 8)]
        optimizer.zero_grad()
        training.loss(model, *batch).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        batches = training.validation_batches(0, n_steps)
        parts = [training.measure(model, *map(torch.from_numpy, batch)) for batch in batches]
    return training.conclude(torch.stack(parts).sum(0).tolist())


def test_both_tasks_are_learned(choices: str, stories: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task: Any = MultipleChoice(path=(choices,), validation_path=(choices,))
    model = GPT(ModelConfig(**SIZES, **task.describe(tmp_path).settings))
    assert train_steps(model, task.open(model.config, tmp_path), 60, 1e-2)["val_accuracy"] > 0.9
    task = QuestionAnswering(path=(stories,), validation_path=(stories,), max_answer_tokens=6)
    model = GPT(ModelConfig(**SIZES, **task.describe(tmp_path).settings))
    found = train_steps(model, task.open(model.config, tmp_path), 60, 5e-3)
    assert found["val_f1"] >= found["val_exact_match"] > 0.7


def test_the_experiment_starts_each_arm_from_its_own_weights(choices: str, corpus_file: Path, tmp_path: Path) -> None:
    tiny = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.d_ff=32", "model.context_length=32"]
    tiny += ["train.steps=2", "train.batch_size=2", "train.eval_every=2", "train.precision=float32", "resources.gpus=0"]
    tiny += ["train.cuda_graph=false", "seeds=1", "matrix.attention=[standard]"]
    text = ["data.validation_path=[]", f"data.path={corpus_file}", "train.compile=false", "train.eval_tokens=64"]
    parent = load_study(EXPERIMENTS / "wiki-33m.yaml", [*tiny, *text])
    plan = build_plan(parent, describe(parent.data, tmp_path))
    store = StudyFolder(tmp_path / "wiki-33m")
    store.write_study(record_study(plan, "0", ""))
    train_here(plan, plan.runs, store, prepare(parent.data, tmp_path, tmp_path / "shards"))
    files = [f"task.path={choices}", f"task.validation_path={choices}", "task.max_tokens=16", "task.eval_items=8"]
    study = load_study(EXPERIMENTS / "finetune-csqa.yaml", [*tiny, *files]).among(tmp_path)
    tuned = build_plan(study, NO_CORPUS)
    assert [run.parent.identity for run in tuned.runs if run.parent] == [run.run_id for run in plan.runs]
    assert [arm.setup.n_tokens for arm in tuned.arms] == [2 * 2 * 3 * 12] * 2
    folder = StudyFolder(tmp_path / "finetune-csqa")
    train_here(tuned, tuned.runs, folder, None)
    for run in tuned.runs:
        line = read_curve(folder.run(run.run_id).curve)[-1]
        assert line["tokens"] == run.arm.n_tokens
        assert 0 <= line["val_accuracy"] <= 1
        assert read_json(folder.run(run.run_id).config)["task"]["tokenizer"] == "bytes"
    folder.write_study(record_study(tuned, "0", ""))
    tokenizer = find_tokenizer(folder, tmp_path)
    assert tokenizer is not None
    assert tokenizer.identity == "bytes"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere.jsonl"}, r"task.path: nowhere.jsonl matches no file"),
        ({}, r"task.path: the questions come from files"),
        ({"path": "choices.jsonl", "max_tokens": 8}, "task.max_tokens: .*cannot hold|is cut"),
        ({"path": "choices.jsonl", "tokenizer": "gpt5"}, r"task.tokenizer: .*gpt5"),
        ({"path": "choices.jsonl", "max_token": 8}, r"task.max_token: unknown key .*max_tokens"),
    ],
)
def test_bad_settings_are_refused_with_their_place(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "choices.jsonl", [
        {"query": f"{n}?", "choices": ["x" * 20, "y"], "gold": 0} for n in range(30)
    ])  # fmt: skip
    grid = {
        "study": "s",
        "task": {"name": "multiple_choice", **settings},
        "model": SIZES,
        "train": {"steps": 2},
        "matrix": {"normalization": ["prenorm", "ngpt"]},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(GridError, match=message):
        build_plan(load_study(tmp_path / "grid.yaml"), NO_CORPUS)
