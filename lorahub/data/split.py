"""Stratified, seeded splits for data that has none.

The same rows in the same order with the same seed give the same split. The training seed plays no part, so runs with
several seeds share one test set. Rows of the same claim (ignoring case and punctuation) stay together, and with
`data.group` those of the same source. With `data.date` test holds the newest claims.

Different claims are drawn by plain stratified sampling. Where claims repeat, whole groups are drawn so that the counts
of every label come close to its share and no label is missing on a side: first by sampling groups, then, where these
are too large for that, greedily from the largest group to the smallest.
"""

from dataclasses import replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import train_test_split

from lorahub.config import DataConfig
from lorahub.data.claimset import ClaimSet
from lorahub.data.leakage import normalise
from lorahub.errors import DataError
from lorahub.labels import LabelSet

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# Labels in the message about too few claims, from the rarest on.
_LABELS_SHOWN = 6


class Splitter:
    """Splits claims by the fractions and the seed of `config`; errors and notes call them `title`.

    `notes` are sentences for the user about splits that are not as they should be.
    """

    def __init__(self, config: DataConfig, labels: LabelSet, title: str) -> None:
        self._config, self._labels, self._title = config, labels, title
        self.notes: list[str] = []

    def three_ways(self, claims: ClaimSet) -> dict[str, ClaimSet]:
        """Split one set into train, validation and, unless its fraction is 0, test."""
        config, whole, sets = self._config, claims, {}
        fraction = config.validation_fraction
        if config.test_fraction:
            claims, sets["test"] = self._test(claims, config.test_fraction, whole, sides=3)
            fraction = fraction / (1 - config.test_fraction)
        train, validation = self._part(claims, fraction, "validation", whole, sides=2)
        return {"train": train, "validation": validation, **sets}

    def complete(self, sets: dict[str, ClaimSet]) -> tuple[dict[str, ClaimSet], list[str]]:
        """Take the missing splits from train; return the three sets and the names of the new ones."""
        whole, config = sets["train"], self._config
        added = [name for name in ("test", "validation") if name not in sets]
        for place, name in enumerate(added):
            fraction = config.test_fraction if name == "test" else config.validation_fraction
            share, sides = fraction * len(whole) / len(sets["train"]), 1 + len(added) - place
            if name == "test":
                train, part = self._test(sets["train"], share, whole, sides=sides)
            else:
                train, part = self._part(sets["train"], share, name, whole, sides=sides)
            sets = {**sets, "train": train, name: part}
        return sets, added

    def _test(self, claims: ClaimSet, fraction: float, whole: ClaimSet, *, sides: int) -> tuple[ClaimSet, ClaimSet]:
        if claims.date is None:
            return self._part(claims, fraction, "test", whole, sides=sides)
        # A group is as new as its newest claim, so no claim of train is newer than the oldest group of test.
        groups = _groups(claims)
        newest = np.full(groups.max() + 1, -np.inf)
        np.maximum.at(newest, groups, claims.date)
        dates, counts = np.unique(newest[groups], return_counts=True)
        if len(dates) < 2:
            raise DataError(f"{self._title}: all claims have one date (data.date), so none is newer. Leave it out.")
        sizes = np.cumsum(counts[::-1])[::-1][1:]  # of the claims from each date but the first on
        start = dates[1 + int(np.argmin(abs(sizes - fraction * len(claims))))]
        return _sides(claims, newest[groups] >= start)

    def _part(
        self, claims: ClaimSet, fraction: float, name: str, whole: ClaimSet, *, sides: int
    ) -> tuple[ClaimSet, ClaimSet]:
        """Return the claims without about `fraction` of them, and these: the new split `name`.

        `sides` is how many splits the claims are for in the end.
        """
        groups, seed = _groups(claims), self._config.split_seed
        sampled = None if claims.group else _sampled(claims, groups, fraction, seed)
        different = len(np.unique(groups)) == len(claims)
        if sampled is not None and (different or _has_every_label(claims, sampled)):
            return _sides(claims, sampled)
        inside = None if different else _greedy(claims, groups, fraction, seed, sides)
        if inside is None and claims.group:
            # Identical claims of several sources may be what keeps a split from existing.
            groups = _numbered(claims.group)
            inside = _greedy(claims, groups, fraction, seed, sides)
            if inside is None:
                self._no_split_by_source(claims, groups, sides)
        if inside is None:
            inside = self._row_by_row(claims, groups, fraction, name, sides)
        inside = sampled if inside is None else inside
        return _sides(claims, inside) if inside is not None else _too_few(whole, self._labels, name, self._title)

    def _row_by_row(self, claims: ClaimSet, groups: Ids, fraction: float, name: str, sides: int) -> Flags | None:
        """Split again, with each row of the labels that have too few different claims by itself."""
        held = _table(claims, groups) > 0
        short = [label for label in np.unique(claims.gold).tolist() if held[:, label].sum() < sides]
        rows = np.isin(claims.gold, short)
        alone = np.where(rows, groups.max() + 1 + np.arange(len(claims)), groups)
        alone = np.unique(alone, return_inverse=True)[1].astype(np.int64)
        seed = self._config.split_seed
        inside = _sampled(claims, alone, fraction, seed)
        if inside is None and short:
            inside = _greedy(claims, alone, fraction, seed, sides)
        if inside is not None and short:
            counts = ", ".join(
                f"{self._labels.names[label]}: {(claims.gold == label).sum():,} rows of {held[:, label].sum():,} "
                "different claims"
                for label in short
            )
            self.notes.append(
                f"{self._title}: {counts}. That is too few to keep each of these claims in one split, so their rows "
                f"are split one by one: {name} and train share claims, and scores on {name} are too good."
            )
        return inside

    def _no_split_by_source(self, claims: ClaimSet, groups: Ids, sides: int) -> NoReturn:
        held = (_table(claims, groups) > 0).sum(axis=0)
        label = min(np.unique(claims.gold).tolist(), key=lambda label: held[label])
        raise DataError(
            f"{self._title}: the label {self._labels.names[label]} occurs in {held[label]:,} of {groups.max() + 1:,} "
            f"sources (data.group), which do not give {sides} splits with every label. Add sources, leave out the "
            "label with data.drop_labels, or leave out data.group."
        )


def random_again(claims: ClaimSet) -> ClaimSet:
    """Return the claims without sources and dates, so that they are split at random."""
    return replace(claims, group=None, date=None)


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


def _sides(claims: ClaimSet, inside: Flags) -> tuple[ClaimSet, ClaimSet]:
    return claims.take(np.flatnonzero(~inside)), claims.take(np.flatnonzero(inside))


def _has_every_label(claims: ClaimSet, inside: Flags) -> bool:
    return len(np.unique(claims.gold[inside])) == len(np.unique(claims.gold))


def _sampled(claims: ClaimSet, groups: Ids, fraction: float, seed: int) -> Flags | None:
    """Return which rows (N,) are in the new split, from sampled groups; None if they are too few or too large."""
    size, labels = round(len(claims) * fraction), len(np.bincount(claims.gold))
    sizes, gold = np.bincount(groups), _rarest_labels(claims, groups)
    # A claim repeated so often that it would outweigh a label's part of the new split stays where it is.
    movable = np.flatnonzero(sizes <= max(1, size // labels))
    count = round(size * len(movable) / max(1, sizes[movable].sum()))
    rarest = np.bincount(gold[movable], minlength=labels)[np.unique(gold)].min()
    if rarest < 2 or count < labels or len(movable) - count < labels:
        return None
    _, moved = train_test_split(movable, test_size=count, stratify=gold[movable], random_state=seed)
    return np.isin(groups, moved)


def _greedy(claims: ClaimSet, groups: Ids, fraction: float, seed: int, sides: int) -> Flags | None:
    """Return which rows (N,) are in the new split: whole groups, from the largest to the smallest.

    A group is taken if the counts of the labels come closer to their share with it, and if enough groups with each of
    its labels are left for the other `sides` - 1 splits. None if a label would be missing in the new split.
    """
    table = _table(claims, groups)
    target, left, part = fraction * table.sum(axis=0), (table > 0).sum(axis=0), np.zeros(table.shape[1])
    chosen = np.zeros(len(table), bool)
    scale = np.maximum(target, 1)

    def gap(counts: npt.NDArray[np.float64]) -> float:
        return float((((counts - target) / scale) ** 2).sum())

    def can_leave(group: int) -> bool:
        return not chosen[group] and bool((left[table[group] > 0] >= sides).all())

    order = np.random.default_rng(seed).permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    for group in order.tolist():
        if can_leave(group) and gap(part + table[group]) < gap(part):
            chosen[group], part, left = True, part + table[group], left - (table[group] > 0)
    for label in np.unique(claims.gold).tolist():
        if part[label] == 0:
            free = [group for group in order.tolist() if table[group, label] and can_leave(group)]
            if not free:
                return None
            group = min(free, key=lambda group: gap(part + table[group]))
            chosen[group], part, left = True, part + table[group], left - (table[group] > 0)
    inside: Flags = chosen[groups]
    return inside


def _table(claims: ClaimSet, groups: Ids) -> npt.NDArray[np.float64]:
    """Return the rows of each group with each label (G, C)."""
    shape = int(groups.max()) + 1, int(claims.gold.max()) + 1
    table: npt.NDArray[np.float64] = sparse.coo_array((np.ones(len(claims)), (groups, claims.gold)), shape).toarray()
    return table


def _numbered(keys: list[str]) -> Ids:
    """Return the number of each key (N,), in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _groups(claims: ClaimSet) -> Ids:
    """Return the group of each row (N,): rows of one claim or, directly or through others, of one source."""
    texts = _numbered([normalise(text) for text in claims.texts])
    if claims.group is None:
        return texts
    sources = _numbered(claims.group) + texts.max() + 1
    size = int(sources.max()) + 1
    _, component = connected_components(sparse.coo_array((np.ones(len(texts)), (texts, sources)), (size, size)), False)
    return _numbered([str(number) for number in component[texts].tolist()])


def _rarest_labels(claims: ClaimSet, groups: Ids) -> Ids:
    """Return the label of each group: its rarest one."""
    counts = np.bincount(claims.gold)
    gold = np.full(groups.max() + 1, -1)
    for group, label in zip(groups, claims.gold, strict=True):
        if gold[group] < 0 or counts[label] < counts[gold[group]]:
            gold[group] = label
    return gold


def _too_few(claims: ClaimSet, labels: LabelSet, split: str, title: str) -> NoReturn:
    counts = np.bincount(claims.gold)
    rarest = [label for label in np.argsort(counts, kind="stable").tolist() if counts[label]]
    shown = ", ".join(f"{labels.names[label]} {counts[label]:,}" for label in rarest[:_LABELS_SHOWN])
    more = f" and {len(rarest) - _LABELS_SHOWN} more labels" if len(rarest) > _LABELS_SHOWN else ""
    different = len(set(map(normalise, claims.texts)))
    raise DataError(
        f"{title}: {len(claims)} claims ({different} different) are too few to split by label: the rarest label is "
        f"{labels.names[rarest[0]]!r} with {counts[rarest[0]]} ({shown}{more}). Add claims of it, leave it out with "
        "data.drop_labels, join it with data.label_map, give separate train, validation and test files, or change "
        f"data.{split}_fraction."
    )
