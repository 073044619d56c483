"""EleutherAI's harness on a model of ablate, and our multiple choice against it, item by item."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.data import Tokenizer, load_tokenizer
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.choice_items import read_items
from ablate.evaluation.lm_eval_tasks import LmEval
from ablate.evaluation.multiple_choice import MultipleChoice, score_items
from ablate.study.data_schema import DataConfig
from ablate_model import GPT, ModelConfig, load_gpt2

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
SHARED = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here"),
    # the harness and what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.timeout(600),
]

N_ITEMS = 12
NATS = 1e-4
Line = dict[str, Any]


def strip(query: str) -> str:
    return query.removeprefix("Question: ").removesuffix("\nAnswer:")


def lettered(line: Line) -> Line:
    letters = "ABCDE"[: len(line["choices"])]
    return {
        "question": strip(line["query"]),
        "question_stem": strip(line["query"]),
        "choices": {"text": line["choices"], "label": list(letters)},
        "answerKey": letters[line["gold"]],
    }


def science(line: Line) -> Line:
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    return {"support": line["support"], "question": line["query"], **dict(zip(names, line["choices"], strict=True))}


def cause(line: Line) -> Line:
    question = "cause" if line["query"].endswith("because") else "effect"
    premise = line["query"].removesuffix(" because").removesuffix(" therefore").removesuffix(",") + "."
    choices = dict(zip(("choice1", "choice2"), line["choices"], strict=True))
    return {"premise": premise, "question": question, **choices, "label": line["gold"]}


def pronoun(line: Line) -> Line:
    first, second = line["context_options"]
    n = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    text = f"{first[:n]}them {line['continuation']}"
    return {
        "text": text,
        "pronoun": "them",
        "pronoun_loc": n,
        "options": [first[n:], second[n:]],
        "label": line["gold"],
    }


# task of the harness: (file, how its own data describes a line)
OWN_TASKS: Mapping[str, tuple[str, Callable[[Line], Line]]] = {
    "arc_easy": ("arc_easy_test", lettered),
    "arc_challenge": ("arc_challenge_test", lettered),
    "openbookqa": ("openbookqa_test", lettered),
    "commonsense_qa": ("csqa_val", lettered),
    "piqa": (
        "piqa_val",
        lambda line: {
            "goal": line["question"],
            "sol1": line["choices"][0],
            "sol2": line["choices"][1],
            "label": line["gold"],
        },
    ),
    "winogrande": (
        "winogrande_val",
        lambda line: {
            "sentence": line["sentence"],
            "option1": line["choices"][0],
            "option2": line["choices"][1],
            "answer": str(line["gold"] + 1),
        },
    ),
    "sciq": ("sciq_val1000", science),
    "social_iqa": (
        "socialiqa_val",
        lambda line: {
            "context": line["context"],
            "question": line["question"],
            **dict(zip(("answerA", "answerB", "answerC"), line["choices"], strict=True)),
            "label": str(line["gold"] + 1),
        },
    ),
    "copa": ("copa", cause),
    "wsc273": ("winograd_wsc", pronoun),
}
HELLASWAG = {  # its file has the text that the harness makes of the original fields
    "task": "hellaswag_local",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{ctx}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    config = DataConfig(source="text", path="x", tokenizer="gpt2", tokenizer_path=str(SHARED / "gpt2_bpe"))
    return load_tokenizer(config, Path())


@pytest.fixture(autouse=True)
def _stay_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def local_tasks(tmp_path: Path) -> Path:
    """A folder of the harness' own tasks on local files, and of the same items as our own code reads them."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    with tarfile.open(SHARED / "evals_mc.tar.bz2") as archive:
        archive.extractall(tmp_path, filter="data")
    for task, (file, describe) in OWN_TASKS.items():
        lines = [json.loads(line) for line in (tmp_path / "evals_mc" / f"{file}.jsonl").read_text().splitlines()]
        lines = [line for line in lines if task != "wsc273" or _differ(*line["context_options"])][:N_ITEMS]
        (tmp_path / f"{file}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        data = tmp_path / f"{task}.json"
        data.write_text("\n".join(json.dumps(describe(line)) for line in lines))
        (own,) = (path for path in folder.rglob("*.yaml") if f"\ntask: {task}\n" in f"\n{path.read_text()}")
        dataset = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(data)}}}
        splits = {"training_split": None, "validation_split": None, "test_split": "test", "task": f"{task}_local"}
        overrides = "".join(f"{key}: {json.dumps(value)}\n" for key, value in {**dataset, **splits}.items())
        (tmp_path / f"{task}.yaml").write_text(f"include: {own}\n{overrides}")
    ((_, items),) = read_items(SHARED / "hellaswag_val.jsonl.bz2", (), N_ITEMS)
    lines = [{"ctx": item.contexts[0], "choices": item.choices, "gold": item.gold} for item in items]
    for ending in ("json", "jsonl"):
        (tmp_path / f"hellaswag.{ending}").write_text("\n".join(map(json.dumps, lines)))
    dataset = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "hellaswag.json")}}}
    (tmp_path / "hellaswag.yaml").write_text(json.dumps({**HELLASWAG, **dataset}))
    return tmp_path


def _differ(first: str, second: str) -> bool:
    """Whether the options begin differently, so that a normalization of their first word sees it whole."""
    return any(a != b for a, b in zip(first, second, strict=False))


def small_model() -> GPT:
    settings = {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 50304, "context_length": 200}
    return GPT(ModelConfig(**settings, attention="differential"), seed=1).eval()


def test_our_multiple_choice_equals_the_harness_item_by_item(local_tasks: Path, tokenizer: Tokenizer) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from ablate.evaluation.harness import HarnessModel

    model = small_model()
    names = {**{task: file for task, (file, _) in OWN_TASKS.items()}, "hellaswag": "hellaswag"}
    manager = TaskManager(include_path=str(local_tasks))
    found = lm_eval.simple_evaluate(
        model=HarnessModel(model, tokenizer),
        tasks=[f"{task}_local" for task in names],
        task_manager=manager,
        bootstrap_iters=0,
    )
    subject = Subject(model, torch.device("cpu"), 200, tokenizer)
    for task, file in names.items():
        theirs = sorted(found["samples"][f"{task}_local"], key=lambda sample: sample["doc_id"])
        ((_, items),) = read_items(local_tasks / f"{file}.jsonl", (), None)
        ours = score_items(model, torch.device("cpu"), tokenizer, items, 200)
        assert len(ours) == len(theirs) == N_ITEMS
        for scores, sample in zip(ours, theirs, strict=True):
            assert scores is not None
            expected = [(answer[0][0], answer[0][1]) for answer in sample["resps"]]
            assert [score.log_likelihood for score in scores] == pytest.approx([a for a, _ in expected], abs=NATS), task
            assert [score.is_greedy for score in scores] == [bool(b) for _, b in expected]
        rows = MultipleChoice(path=str(local_tasks / f"{file}.jsonl")).evaluate(subject)
        own = {row.metric: row.value for row in rows}
        results = found["results"][f"{task}_local"]
        assert own["acc"] == pytest.approx(results["acc,none"])
        if "acc_norm,none" in results:
            assert own["acc_norm"] == pytest.approx(results["acc_norm,none"])


def test_the_evaluation_runs_tasks_of_the_harness_offline(local_tasks: Path, tokenizer: Tokenizer) -> None:
    model = small_model()
    evaluation = LmEval(tasks=("arc_easy_local",), include_path=str(local_tasks))
    rows = list(evaluation.evaluate(Subject(model, torch.device("cpu"), 200, tokenizer)))
    assert {row.metric for row in rows} == {"acc", "acc_norm"}
    assert all(row.n == N_ITEMS and row.chance == pytest.approx(0.25) and row.standard_error for row in rows)
    assert evaluation.describe()["harness"] != "none"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, GPT]]:
    """The harness' own model around a GPT-2 of random weights, and the same weights here."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from lm_eval.models.huggingface import HFLM

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, initializer_range=0.2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    words = transformers.GPT2Tokenizer(
        vocab=str(SHARED / "gpt2_bpe" / "encoder.json"), merges=str(SHARED / "gpt2_bpe" / "vocab.bpe")
    )
    yield HFLM(pretrained=theirs, tokenizer=words, device="cpu", batch_size=3), load_gpt2(folder)


LONG = "The quick brown fox jumps over the lazy dog. " * 12
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a city by the sea"),
    ("Trailing spaces  ", "belong to the continuation"),
    ("", "no context at all"),
    (LONG, " it rests"),
    ("Ünïcödé 漢字", " und mehr 漢"),
]


def test_gpt2_of_transformers_has_the_same_log_likelihoods(both: tuple[Any, GPT], tokenizer: Tokenizer) -> None:
    from lm_eval.api.instance import Instance

    from ablate.evaluation.harness import HarnessModel

    theirs, model = both
    ours = HarnessModel(model, tokenizer)

    def requests(kind: Any, arguments: list[Any]) -> list[Any]:
        return [Instance(kind, {}, pair, index) for index, pair in enumerate(arguments)]

    pairs = requests("loglikelihood", PAIRS)
    for own, their in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert own[0] == pytest.approx(their[0], abs=NATS)
        assert own[1] == their[1]
    texts = requests("loglikelihood_rolling", [(text,) for text in (LONG, "short", LONG + "x")])
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-3)
    settings = {"until": [" the", "\n"], "max_gen_toks": 20, "do_sample": False}
    prompts = requests("generate_until", [("Once upon a time", settings), ("Two", {**settings, "until": ["."]})])
    assert ours.generate_until(prompts) == theirs.generate_until(prompts)


def test_rows_name_the_task_and_the_chance() -> None:
    evaluation = LmEval(tasks=("x",))
    samples = [{"arguments": [1, 2]}, {"arguments": [1, 2, 3, 4]}]
    results = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 0.2, "brier_score,none": 0.3}
    assert list(evaluation._list_rows("x", results, samples)) == [
        Row("acc", 0.5, 2, {"task": "x"}, 0.1, 0.375),
        Row("f1", 0.2, 2, {"task": "x", "filter": "strict"}),
    ]
