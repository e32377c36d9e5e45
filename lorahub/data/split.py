"""Stratified, seeded splits for data that comes without them.

The same rows in the same order with the same seed give the same split; the training seed plays no part, so that runs
with several seeds are judged on one test set. Rows of the same claim (case and punctuation aside) stay together, unless
so few are different that no split is left.
"""

from typing import NoReturn

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from lorahub.config import DataConfig
from lorahub.data import leakage
from lorahub.data.claimset import ClaimSet
from lorahub.errors import DataError


def three_ways(claims: ClaimSet, config: DataConfig, title: str) -> dict[str, ClaimSet]:
    """Split one set into train, validation and test by the fractions of `config`; errors call it `title`."""
    rest, test = _cut(claims, config.test_fraction, config.split_seed) or _too_few(claims, "data.test_fraction", title)
    share = config.validation_fraction / (1 - config.test_fraction)
    train, validation = _cut(rest, share, config.split_seed) or _too_few(claims, "data.validation_fraction", title)
    return {"train": train, "validation": validation, "test": test}


def complete(sets: dict[str, ClaimSet], config: DataConfig, title: str) -> tuple[dict[str, ClaimSet], list[str]]:
    """Cut the missing splits from train; returns the three sets and the names of those that were made."""
    fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
    whole, made = sets["train"], []
    for name, fraction in fractions.items():
        if name not in sets:
            share = fraction * len(whole) / len(sets["train"])
            cut = _cut(sets["train"], share, config.split_seed) or _too_few(whole, f"data.{name}_fraction", title)
            sets = {**sets, "train": cut[0], name: cut[1]}
            made.append(name)
    return sets, made


def fewer(claims: ClaimSet, rows: int, seed: int, title: str) -> ClaimSet:
    """So many of the claims, every label in its share; raises DataError where there are not so many or too few."""
    labels = len(np.unique(claims.gold))
    if not labels <= rows <= len(claims) - labels or np.bincount(claims.gold)[np.unique(claims.gold)].min() < 2:
        raise DataError(
            f"{title}: data.train_rows={rows} cannot be drawn from {len(claims)} claims with {labels} labels: give a "
            f"number from {labels} to {len(claims) - labels}, or 0 for all."
        )
    kept, _ = train_test_split(np.arange(len(claims)), train_size=rows, stratify=claims.gold, random_state=seed)
    return claims.take(np.sort(kept))


def _cut(claims: ClaimSet, share: float, seed: int) -> tuple[ClaimSet, ClaimSet] | None:
    """The claims without about `share` of them, and these; None where they are too few to have every label twice."""
    alone = np.arange(len(claims)), claims.gold
    return _cut_groups(claims, share, seed, *_groups(claims)) or _cut_groups(claims, share, seed, *alone)


def _cut_groups(
    claims: ClaimSet, share: float, seed: int, groups: npt.NDArray[np.int64], gold: npt.NDArray[np.int64]
) -> tuple[ClaimSet, ClaimSet] | None:
    part, labels = round(len(claims) * share), len(np.bincount(claims.gold))
    sizes = np.bincount(groups)
    # A claim that is repeated so often that it would outweigh a label's share of the part is left where it is.
    drawn = np.flatnonzero(sizes <= max(1, part // labels))
    count = round(part * len(drawn) / max(1, sizes[drawn].sum()))
    rarest = np.bincount(gold[drawn], minlength=labels)[np.unique(gold)].min()
    if rarest < 2 or count < labels or len(drawn) - count < labels:
        return None
    _, cut = train_test_split(drawn, test_size=count, stratify=gold[drawn], random_state=seed)
    inside = np.isin(groups, cut)
    return claims.take(np.flatnonzero(~inside)), claims.take(np.flatnonzero(inside))


def _groups(claims: ClaimSet) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The group of each row (N,), numbered as they appear, and each group's label: of several, the rarest in all."""
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(leakage.normalise(text), len(numbers)) for text in claims.texts])
    counts = np.bincount(claims.gold)
    gold = np.full(len(numbers), -1)
    for group, label in zip(groups, claims.gold, strict=True):
        if gold[group] < 0 or counts[label] < counts[gold[group]]:
            gold[group] = label
    return groups, gold


def _too_few(claims: ClaimSet, flag: str, title: str) -> NoReturn:
    counts = np.bincount(claims.gold)
    different = len(set(map(leakage.normalise, claims.texts)))
    raise DataError(
        f"{title}: {len(claims)} claims ({different} different) with {counts[counts > 0].min()} of the rarest label "
        f"are too few to split by label. Add claims, give separate train, validation and test files, or change {flag}."
    )
