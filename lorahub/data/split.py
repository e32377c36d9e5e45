"""Stratified, seeded splits for data that has none.

The same rows in the same order with the same seed give the same split. The training seed plays no part, so runs with
several seeds share one test set. Rows of the same claim (ignoring case and punctuation) stay together, unless there are
too few different claims for a split.
"""

from typing import NoReturn

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from lorahub.config import DataConfig
from lorahub.data.claimset import ClaimSet
from lorahub.data.leakage import normalise
from lorahub.errors import DataError

Ids = npt.NDArray[np.int64]


def three_ways(claims: ClaimSet, config: DataConfig, title: str) -> dict[str, ClaimSet]:
    """Split one set into train, validation and test by the fractions of `config`; errors call it `title`.

    Without a test fraction there is no test split.
    """
    if not config.test_fraction:
        train, validation = _split(claims, config.validation_fraction, config.split_seed) or _too_few(
            claims, "validation", title
        )
        return {"train": train, "validation": validation}
    rest, test = _split(claims, config.test_fraction, config.split_seed) or _too_few(claims, "test", title)
    fraction = config.validation_fraction / (1 - config.test_fraction)
    train, validation = _split(rest, fraction, config.split_seed) or _too_few(claims, "validation", title)
    return {"train": train, "validation": validation, "test": test}


def complete(sets: dict[str, ClaimSet], config: DataConfig, title: str) -> tuple[dict[str, ClaimSet], list[str]]:
    """Take the missing splits from train; returns the three sets and the names of the new ones."""
    whole, added = sets["train"], []
    for name, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if name not in sets:
            share = fraction * len(whole) / len(sets["train"])
            train, part = _split(sets["train"], share, config.split_seed) or _too_few(whole, name, title)
            sets = {**sets, "train": train, name: part}
            added.append(name)
    return sets, added


def fewer(claims: ClaimSet, rows: int, seed: int, title: str) -> ClaimSet:
    """Return a stratified sample of `rows` claims; raises DataError if that many cannot be drawn."""
    labels = len(np.unique(claims.gold))
    if not labels <= rows <= len(claims) - labels or np.bincount(claims.gold)[np.unique(claims.gold)].min() < 2:
        raise DataError(
            f"{title}: data.train_rows={rows} cannot be drawn from {len(claims)} claims with {labels} labels: give a "
            f"number from {labels} to {len(claims) - labels}, or 0 for all."
        )
    kept, _ = train_test_split(np.arange(len(claims)), train_size=rows, stratify=claims.gold, random_state=seed)
    return claims.take(np.sort(kept))


def _split(claims: ClaimSet, fraction: float, seed: int) -> tuple[ClaimSet, ClaimSet] | None:
    """Return the claims without about `fraction` of them, and these; None if there are too few of a label."""
    rows = np.arange(len(claims)), claims.gold
    return _split_groups(claims, fraction, seed, *_groups(claims)) or _split_groups(claims, fraction, seed, *rows)


def _split_groups(
    claims: ClaimSet, fraction: float, seed: int, groups: Ids, gold: Ids
) -> tuple[ClaimSet, ClaimSet] | None:
    size, labels = round(len(claims) * fraction), len(np.bincount(claims.gold))
    sizes = np.bincount(groups)
    # A claim repeated so often that it would outweigh a label's part of the new split stays where it is.
    movable = np.flatnonzero(sizes <= max(1, size // labels))
    count = round(size * len(movable) / max(1, sizes[movable].sum()))
    rarest = np.bincount(gold[movable], minlength=labels)[np.unique(gold)].min()
    if rarest < 2 or count < labels or len(movable) - count < labels:
        return None
    _, moved = train_test_split(movable, test_size=count, stratify=gold[movable], random_state=seed)
    inside = np.isin(groups, moved)
    return claims.take(np.flatnonzero(~inside)), claims.take(np.flatnonzero(inside))


def _groups(claims: ClaimSet) -> tuple[Ids, Ids]:
    """Return the group of each row (N,), in order of appearance, and the label of each group: its rarest one."""
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(normalise(text), len(numbers)) for text in claims.texts])
    counts = np.bincount(claims.gold)
    gold = np.full(len(numbers), -1)
    for group, label in zip(groups, claims.gold, strict=True):
        if gold[group] < 0 or counts[label] < counts[gold[group]]:
            gold[group] = label
    return groups, gold


def _too_few(claims: ClaimSet, split: str, title: str) -> NoReturn:
    counts = np.bincount(claims.gold)
    different = len(set(map(normalise, claims.texts)))
    raise DataError(
        f"{title}: {len(claims)} claims ({different} different) with {counts[counts > 0].min()} of the rarest label "
        "are too few to split by label. Add claims, give separate train, validation and test files, or change "
        f"data.{split}_fraction."
    )
