"""Batches are pure functions of (seed, step), the same for every arm."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ablate.data import training_batch, validation_batches

TOKENS = np.arange(1000, dtype=np.uint16)

sizes = st.integers(1, 12)
contexts = st.integers(1, 40)


@given(seed=st.integers(0, 2**70), step=st.integers(1, 2**40), batch_size=sizes, context_length=contexts)
def test_a_training_batch_depends_on_seed_and_step_alone(seed, step, batch_size, context_length):
    first = training_batch(TOKENS, seed, step, batch_size, context_length)
    training_batch(
        TOKENS, seed + 1, step + 1, batch_size, context_length
    )  # another arm's batches in between change nothing
    again = training_batch(TOKENS, seed, step, batch_size, context_length)
    for one, other in zip(first, again, strict=True):
        assert one.dtype == np.int64
        assert one.shape == (batch_size, context_length)
        np.testing.assert_array_equal(one, other)


@given(seed=st.integers(0, 100), step=st.integers(1, 100), batch_size=sizes, context_length=contexts)
def test_targets_are_the_tokens_that_follow(seed, step, batch_size, context_length):
    inputs, targets = training_batch(TOKENS, seed, step, batch_size, context_length)
    np.testing.assert_array_equal(targets, inputs + 1)  # the tokens count upwards


def test_seed_and_step_each_change_the_batch():
    base, _ = training_batch(TOKENS, 0, 1, 8, 16)
    assert not np.array_equal(base, training_batch(TOKENS, 1, 1, 8, 16)[0])
    assert not np.array_equal(base, training_batch(TOKENS, 0, 2, 8, 16)[0])


def test_known_windows_stay_what_they_are():
    """Different offsets would silently change the data order of every study."""
    inputs, _ = training_batch(TOKENS, 7, 3, 4, 16)
    assert inputs[:, 0].tolist() == [594, 775, 614, 653]


def test_every_window_can_be_drawn_up_to_the_last_token():
    tokens = np.arange(6, dtype=np.uint8)
    seen = {int(start) for step in range(1, 60) for start in training_batch(tokens, 0, step, 4, 3)[0][:, 0]}
    assert seen == {0, 1, 2}
    assert training_batch(tokens, 0, 1, 4, 5)[1].max() == 5


@given(
    length=st.integers(2, 300),
    n_tokens=st.integers(1, 400),
    batch_size=st.integers(1, 7),
    context_length=st.integers(1, 60),
)
def test_validation_windows_are_spaced_evenly_without_overlap(length, n_tokens, batch_size, context_length):
    context_length = min(context_length, length - 1)
    tokens = np.arange(length, dtype=np.uint16)
    batches = list(validation_batches(tokens, n_tokens, batch_size, context_length))
    targets = np.concatenate([targets for _, targets in batches])
    assert all(len(inputs) == batch_size for inputs, _ in batches[:-1])
    assert len(np.unique(targets)) == targets.size  # no target is counted twice
    assert len(set(np.diff(targets[:, 0]).tolist())) <= 1
    wanted = max(n_tokens // context_length, 1)
    assert len(targets) == min(wanted, (length - 1) // context_length)


def test_validation_batches_of_other_sizes_hold_the_same_windows():
    whole = [np.concatenate(part) for part in zip(*validation_batches(TOKENS, 320, 10, 32), strict=True)]
    split = [np.concatenate(part) for part in zip(*validation_batches(TOKENS, 320, 3, 32), strict=True)]
    for one, other in zip(whole, split, strict=True):
        np.testing.assert_array_equal(one, other)
