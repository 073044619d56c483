"""Measure by simulation how often intervals that a report shows beside its verdicts cover the truth.

Prediction intervals along an axis, exponents of scaling laws, and speedups where runs never reach the target. The
tables are Markdown. `--page` puts them into a page, between the two comments that mark their place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ablate.analysis.intervals import paired_t
from ablate.analysis.scaling import RESAMPLES, bootstrap_interval, fit_power_law, predict_line
from benchmarks.verdicts import show

SEED = 5
SEEDS, LEVELS = (2, 3, 5, 10), (3, 4, 5)
RATIO, SCATTER = 1.3, 0.1  # a true speedup, and the standard deviation of the logarithm of a cost
LAW = (1.7, 20.0, 0.15)  # floor, factor and exponent; losses scatter by 0.003 nats
START = "<!-- tables of benchmarks.intervals -->"


def measure_prediction(n_levels: int, n_seeds: int, common: float, fall: float, n: int) -> float:
    """Return how often the prediction interval covers the mean over new runs at the next level.

    `common` is the share of the variance that all levels of a seed have in common, and `fall` the factor of the
    standard deviation from one level to the next.
    """
    rng = np.random.default_rng([SEED, n_levels, n_seeds, round(100 * common), round(100 * fall)])
    steps = np.arange(n_levels + 1.0)
    shared = np.sqrt(common) * rng.standard_normal((n, 1, n_seeds))
    own = np.sqrt(1 - common) * rng.standard_normal((n, n_levels + 1, n_seeds))
    losses = (shared + own) * fall ** steps[:, None]
    x = np.repeat(steps[:-1], n_seeds)
    _, low, high = predict_line(x, losses[:, :-1].reshape(n, -1), steps[-1], n_seeds)
    actual = losses[:, -1].mean(axis=-1)
    return float(((low <= actual) & (actual <= high)).mean())


def measure_exponent(n_levels: int, n_seeds: int, n: int) -> float:
    """Return how often the bootstrap interval covers the exponent of a scaling law."""
    rng = np.random.default_rng([SEED, n_levels, n_seeds])
    floor, factor, exponent = LAW
    compute = np.geomspace(1e9, 1e9 * 4.0 ** (n_levels - 1), n_levels, dtype=np.float64)
    hits = 0
    for _ in range(n):
        losses = floor + factor * compute**-exponent + 0.003 * rng.standard_normal((n_seeds, n_levels))
        draws = np.vstack([np.arange(n_seeds), rng.integers(0, n_seeds, (RESAMPLES, n_seeds))])
        interval = bootstrap_interval(fit_power_law(compute, losses[draws].mean(axis=1))[2], n_seeds)
        hits += interval is not None and interval[0] <= exponent <= interval[1]
    return hits / n


def measure_speedup(n_seeds: int, missed: float, n: int) -> tuple[float, float, float]:
    """Simulate an arm with runs that miss the target with probability `missed`, because their budget ends before.

    Returns the share of studies with an interval, how often it covers the true ratio, and how often the limit "at most"
    of the other studies is above the true ratio.
    """
    rng = np.random.default_rng([SEED, n_seeds, round(100 * missed)])
    base, arm = SCATTER * rng.standard_normal((2, n, n_seeds)) - np.array([0.0, np.log(RATIO)])[:, None, None]
    budget = np.quantile(arm, 1 - missed) if missed else np.inf
    is_whole = (arm <= budget).all(axis=-1)
    estimate = paired_t((base - arm)[is_whole])
    covers = (estimate.low <= np.log(RATIO)) & (np.log(RATIO) <= estimate.high)
    limits = (base - np.minimum(arm, budget))[~is_whole].mean(axis=-1)
    holds = float((limits >= np.log(RATIO)).mean()) if limits.size else np.nan
    return float(is_whole.mean()), float(covers.mean()), holds


def write_tables(n: int) -> Iterator[str]:
    """Write all tables, each with a sentence above it."""
    head = ("", *(f"{seeds} seeds" for seeds in SEEDS))
    yield (
        f"**Prediction intervals** of the next level, {n:,} simulations per cell: independent runs / half of the "
        "variance common to all levels of a seed / scatter that halves from level to level."
    )
    kinds = ((0.0, 1.0), (0.5, 1.0), (0.0, 0.5))
    yield _tabulate(
        head,
        [
            (
                f"{levels} levels",
                *(" / ".join(f"{measure_prediction(levels, k, *kind, n):.3f}" for kind in kinds) for k in SEEDS),
            )
            for levels in LEVELS
        ],
    )
    few = max(100, n // 100)
    yield f"**Exponents of scaling laws**: coverage of the bootstrap over seeds, {few:,} simulations per cell."
    yield _tabulate(head, [(f"{m} levels", *(f"{measure_exponent(m, k, few):.2f}" for k in SEEDS)) for m in LEVELS])
    yield (
        f"**Speedups**, true ratio {RATIO:g}, costs that scatter by {100 * SCATTER:g} %, by the share of runs that "
        "never reach the target: studies with an interval / its coverage / how often the limit of the others holds."
    )
    yield _tabulate(
        head,
        [
            (f"{100 * missed:g} % missed", *(_write_speedup(measure_speedup(k, missed, n)) for k in SEEDS))
            for missed in (0.0, 0.05, 0.2)
        ],
    )


def _write_speedup(found: tuple[float, float, float]) -> str:
    share, coverage, limit = found
    return f"{share:.2f} / {coverage:.3f} / {'' if np.isnan(limit) else f'{limit:.2f}'}".rstrip(" /")


def _tabulate(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__)
    parser.add_argument("--simulations", type=int, default=20_000, metavar="N", help="simulated studies per cell")
    parser.add_argument("--page", type=Path, help="page that gets the tables; without it they are printed")
    options = parser.parse_args()
    show(write_tables(options.simulations), options.page, START)


if __name__ == "__main__":
    main()
