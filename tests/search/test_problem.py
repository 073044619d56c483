"""Search files: what is refused with which message, and the space of each arm."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretended import ALPHA, RATE, Pose

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.search.optimizer import check_names
from ablate.search.pose import load_search, pose

LINEAR = {"low": 1e-4, "high": 1e-2}
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}
NGPT = {"normalization": "ngpt"}
ATTENTION = "model.attention.name"
MAPS = "model.attention.num_maps"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"train.learning_rat": LINEAR}}, ("space.train.learning_rat", "did you mean 'learning_rate'")),
        ({"space": {"learning_rate": LINEAR}}, ("did you mean 'train.learning_rate'",)),
        ({"space": {ALPHA.replace("alpha_attn", "alpha_atn"): LINEAR}}, ("did you mean 'alpha_attn.init'",)),
        ({"space": {RATE: {"low": 1e-2, "high": 1e-4}}}, (RATE, "low 0.01 is not below high 0.0001")),
        ({"space": {RATE: {"low": 0, "high": 1e-4, "log": True}}}, (RATE, "above zero")),
        ({"space": {RATE: {"low": 1e-4, "high": 1e-2, "logg": True}}}, ("did you mean 'log'",)),
        ({"space": {RATE: {"low": 1e-4}}}, ("low and high",)),
        ({"space": {RATE: {"low": 1e-4, "high": 1e-2, "choices": [1]}}}, ("choices take no low",)),
        ({"space": {RATE: [1e-3, 1e-3]}}, ("listed twice",)),
        ({"space": {}}, ("the space is empty",)),
        ({"space": {RATE: {"low": -1, "high": 1}}}, ("greater than 0", "-1")),
        ({"space": {"model.n_layers": {"low": 1, "high": 2.5}}}, ("whole number",)),
        ({"space": {RATE: {**LINEAR, "when": "normalization == 'prenorm'"}}, "arm": NGPT}, ("holds nowhere",)),
        ({"space": {RATE: {**LINEAR, "when": "nromalization == 'ngpt'"}}}, ("when", "did you mean 'normalization'")),
        ({"model": {**SIZES, "normalization": "prenorm"}}, (ALPHA, "no arm has such a knob")),
        ({"space": {ATTENTION: ["standard", "linear_ensemble"], MAPS: [2, 4]}}, ("write `when: attention == ",)),
        ({"arm": {"normalization": "ngptt"}}, ("arm.normalization", "did you mean 'ngpt'")),
        ({"arm": {"normalisation": "ngpt"}}, ("did you mean 'normalization'",)),
        ({"arm": [{"normalization": "ngpt"}, {"attention": "standard"}]}, ("same axes",)),
        ({"arm": [{"normalization": "ngpt"}, {"normalization": "ngpt"}]}, ("listed twice",)),
        ({"arm": {"normalization": "ngpt"}, "space": {"model.normalization.name": ["ngpt"]}}, ("same axis",)),
        ({"budget": {"step": 3}}, ("budget.step", "did you mean 'steps'")),
        ({"budget": {"steps": 3, "tokens": 3}}, ("the same thing",)),
        ({"trials": 0}, ("trials",)),
        ({"confirm": {"seeds": [0, 1]}}, ("no trial used",)),
        ({"objective": {"metric": "val_loss", "direction": "up"}}, ("minimize",)),
        ({"search": None, "study": "x"}, ("declares a study", "ablate run")),
        ({"search": "a/b"}, ("letters, digits",)),
        ({"confirm": {"seeds": "x"}}, ("confirm.seeds: must be a number of fresh seeds", "got 'x'")),
        ({"confirm": {"seeds": [7, 7]}}, ("confirm.seeds: must be",)),
        ({"confirm": {"seeds": [2**63]}}, ("confirm.seeds: must be",)),
        ({"confirm": {"seeds": 20261124}}, ("confirm.seeds", "one seed of that value, write [20261124]")),
        ({"objective": ["val_loss", "val_loss"]}, ("objective: one is listed twice",)),
        ({"space": {RATE: {"low": 0.1, "high": 1, "step": 0.4}}}, (RATE, "do not meet high 1: set high to 0.9")),
        ({"space": {"model.n_layers": {"low": 1, "high": 4, "step": 2}}}, ("do not meet high 4: set high to 3",)),
        ({"space": {RATE: {"low": 1e-4, "high": True}}}, (f"{RATE}.high", "True")),
        ({"space": {"train.warmup_steps": [None, 5]}}, ("a choice must be a word",)),
        ({"trials": True}, ("trials", "integer")),
        ({"seeds": [True, False]}, ("seeds.0", "integer")),
        ({"objective": {"metric": "val_loss", "target": True}}, ("target", "number")),
        ({"budget": {"steps": 3}, "space": {"train.steps": [2, 4]}}, ("budget.steps: the space varies train.steps",)),
        ({"budget": {"tokens": 3}, "space": {"train.steps": [2, 4]}}, ("budget.tokens: the space varies train.steps",)),
        ({"budget": {"tokens": 640}, "space": {"train.batch_size": [2, 4]}}, ("budget.tokens", "use `steps`")),
        ({"budget": {"tokens": 640}, "arm": {"context_length": 32}, "space": {RATE: LINEAR}},
         ("budget.tokens: a step of the arm context_length=32 has 128 tokens instead of 64", "use `steps`")),
        ({"budget": {"tokens": 640, "batch_size": 0}}, ("budget.batch_size", "greater than 0")),
        ({"budget": {"tokens": 640}, "model": {**SIZES, "context_length": "x"}},
         ("budget.tokens", "model.context_length is 'x'")),
        ({"train": {"steps": 12, "warmup_steps": 6}, "confirm": {"steps": 5}},
         ("confirm: the confirmation cannot be trained", "warmup_steps 6 leaves no step of 5")),
        ({"space": {"train.warmup_steps": [2, 6]}, "confirm": {"steps": 5}}, ("confirm", "warmup_steps 6")),
        ({"space": {"model.context_length": [16, 200_000]}}, ("space.model.context_length", "at most 99999")),
        ({"space": {"train.batch_size": [3, 4]}, "resources": {"cpus": 1, "processes": 2}},
         ("resources.processes", "cannot share a batch of 3")),
    ],
)  # fmt: skip
def test_a_wrong_search_is_refused_in_one_message(pose_search: Pose, changes, words) -> None:
    with pytest.raises(GridError) as refusal:
        pose_search(**changes)
    for word in ("search.yaml", *words):
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "TPESamplr"}, ("did you mean 'TPESampler'",)),
        ({"sampler": {"name": "TPESampler", "n_startup": 3}}, ("did you mean 'n_startup_trials'",)),
        ({"sampler": {"name": "TPESampler", "seed": "x"}}, ("whole number",)),
        ({"sampler": {"name": "TPESampler", "n_startup_trials": "x"}}, ("sampler: TPESampler: ", "'str'")),
        ({"sampler": {"name": "TPESampler", "gamma": "x"}}, ("sampler: TPESampler: ", "'str'")),
        ({"sampler": "BruteForceSampler", "space": {"model.n_layers": [1, 2]}}, ("BruteForceSampler", "GridSampler")),
        ({"pruner": {"name": "MedianPruner", "n_warmup_steps": "x"}}, ("pruner: MedianPruner: ", "'str'")),
        ({"pruner": {"name": "PatientPruner", "wrapped_pruner": "x", "patience": 2}}, ("pruner: PatientPruner: ",)),
        ({"pruner": "MedianPrune"}, ("did you mean 'MedianPruner'",)),
        ({"pruner": {"name": "ThresholdPruner"}}, ("ThresholdPruner",)),
        ({"pruner": "MedianPruner", "objective": ["val_loss", "train_loss"]}, ("a single objective",)),
    ],
)
def test_optuna_has_the_sampler_and_the_pruner(pose_search: Pose, changes, words) -> None:
    with pytest.raises(GridError) as refusal:
        check_names(pose_search(**changes))
    for word in words:
        assert word in str(refusal.value)


def test_an_error_of_optuna_without_words_is_named(pose_search: Pose, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("optuna.samplers.RandomSampler.after_trial", give_up)
    with pytest.raises(GridError, match=r"^sampler: RandomSampler: AssertionError$"):
        check_names(pose_search(sampler={"name": "RandomSampler"}))


def test_the_example_of_the_documentation_is_a_search(corpus_info: CorpusInfo, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "searching.md").read_text()
    file = tmp_path / "search.yaml"
    file.write_text(text.split("```yaml")[1].split("```")[0])
    problem = pose(load_search(file), corpus_info)
    check_names(problem)
    (arm,) = problem.arms
    assert all(arm.parameters[path].holds(value) for path, value in arm.defaults.items())


def test_the_defaults_are_the_papers(pose_search: Pose) -> None:
    (arm,) = pose_search().arms
    assert arm.label == "normalization=ngpt"  # the only arm that has the knob
    assert arm.defaults == {ALPHA: 0.05, RATE: 1e-3}


def test_an_arm_without_a_knob_searches_the_rest(pose_search: Pose) -> None:
    ngpt, gpt = pose_search(arm=[{"normalization": "ngpt"}, {"normalization": "prenorm"}]).arms
    assert list(ngpt.parameters) == [ALPHA, RATE]
    assert list(gpt.parameters) == [RATE]
    assert gpt.missing == (ALPHA,)


def test_a_range_takes_the_type_of_its_setting(pose_search: Pose) -> None:
    space = {"model.n_layers": {"low": 1, "high": 3}, "train.min_learning_rate": {"low": 0, "high": 1e-4}}
    (arm,) = pose_search(space=space).arms
    assert [parameter.type for parameter in arm.parameters.values()] == ["int", "float"]


def test_a_condition_opens_a_setting_where_it_holds(pose_search: Pose) -> None:
    only_there = {"choices": [2, 4], "when": "attention == 'linear_ensemble'"}
    (arm,) = pose_search(space={MAPS: only_there, "model.attention.name": ["standard", "linear_ensemble"]}).arms
    assert arm.is_conditional
    assert list(arm.parameters) == ["model.attention.name", MAPS]
    assert arm.resolve({"model.attention.name": "linear_ensemble", MAPS: 4}).model.attention.num_maps == 4

    class Scripted:
        def suggest_categorical(self, path, choices):
            asked.append(path)
            return choices[self.index]

    for index, expected in ((0, ["model.attention.name"]), (1, ["model.attention.name", MAPS])):
        asked: list[str] = []
        trial = Scripted()
        trial.index = index
        arm.suggest(trial)
        assert asked == expected


def test_the_budget_changes_the_trials_alone(pose_search: Pose) -> None:
    problem = pose_search(budget={"tokens": 320, "compile": True})
    assert problem.study.train.steps == 320 // (4 * 16)
    assert problem.study.train.compile
    assert problem.whole.train.steps == 12
    assert pose_search(budget=7).study.train.steps == 7
