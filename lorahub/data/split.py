"""Stratified, seeded splits for data that comes without them.

The same rows in the same order with the same seed give the same split; the training seed plays no part, so that runs
with several seeds are judged on one test set.
"""

from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import train_test_split

from lorahub.config import DataConfig
from lorahub.errors import DataError

if TYPE_CHECKING:
    from lorahub.data.claims import ClaimSet


def three_ways(claims: "ClaimSet", config: DataConfig, title: str) -> dict[str, "ClaimSet"]:
    """Split one set into train, validation and test by the fractions of `config`; errors call it `title`."""
    rest, test = _cut(claims, config.test_fraction, config.split_seed, "data.test_fraction", title)
    share = config.validation_fraction / (1 - config.test_fraction)
    train, validation = _cut(rest, share, config.split_seed, "data.validation_fraction", title)
    return {"train": train, "validation": validation, "test": test}


def complete(sets: dict[str, "ClaimSet"], config: DataConfig, title: str) -> tuple[dict[str, "ClaimSet"], list[str]]:
    """Cut the missing splits from train; returns the three sets and the names of those that were made."""
    fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
    whole, made = len(sets["train"]), []
    for name, fraction in fractions.items():
        if name not in sets:
            share = fraction * whole / len(sets["train"])
            train, part = _cut(sets["train"], share, config.split_seed, f"data.{name}_fraction", title)
            sets = {**sets, "train": train, name: part}
            made.append(name)
    return sets, made


def _cut(claims: "ClaimSet", share: float, seed: int, flag: str, title: str) -> tuple["ClaimSet", "ClaimSet"]:
    counts = np.bincount(claims.gold)
    smallest = int(counts[counts > 0].min())
    part = round(len(claims) * share)
    if smallest < 2 or part < len(counts) or len(claims) - part < len(counts):
        raise DataError(
            f"{title}: {len(claims)} claims with {smallest} of the rarest label are too few to split by label. "
            f"Add claims, give separate train, validation and test files, or change {flag}."
        )
    rows = np.arange(len(claims))
    kept, cut = train_test_split(rows, test_size=part, stratify=claims.gold, random_state=seed)
    return claims.take(np.sort(kept)), claims.take(np.sort(cut))
