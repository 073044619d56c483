"""Studies of all shapes: many arms, contexts, one arm, a diverged arm, long names and hostile names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from benchmarks.synthetic import SyntheticArm, write_study

BASE = "attention=standard,normalization=prenorm"
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=http://example.invalid/x onerror=document.title='owned'>"
)


def write_factorial(store: StudyFolder) -> None:
    """14 arms of 3 seeds: seven attentions with two normalizations."""
    write_study(store, list(_cross(7, 2)), noise=0.02, question="Do the gains of other attentions and of nGPT add up?")


def _cross(n_attentions: int, n_norms: int) -> Iterator[SyntheticArm]:
    attentions = ("standard", "differential", "differential_v2", "linear_ensemble", "selective", "gated", "forgetting")
    for i, attention in enumerate(attentions[:n_attentions]):
        for j, norm in enumerate(("prenorm", "ngpt")[:n_norms]):
            axes = {"attention": attention, "normalization": norm}
            name = f"attention={attention},normalization={norm}"
            speedup = 0.8 + 0.1 * i + 0.25 * j - 0.06 * i * j
            yield SyntheticArm(name, axes, BASE, speedup=speedup if i or j else 1.0, step_s=0.1 + 0.02 * i)


def write_contexts(store: StudyFolder) -> None:
    """6 arms in 3 contexts, each context with its own baseline."""
    arms = []
    for place, (length, kind) in enumerate(itertools.product((256, 1024, 4096), "abcdef")):
        within = {"context_length": length}
        speedup = 1.0 if kind == "a" else 0.9 + 0.05 * place
        arms.append(SyntheticArm(f"{kind}-{length}", {"kind": kind, **within}, f"a-{length}", within, speedup))
    write_study(store, arms, noise=0.01, question="Does the gain grow with the context?")


def write_alone(store: StudyFolder) -> None:
    write_study(store, [SyntheticArm("baseline", {"kind": "plain"})], question="How low does it get?")


def write_diverged(store: StudyFolder) -> None:
    """One of three arms diverges with every seed."""
    arms = [SyntheticArm("baseline", {"kind": "plain"})]
    arms += [SyntheticArm(f"kind={name}", {"kind": name}, speedup=1.4) for name in ("good", "wild")]
    study = write_study(store, arms, noise=0.01)
    for run in study.runs:
        if run.arm == "kind=wild":
            folder = store.run(run.run_id)
            records = [json.loads(line) for line in folder.curve.read_text().splitlines()[:20]]
            for record in records[-4:]:
                record["val_loss"] = 6e4
            folder.curve.write_text("".join(json.dumps(record) + "\n" for record in records))
            folder.write_status(Status("diverged", 200, 400))


def write_long_names(store: StudyFolder) -> None:
    """Names of 40 letters that differ at their ends."""
    names = ["gpt2-small-rotary-swiglu-learning-rate-" + end for end in "abcd"]
    assert {len(name) for name in names} == {40}
    arms = [SyntheticArm(name, {"recipe": name}, names[0], speedup=1 + i / 5) for i, name in enumerate(names)]
    write_study(store, arms, noise=0.02, question="Which recipe is best?")


def write_hostile(store: StudyFolder) -> None:
    """An arm whose name is a script."""
    levels = ("standard", HOSTILE)
    arms = [
        SyntheticArm(
            BASE if (i, j) == (0, 0) else f"{attention},{norm}",
            {"attention": attention, "normalization": norm},
            BASE,
            speedup=(1 + i) * (1 + j / 2) - 0.9 * i,
            step_s=0.1 + 0.05 * i,
            n_params=1_000_000 + 50_000 * i,
        )
        for (i, attention), (j, norm) in itertools.product(enumerate(levels), enumerate(("prenorm", "ngpt")))
    ]
    write_study(store, arms, noise=0.01, question=f"Is <b>it</b> faster? {HOSTILE}")


GALLERY: dict[str, Callable[[StudyFolder], None]] = {
    "factorial": write_factorial,
    "contexts": write_contexts,
    "alone": write_alone,
    "diverged": write_diverged,
    "long-names": write_long_names,
    "hostile": write_hostile,
}
