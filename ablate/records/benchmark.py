"""A benchmark: the file that fixes what the entries of a leaderboard have in common, and its rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ablate.analysis.results import Results
from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.formatting import count, format_count
from ablate.metrics import LOSS
from ablate.plan import build_plan
from ablate.plan.identity import IMMATERIAL
from ablate.study.data_schema import DataConfig
from ablate.study.declaration import Study
from ablate.study.load import read_declaration, validate
from ablate.study.schema import StudyName, Texts
from ablate.study.settings import flatten
from ablate.study.tuning import Frozen
from ablate.tracking.study_record import ArmRecord

FORM = "a benchmark is a mapping that starts with `benchmark: NAME`"
FREE = frozenset({f"train.{key}" for key in IMMATERIAL} | {"train.log_every"})
"""Settings that every entry may choose, because they do not change what a run measures."""

VOCABULARY = 256  # of bytes; another tokenizer needs model.vocab_size in the file
LONG = 10**15  # tokens of the stand-in for the corpus, which is only needed to train


class BenchmarkData(DataConfig):
    """The data of a benchmark, and the hash that tells them from all others."""

    hash: str = Field(pattern="^[0-9a-f]{64}$", description="hash of the data, as reports show it")


class Limits(Frozen):
    """The most that one run of an entry may have. Without a limit, anything is legal."""

    tokens: int | None = Field(None, gt=0, strict=True, description="training tokens")
    flops: Annotated[float, Field(gt=0)] | None = Field(None, description="FLOPs of training")
    parameters: int | None = Field(None, gt=0, strict=True, description="parameters of the model")


class Benchmark(Frozen):
    """What the entries of a leaderboard have in common, and what they may change."""

    benchmark: StudyName = Field(description="name of the benchmark")
    question: str = Field("", description="what entries compete for, as a sentence")
    machine: str = Field("", description="what an entry needs: the machine, and the time")
    data: BenchmarkData = Field(description="the data section of a grid, and the hash of the data")
    metric: str = Field(LOSS.name, description="the metric by which entries are compared")
    target: float = Field(description="value of the metric to reach; boards rank the tokens, FLOPs and seconds to it")
    model: dict[str, Any] = Field(description="the model section of the grid of an entry that changes nothing")
    train: dict[str, Any] = Field(description="its train section")
    may_change: Texts = Field(description="dotted paths of the settings that an entry may change, with all below them")
    limits: Limits = Field(Limits(), description="the most that one run may have")
    seeds: int = Field(3, ge=2, strict=True, description="the fewest seeds of an entry")

    @property
    def name(self) -> str:
        return self.benchmark


@dataclass(frozen=True)
class Rules:
    """A benchmark with its settings in full: `settings` maps dotted paths to values."""

    benchmark: Benchmark
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Breach:
    """A rule that an arm breaks, and how."""

    rule: str
    message: str


def load_benchmark(path: Path) -> Rules:
    """Read a benchmark. Raises `GridError`, naming file and line, for one that cannot be used."""
    data, source = read_declaration(path, FORM)
    if "benchmark" not in data:
        raise GridError(f"{path}: {FORM}")
    declared = validate(Benchmark, data, source)
    sections = {key: data[key] for key in ("model", "train")}
    named = {"study": declared.name, "data": declared.data.model_dump(exclude={"hash", "sequence"}, exclude_unset=True)}
    matrix = {"train.steps": [declared.train.get("steps")]}
    study = validate(Study, {**named, **sections, "matrix": matrix}, source)
    study._source = source
    corpus = CorpusInfo(declared.data.hash, LONG, LONG, int(declared.model.get("vocab_size", VOCABULARY)))
    settings = list_settings(build_plan(study, corpus).arms[0].setup.config())
    known = {
        ".".join(parts[:end]) for path in settings for parts in [path.split(".")] for end in range(1, len(parts) + 1)
    }
    for index, name in enumerate(declared.may_change):
        if name not in known:
            place = source.locate(("may_change", index))
            raise GridError(f"{place}: {name!r} is no setting, such as model.attention or train.learning_rate")
    return Rules(declared, settings)


def list_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration by their dotted paths, as JSON has them. Lists are values."""
    return dict(flatten(json.loads(json.dumps(config))))


def find_breaches(rules: Rules, results: Results, arm: ArmRecord) -> Iterator[Breach]:
    """The rules that an arm of a report breaks."""
    declared, runs = rules.benchmark, results.runs_of(arm.arm)
    hashes = sorted({str(run.manifest.get("data_hash") or "") for run in runs})
    if hashes != [declared.data.hash]:
        shown = ", ".join(found[:12] or "not recorded" for found in hashes)
        yield Breach("data", f"the hash of its data is {shown}, not {declared.data.hash[:12]}")
    if results.metric.name != declared.metric:
        yield Breach("metric", f"it is compared by {results.metric.name}, not by {declared.metric}")
    yield from _check_settings(rules, [run.config for run in runs])
    yield from _check_limits(declared.limits, arm)
    whole = [run for run in runs if run.is_whole and run.has_ended]
    if len(whole) < len(runs):
        states = ", ".join(sorted({run.state for run in runs if run not in whole}))
        yield Breach("seeds", f"{len(runs) - len(whole)} of its {len(runs)} runs did not finish: {states}")
    elif len(whole) < declared.seeds:
        yield Breach("seeds", f"it has {count(len(whole), 'seed')}, and an entry needs {declared.seeds}")


def _check_settings(rules: Rules, configs: list[Mapping[str, Any]]) -> Iterator[Breach]:
    sections = [
        {key: config[key] for key in ("model", "train", "task", "program") if key in config} for config in configs
    ]
    if not all("model" in config and "train" in config and "program" not in config for config in sections):
        yield Breach("settings", "its settings are those of a program, or not recorded, so they cannot be compared")
        return
    told = set()
    for config in sections:
        own = list_settings(config)
        for path in dict.fromkeys((*rules.settings, *own)):
            if path in told or _may_change(rules.benchmark, path):
                continue
            if path not in own and not _is_set(rules.benchmark, path):
                continue  # an older version without this setting, which had its default
            if path not in rules.settings or own.get(path) != rules.settings[path]:
                told.add(path)
                there = json.dumps(rules.settings[path]) if path in rules.settings else "not set"
                yield Breach("settings", f"{path} is {json.dumps(own.get(path))}, not {there}, and may not be changed")


def _may_change(benchmark: Benchmark, path: str) -> bool:
    return path in FREE or any(path == name or path.startswith(f"{name}.") for name in benchmark.may_change)


def _is_set(benchmark: Benchmark, path: str) -> bool:
    section, _, rest = path.partition(".")
    return rest in list_settings(getattr(benchmark, section, {}))


def _check_limits(limits: Limits, arm: ArmRecord) -> Iterator[Breach]:
    flops = None if arm.flops_per_token is None or arm.n_tokens is None else arm.flops_per_token * arm.n_tokens
    for what, most, value in (
        ("training tokens", limits.tokens, arm.n_tokens),
        ("FLOPs", limits.flops, flops),
        ("parameters", limits.parameters, arm.n_params),
    ):
        rule = "size" if what == "parameters" else "budget"
        if most is not None and value is None:
            yield Breach(rule, f"its {what} are not recorded")
        elif most is not None and value is not None and value > most:
            yield Breach(rule, f"it has {format_count(value)} {what}, and at most {format_count(most)} are legal")
