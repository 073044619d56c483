"""Remarks about a plan: settings without an effect, arms that are the same, and odd data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ablate.data import CorpusInfo
from ablate.formatting import count, quote
from ablate.plan.axes import arm_name, display
from ablate.plan.expand import Expansion
from ablate.plan.setting_names import Names
from ablate.plan.setup import Resolved
from ablate.study.declaration import Study
from ablate.study.schema import TrainConfig
from ablate.study.settings import NAME, Settings, find_same, flatten
from ablate.study.yaml_source import KeyPath
from ablate_model import ModelConfig

UNEVEN = 3.0  # the plan mentions a validation split that misses its share by this factor


def explain_merged(expansion: Expansion, resolved: Sequence[Resolved], merged: Mapping[int, int]) -> Iterator[str]:
    """Explain which arms are the same, and why. `merged` maps the index of each dropped arm to that of its equal.

    Arms that are the same for the same reasons share a line.
    """
    alike: dict[object, list[tuple[str, str, tuple[str, ...]]]] = {}
    for left_out, kept in merged.items():
        arms = expansion.arms[left_out], expansion.arms[kept]
        texts = [{axis: level.text for axis, level in arm.items()} for arm in arms]
        levels = tuple((texts[0].get(axis), texts[1].get(axis)) for axis in expansion.axes)
        changed = tuple(pair for pair in levels if pair[0] != pair[1])
        why = tuple(_explain_difference(resolved[left_out], resolved[kept]))
        alike.setdefault(why or changed, []).append((arm_name(arms[0]), arm_name(arms[1]), why))
    for (dropped, name, why), *more in alike.values():
        also = f"; the same holds for {count(len(more), 'more arm')}" if more else ""
        reasons = "".join(f"; {reason}" for reason in why)
        yield f"the arm {dropped} is the same configuration as {name}, which stands for both{reasons}{also}"


def _explain_difference(one: Resolved, other: Resolved) -> Iterator[str]:
    """Explain why settings in which two arms differ have no effect."""
    idle = {**one.setup.explain_idle(), **other.setup.explain_idle()}
    values, others = dict(flatten(one.setup.to_dict())), dict(flatten(other.setup.to_dict()))
    for path, why in idle.items():
        parts = [key for key in values.keys() & others.keys() if key == path or key.startswith(f"{path}.")]
        if why and any(values[key] != others[key] for key in parts):
            yield f"{path} has no effect: {why}"


def find_beyond(train: TrainConfig) -> Iterator[str]:
    """Remarks about training settings that make no sense for the length of the runs."""
    steps = train.steps
    if train.eval_every >= steps:
        yield f"train.eval_every {train.eval_every}: a run of {count(steps, 'step')} has one evaluation, at its end"
    if train.log_every > steps and train.log_every != _default("log_every"):
        yield f"train.log_every {train.log_every} is more than the {count(steps, 'step')}: only evaluations are logged"
    if train.checkpoint_every > steps and train.checkpoint_every != _default("checkpoint_every"):
        yield (
            f"train.checkpoint_every {train.checkpoint_every} is more than the {count(steps, 'step')}: "
            "a run that is killed starts again"
        )
    if remark := train.schedule_variant.remark(steps, train.warmup_steps or 0):
        yield remark


def _default(setting: str) -> Any:
    return TrainConfig.model_fields[setting].default


def find_short_evaluation(train: TrainConfig, context_length: int, corpus: CorpusInfo) -> Iterator[str]:
    """A remark about evaluations that do not fit the corpus or a context."""
    n_targets = (min(part.n_validation_tokens for part in corpus.parts) - 1) // context_length * context_length
    if train.eval_tokens > n_targets:
        yield (
            f"train.eval_tokens {train.eval_tokens} is more than the validation split has: "
            f"an evaluation takes all of its {n_targets} tokens"
        )
    elif train.eval_tokens < context_length:
        yield f"train.eval_tokens {train.eval_tokens} is less than a context: an evaluation takes {context_length}"


def find_uneven_split(study: Study, corpus: CorpusInfo) -> Iterator[str]:
    """A remark where a split by whole files is far from the wanted share: there are few files, or very unequal ones."""
    data = study.data
    share = corpus.n_validation_tokens / (corpus.n_train_tokens + corpus.n_validation_tokens)
    is_near = data.validation_fraction / UNEVEN <= share <= data.validation_fraction * UNEVEN
    if data.source == "text" and not data.validation_path and not is_near:
        yield (
            f"validation holds out whole files, chosen by a hash of their content: {share:.1%} of the tokens, while "
            f"data.validation_fraction is {data.validation_fraction:.1%}; choose files with data.validation_path"
        )


def find_other_starts(pairs: Iterable[tuple[ModelConfig, ModelConfig]]) -> Iterator[str]:
    """A remark where an arm or its baseline, but not both, has a plain module of the user's with weights.

    Such a module draws its initial weights itself, as torch's layers do, and built-in parts start from smaller ones.
    In short studies this outweighs many a change. `pairs` has the model of each arm with that of its baseline.
    """
    from ablate_model.plain import PlainLayer

    distinct = {(id(model), id(base)): (model, base) for model, base in pairs}  # arms often share a model
    for model, base in distinct.values():
        for own, other in ((model, base), (base, model)):
            for axis in ("attention", "mlp"):
                variant, counterpart = getattr(own, axis), getattr(other, axis)
                if isinstance(variant, PlainLayer) and not isinstance(counterpart, PlainLayer):
                    yield (
                        f"{variant.name} draws its own initial weights, so a difference from {counterpart.name} may "
                        "come from them; to test one change, put it behind a knob and compare the module with itself"
                    )


def find_spare_vocabulary(study: Study, corpus: CorpusInfo, models: Iterable[ModelConfig]) -> Iterator[str]:
    """A remark where the vocabulary of GPT-2, the default for token files, is far too large for the corpus."""
    if corpus.largest_token is None or "vocab_size" in study.model:
        return
    needed = corpus.stated_vocab_size or corpus.largest_token + 1
    sizes = {model.vocab_size for model in models}
    if corpus.vocab_size in sizes and UNEVEN * needed <= corpus.vocab_size:
        known = (
            f"meta.pkl states {needed:,} tokens"
            if corpus.stated_vocab_size
            else f"the largest token of the corpus is {corpus.largest_token:,}"
        )
        yield (
            f"model.vocab_size is {corpus.vocab_size:,}, the padded vocabulary of GPT-2, but {known}: "
            f"set model.vocab_size, for example to {needed}"
        )


def find_overridden_values(study: Study, names: Names, expansion: Expansion) -> Iterator[str]:
    """Remarks about values of `model:` that a level of an axis overrides in every arm.

    There is no remark for a value that is a baseline's level, or for an axis that `--set` gave."""
    for axis in expansion.axes:
        place, value = _find_base_value(study, names.path(axis))
        if (
            value is not None
            and all(axis in arm for arm in expansion.arms)
            and not study.locate(("matrix", axis)).startswith("--set")
        ):
            levels = {
                display(level.label): level.name for level in (expansion.arms[i][axis] for i in expansion.baselines)
            }
            if find_same(value, levels.values()) is None:
                yield (
                    f"{study.locate(place)}: {display(value)} is overridden: every arm takes a level of the axis "
                    f"{quote(axis)}, the baseline {' or '.join(levels)}"
                )


def _find_base_value(study: Study, path: str) -> tuple[KeyPath, Any]:
    """The place and the value of a dotted path in `model:`; the value is None where it is not set.

    It is also None for the name of a component with knobs, which tells whose knobs they are."""
    settings, keys = Settings({"model": study.model}), tuple(path.split("."))
    component = settings.get(keys[:2]) if keys[2:] == (NAME,) else None
    if isinstance(component, str):
        return keys[:2], component
    has_knobs = isinstance(component, Mapping) and len(component) > 1
    return keys, None if has_knobs else settings.get(keys)
