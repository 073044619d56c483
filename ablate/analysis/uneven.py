"""Arms that scatter far more between seeds than the other arms of their baseline.

The tests of a family share its scatter (`moderated`), which assumes that arms scatter by about the same. One arm that
scatters far more makes the tests of the others too cautious, and its own too sure of itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ablate.analysis.differences import Difference, list_lenders
from ablate.analysis.results import Results
from ablate.analysis.samples import MODERATED

FAR = 6.0
"""The ratio of standard deviations that counts as far more. Three seeds of equal arms rarely reach it."""


def find_uneven(results: Results, differences: tuple[Difference, ...]) -> Mapping[str, float]:
    """Return arm -> its standard deviation over the geometric mean of the others', where that is above `FAR`.

    Only the arm of a baseline that scatters most can be one, and only if the tests of the others share its scatter.
    """
    moderated = {row.arm: row.baseline for row in differences if row.method.startswith(MODERATED)}
    families: dict[str, dict[str, float]] = {}
    for arm in list_lenders(results):
        if arm.arm in moderated:
            families.setdefault(moderated[arm.arm], {})[arm.arm] = arm.variance
    found: dict[str, float] = {}
    for variances in families.values():
        most = max(variances, key=variances.__getitem__)
        others = [variance for arm, variance in variances.items() if arm != most]
        if others:
            ratio = float(np.sqrt(variances[most] / np.exp(np.mean(np.log(others)))))
            if ratio > FAR:
                found[most] = ratio
    return found
