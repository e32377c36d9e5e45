"""`lorahub power`: how many test claims a comparison needs, before anything is trained.

In: the data of a config and a difference. Out: a `PowerResult`. What decides is the disagreement, the share of claims
that one of the two systems has right and the other one wrong: the difference in accuracy of n claims has the variance
disagreement / n. For macro F1 the variance of each label's recall enters with the same weight, so that with shares
w_1 to w_C of the labels it is disagreement / n times the sum of 1 / w_c over C^2: an approximation by recalls, with the
same disagreement in every label.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lorahub import config as configs
from lorahub.data import claims
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError
from lorahub.experiments.power.result import PowerResult, Requirement
from lorahub.stats import equivalence, paired

# Shown unless others are given; those below the difference are left out, because they cannot produce it.
DISAGREEMENTS = (0.05, 0.1, 0.2, 0.4)


def power(
    recipe: str | Path | None = None,
    *,
    difference: float,
    disagreements: Sequence[float] = (),
    data: str | None = None,
    split: str = "test",
    settings: Sequence[str] = (),
) -> PowerResult:
    """Return how many claims of a split detect a difference, and how many show that two systems differ by less.

    `disagreements` are assumed shares of claims that only one system has right, in place of `DISAGREEMENTS`. Raises
    ConfigError or DataError.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    if not 0 < difference < 1:
        raise ConfigError(f"--difference is between 0 and 1, as in 0.02; found {difference:g}.")
    for share in disagreements:
        if not difference <= share <= 1:
            raise ConfigError(
                f"--disagreement {share:g} is not between the difference, {difference:g}, and 1: systems that differ "
                "on fewer claims cannot differ by more."
            )
    config = configs.load(recipe, [*configs.flags(data=data, base=None, method=None, seed=None), *settings])
    read = claims.load(config.data, compare=False)
    gold = read.splits[split].gold
    counts = np.bincount(gold, minlength=len(read.labels))
    shown = disagreements or [share for share in DISAGREEMENTS if share >= difference] or [difference]
    return PowerResult(
        data=read.source.id,
        split=split,
        claims=len(gold),
        labels=dict(zip(read.labels.names, counts.tolist(), strict=True)),
        difference=difference,
        power=paired.POWER,
        confidence=1 - paired.ALPHA,
        requirements=[
            _requirement(metric, share, counts[counts > 0] / len(gold), len(gold), difference)
            for metric in ("accuracy", "f1_macro")
            for share in shown
        ],
    )


def _requirement(
    metric: str, disagreement: float, shares: npt.NDArray[np.float64], claims: int, difference: float
) -> Requirement:
    confidence = 1 - paired.ALPHA
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    spread, unseen = math.sqrt(disagreement), z
    if metric == "f1_macro":
        spread *= math.sqrt(float((1 / shares).sum())) / len(shares)
        unseen *= float((1 / shares).max()) / len(shares)
    return Requirement(
        metric=metric,
        disagreement=disagreement,
        to_detect=paired.claims_to_detect(spread, difference),
        to_show=equivalence.claims_to_show(spread, unseen, margin=difference, confidence=confidence),
        detectable=paired.detectable_difference(spread, claims),
    )
