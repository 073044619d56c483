"""The loop against a naive one, and against itself after interruptions, splits and errors."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from ablate.data import training_batch, validation_batches
from ablate.recipes.optimizers import OPTIMIZERS
from ablate.recipes.schedules import SCHEDULES
from ablate.training import loop
from ablate.training.language_model import LanguageModelling
from ablate.training.schedule import learning_rate
from ablate_model import GPT, ModelConfig
from ablate_model.attention_backend import report_attention

ROUNDING_64 = 1e-10
"""Relative, after a dozen float64 steps: other summation orders (1e-16 each), amplified by training."""

ROUNDING_32 = 1e-4
"""Relative, after a dozen float32 steps: fused operations round elsewhere (6e-8 each), amplified by training."""

ROUNDING_BF16 = 2e-2
"""Relative: bfloat16 keeps 8 bits, 4e-3 a rounding, a few of them in a row."""

VARIANTS = [("standard", "prenorm"), ("differential", "ngpt")]


def variant(base: ModelConfig, attention: str, normalization: str) -> ModelConfig:
    return ModelConfig.parse({**base.to_dict(), "attention": attention, "normalization": normalization, "d_ff": None})


def train_naively(config, train, seed, corpus):
    """The same training in naive code. Yields (mean loss, gradient norm, validation loss) per step."""
    model = GPT(config).double()
    model.initialize(seed)
    optimizer = torch.optim.AdamW(
        model.parameter_groups(train.weight_decay), betas=(train.beta1, train.beta2), eps=train.adam_eps, foreach=False
    )
    for step in range(1, train.steps + 1):
        batch = training_batch(corpus.train, seed, step, train.batch_size, config.context_length)
        loss = model.loss(*map(torch.from_numpy, batch))
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, train.grad_clip / (norm + 1e-6))  # the eps of torch's clipping
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, train)
        optimizer.step()
        model.post_step()
        with torch.no_grad():
            windows = validation_batches(corpus.validation, train.eval_tokens, 1, config.context_length)
            values = [model.loss(*map(torch.from_numpy, window)).item() for window in windows]
        yield loss.item(), norm, sum(values) / len(values)


@pytest.mark.parametrize("names", VARIANTS)
def test_the_loop_equals_a_naive_one(run, model_config, make_train_config, corpus, names):
    config = variant(model_config, *names)
    train = make_train_config(precision="float64", log_every=1, eval_every=1, steps=8, grad_clip=0.5)
    _, recording = run(config, train, seed=3)
    for line, (loss, norm, val_loss) in zip(recording.lines, train_naively(config, train, 3, corpus), strict=True):
        assert line["train_loss"] == pytest.approx(loss, rel=ROUNDING_64)
        assert line["grad_norm"] == pytest.approx(norm, rel=ROUNDING_64)
        assert line["val_loss"] == pytest.approx(val_loss, rel=ROUNDING_64)


@pytest.mark.parametrize("names", VARIANTS)
def test_golden_curves(run, model_config, make_train_config, names):
    """If these numbers change, so does every published curve. Find out why before writing new ones here."""
    _, recording = run(variant(model_config, *names), make_train_config(precision="float64", steps=6))
    losses = [value for line in recording.lines for key, value in line.items() if key in ("train_loss", "val_loss")]
    assert losses == pytest.approx(GOLDEN[names], rel=ROUNDING_64)


GOLDEN = {
    ("standard", "prenorm"): [
        3.419878129746497,
        3.206062322986223,
        3.1033798449168275,
        3.1211931382716185,
        3.089443863627803,
    ],
    ("differential", "ngpt"): [
        3.5155385532093764,
        3.4399151475894745,
        3.383228070441432,
        3.38766841370893,
        3.376844864654397,
    ],
}


def test_lines_stand_where_they_are_due(run, model_config, make_train_config):
    outcome, recording = run(model_config, make_train_config(steps=13))
    assert (outcome.state, outcome.step) == ("finished", 13)
    assert [line["step"] for line in recording.lines] == [3, 5, 6, 9, 10, 12, 13]
    assert [line["step"] for line in recording.lines if "val_loss" in line] == [5, 10, 13]
    assert sorted(set(recording.beats)) == list(range(1, 14))
    assert recording.beats.count(5) > 1  # a long evaluation sends heartbeats too
    assert outcome.wall_s == recording.lines[-1]["wall_s"] > 0
    assert outcome.peak_memory_bytes > 1_000_000


def test_a_line_counts_tokens_and_flops(run, model_config, make_train_config):
    _, recording = run(model_config, make_train_config())
    for line in recording.lines:
        assert line["tokens"] == line["step"] * 4 * 12
        assert line["flops"] == line["tokens"] * model_config.flops_per_token()
        assert line["learning_rate"] == learning_rate(line["step"], make_train_config())
    first, second = recording.lines[:2]
    speed = (second["tokens"] - first["tokens"]) / (second["wall_s"] - first["wall_s"])
    assert second["tokens_per_s"] == pytest.approx(speed)


def test_train_loss_is_the_mean_since_the_line_before(run, model_config, make_train_config):
    _, each = run(model_config, make_train_config(precision="float64", log_every=1))
    _, some = run(model_config, make_train_config(precision="float64", log_every=4, eval_every=100))
    losses = [line["train_loss"] for line in each.lines]
    means = [sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert [line["train_loss"] for line in some.lines] == pytest.approx(means, rel=ROUNDING_64)


def test_evaluations_carry_the_diagnostics(run, model_config, make_train_config):
    outcome, recording = run(variant(model_config, "differential", "ngpt"), make_train_config())
    names = set(outcome.model.diagnostics())
    assert names
    for line in recording.lines:
        assert names <= set(line) if "val_loss" in line else not names & set(line)
    last = recording.lines[-1]
    assert {name: last[name] for name in names} == outcome.model.diagnostics()


@pytest.mark.parametrize(
    ("names", "precision", "stop_at"),
    [*((names, "float32", step) for names in VARIANTS for step in (1, 4, 5)), (VARIANTS[1], "float64", 4)],
)
def test_a_resumed_run_equals_the_uninterrupted_one(run, model_config, make_train_config, names, precision, stop_at):
    config, train = variant(model_config, *names), make_train_config(precision=precision)
    whole, undisturbed = run(config, train)
    stops = iter([False] * (stop_at - 1) + [True])
    stopped, recording = run(config, train, should_stop=lambda: next(stops))
    assert (stopped.state, stopped.step, recording.saved) == ("stopped", stop_at, [stop_at])
    finished, _ = run(config, train, recording=recording)
    assert finished.state == "finished"
    assert recording.curve() == undisturbed.curve()
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), finished.model.parameters(), strict=True))
    assert finished.wall_s > stopped.wall_s


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    sorted({("adamw", schedule) for schedule in SCHEDULES} | {(optimizer, "linear") for optimizer in OPTIMIZERS}),
)
def test_every_optimizer_and_schedule_trains_and_resumes(run, model_config, make_train_config, optimizer, schedule):
    train = make_train_config(optimizer=optimizer, schedule=schedule, steps=16)
    _, undisturbed = run(model_config, train)
    stops = iter([False] * 6 + [True])
    _, recording = run(model_config, train, should_stop=lambda: next(stops))
    run(model_config, train, recording=recording)
    assert recording.curve() == undisturbed.curve()
    assert recording.lines[-1]["val_loss"] < recording.lines[0]["train_loss"] - 0.1


def test_what_the_forward_pass_draws_is_resumed_too(run, model_config, make_train_config, monkeypatch):
    whole = GPT.loss
    monkeypatch.setattr(GPT, "loss", lambda *arguments: whole(*arguments) * (0.9 + 0.2 * torch.rand(())))
    _, undisturbed = run(model_config, make_train_config())
    stops = iter([False] * 3 + [True])
    _, recording = run(model_config, make_train_config(), should_stop=lambda: next(stops))
    torch.rand(17)  # other random draws of the process must not matter
    run(model_config, make_train_config(), recording=recording)
    assert recording.curve() == undisturbed.curve()


OTHERS = {
    "muon_learning_rate": 0.5,
    "muon_momentum": 0.1,
    "muon_scale": "adamw_rms",
    "decay_fraction": 0.9,
    "logarithmic_rho": 9.0,
}


@pytest.mark.parametrize("choice", [{"optimizer": "muon"}, {"schedule": "wsd"}, {"schedule": "logarithmic"}])
def test_idle_settings_decide_nothing_and_the_others_do(run, model_config, make_train_config, choice):
    train = make_train_config(steps=6, **choice)
    idle = train.idle_settings()
    _, before = run(model_config, train)
    _, after = run(model_config, train.model_copy(update={name: OTHERS[name] for name in idle}))
    assert before.curve() == after.curve()
    assert set(OTHERS) - idle
    for name in set(OTHERS) - idle:
        _, other = run(model_config, train.model_copy(update={name: OTHERS[name]}))
        assert other.curve() != before.curve(), name


def test_a_crash_goes_on_from_the_last_checkpoint(run, new_recording, model_config, make_train_config):
    train = make_train_config(checkpoint_every=4)
    _, undisturbed = run(model_config, train)
    assert undisturbed.saved == [4, 8]  # none at the end, because the weights are saved anyway

    def crash():
        if len(recording.beats) == 7:
            raise RuntimeError("power cut")
        return False

    recording = new_recording()
    with pytest.raises(RuntimeError, match="power cut"):
        run(model_config, train, recording=recording, should_stop=crash)
    recording.lines = [line for line in recording.lines if line["step"] <= 4]  # as when the curve is cut back
    run(model_config, train, recording=recording)
    assert recording.curve() == undisturbed.curve()


@pytest.mark.parametrize("names", VARIANTS)
def test_accumulation_is_the_same_mathematics(run, model_config, make_train_config, names):
    config = variant(model_config, *names)
    _, whole = run(config, make_train_config(precision="float64"))
    for micro in (1, 2):
        _, split = run(config, make_train_config(precision="float64", micro_batch_size=micro))
        for one, other in zip(whole.curve(), split.curve(), strict=True):
            assert one == pytest.approx(other, rel=ROUNDING_64)


def test_the_micro_batch_does_not_reach_the_evaluation(run, model_config, make_train_config, monkeypatch):
    sizes = []

    def watch(tokens, n_tokens, batch_size, context_length):
        sizes.append(batch_size)
        return validation_batches(tokens, n_tokens, batch_size, context_length)

    monkeypatch.setattr("ablate.training.language_model.validation_batches", watch)
    for micro in (None, 1, 2):
        run(model_config, make_train_config(micro_batch_size=micro))
    assert len(set(sizes)) == 1


def test_validation_batches_are_made_once(run, model_config, make_train_config, monkeypatch):
    calls = []

    def watch(*arguments):
        calls.append(arguments)
        return validation_batches(*arguments)

    monkeypatch.setattr("ablate.training.language_model.validation_batches", watch)
    _, kept = run(model_config, make_train_config())
    assert len(calls) == 1
    monkeypatch.setattr("ablate.training.evaluation.KEPT_BYTES", 0)
    _, made_again = run(model_config, make_train_config())
    assert len(calls) == 1 + 3
    assert kept.curve() == made_again.curve()


def test_the_same_seed_repeats_and_another_differs(run, model_config, make_train_config):
    curves = [run(model_config, make_train_config(), seed=seed)[1].curve() for seed in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0][0]["train_loss"] != curves[2][0]["train_loss"]


def test_every_arm_of_a_seed_sees_the_same_batches(run, model_config, make_train_config, monkeypatch):
    seen = []

    def watch(*arguments):
        batch = training_batch(*arguments)
        seen[-1].append(batch[0].tolist())
        return batch

    monkeypatch.setattr("ablate.training.language_model.training_batch", watch)
    for names in VARIANTS:
        seen.append([])
        run(variant(model_config, *names), make_train_config(steps=3, micro_batch_size=2), seed=5)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3


@pytest.fixture
def _torch_may_warn():
    """torch triggers its own warnings while it compiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_torch_may_warn")
@pytest.mark.parametrize("names", VARIANTS)
def test_a_compiled_run_is_close_to_an_eager_one(run, model_config, make_train_config, names):
    config = variant(model_config, *names)
    _, eager = run(config, make_train_config())
    outcome, compiled = run(config, make_train_config(compile=True))
    assert compiled.lines[-1]["val_loss"] == pytest.approx(eager.lines[-1]["val_loss"], rel=ROUNDING_32)
    assert outcome.wall_s < 2.0  # s; compiling takes ten times as long and must not be included


@pytest.mark.parametrize("names", VARIANTS)
def test_the_loss_falls(run, model_config, make_train_config, names):
    _, recording = run(variant(model_config, *names), make_train_config(steps=60, eval_every=20))
    losses = [line["val_loss"] for line in recording.lines if "val_loss" in line]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3


def test_bfloat16_is_close_and_keeps_float32_masters(run, model_config, make_train_config):
    _, exact = run(model_config, make_train_config())
    outcome, rough = run(model_config, make_train_config(precision="bfloat16"))
    assert {p.dtype for p in outcome.model.parameters()} == {torch.float32}
    assert rough.lines[-1]["val_loss"] == pytest.approx(exact.lines[-1]["val_loss"], rel=ROUNDING_BF16)
    assert rough.lines[-1]["val_loss"] != exact.lines[-1]["val_loss"]


def test_clipping_can_be_switched_off(run, model_config, make_train_config):
    train = make_train_config(steps=3, log_every=1, learning_rate=1.0)
    _, tight = run(model_config, train.model_copy(update={"grad_clip": 1e-9}))
    _, loose = run(model_config, train.model_copy(update={"grad_clip": 1e9}))
    _, off = run(model_config, train.model_copy(update={"grad_clip": 0.0}))
    assert off.curve() == loose.curve()
    assert off.curve() != tight.curve()


def test_a_train_loss_that_is_no_number_is_divergence(run, model_config, make_train_config, monkeypatch):
    _poison(monkeypatch, is_training=True)
    outcome, recording = run(model_config, make_train_config())
    assert (outcome.state, outcome.step) == ("diverged", 3)  # detected at the first line
    assert [line["step"] for line in recording.lines] == [3]
    assert math.isnan(recording.lines[0]["train_loss"])


def test_a_validation_loss_that_is_no_number_is_divergence(run, model_config, make_train_config, monkeypatch):
    _poison(monkeypatch, is_training=False)
    outcome, recording = run(model_config, make_train_config())
    assert (outcome.state, outcome.step) == ("diverged", 5)
    assert math.isfinite(recording.lines[-1]["train_loss"])
    assert math.isnan(recording.lines[-1]["val_loss"])


def _poison(monkeypatch: pytest.MonkeyPatch, is_training: bool) -> None:
    whole = GPT.loss

    def loss(self, ids_bt, targets_bt):
        return whole(self, ids_bt, targets_bt) * (math.nan if self.training is is_training else 1.0)

    monkeypatch.setattr(GPT, "loss", loss)


@pytest.mark.parametrize("missing", ["warmup_steps", "weight_decay"])
def test_what_is_not_resolved_is_refused(run, model_config, make_train_config, missing):
    with pytest.raises(ValueError, match=f"{missing} must be resolved"):
        run(model_config, make_train_config(**{missing: None}))


def test_auto_finds_the_micro_batch_that_fits(run, model_config, make_train_config, monkeypatch):
    """A device with memory for two sequences at once."""
    loss = GPT.loss

    def lose(model, ids, targets):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("no room")
        return loss(model, ids, targets)

    monkeypatch.setattr(GPT, "loss", lose)
    monkeypatch.setattr(loop.Training, "_evaluate", lambda _: {"val_loss": 0.0})
    outcome, recording = run(model_config, make_train_config(micro_batch_size="auto"))
    assert (outcome.state, outcome.micro_batch_size) == ("finished", 2)
    monkeypatch.undo()
    _, by_hand = run(model_config, make_train_config(micro_batch_size=2))
    assert [line["train_loss"] for line in recording.lines] == pytest.approx(
        [line["train_loss"] for line in by_hand.lines], rel=1e-4
    )
    monkeypatch.setattr(GPT, "loss", lose)
    with pytest.raises(torch.OutOfMemoryError):
        run(model_config, make_train_config(micro_batch_size=4))


@pytest.mark.parametrize("recompute", [False, True])
def test_no_module_keeps_a_graph_after_a_step(run, model_config, make_train_config, penalized, recompute):
    """A step whose parameters still belong to an earlier graph cannot be captured on a GPU."""
    config = type(model_config).parse({**model_config.to_dict(), **penalized})
    outcome, _ = run(config, make_train_config(recompute=recompute))
    left = [value for module in outcome.model.modules() for value in vars(module).values()]
    assert not [value for value in left if isinstance(value, torch.Tensor) and value.grad_fn is not None]


def test_recomputed_blocks_train_as_kept_ones(run, model_config, make_train_config):
    _, kept = run(model_config, make_train_config())
    _, recomputed = run(model_config, make_train_config(recompute=True))
    assert recomputed.curve() == kept.curve()


def test_the_fastest_backend_trains_as_any(run, model_config, make_train_config, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, usual = run(model_config, make_train_config())
    outcome, measured = run(model_config, make_train_config(attention_backend="fastest"))
    assert report_attention(outcome.model)["requested"] == "fastest"
    assert (tmp_path / "ablate" / "attention.json").exists()
    for one, other in zip(usual.curve(), measured.curve(), strict=True):
        assert one == pytest.approx(other, rel=ROUNDING_32)


def test_what_a_graph_adds_to_stays_the_same_tensor(corpus, new_recording, model_config, make_train_config):
    """Otherwise the curve of a graphed run on a GPU would not change after its first line."""
    task = LanguageModelling(model_config, corpus, 96)
    training = loop.Training(task, make_train_config(), 0, new_recording(), torch.device("cpu"))
    before = training.loss_sum
    training.run(lambda: False)
    assert training.loss_sum is before
