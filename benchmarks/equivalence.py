"""How often `--margin` calls systems equivalent whose true difference is the margin, and how often equal ones.

    python benchmarks/equivalence.py                    # 2,000 simulations of each row, about two minutes
    python benchmarks/equivalence.py --simulations 200

Each row is a population of claims: gold label and both answers have a joint distribution, from which the true
difference of the metric follows. A simulation draws test claims from it and asks `lorahub.stats.equivalence` as
`lorahub compare --margin` does. In the first column of rates the margin is the true difference, so every "equivalent"
is false: at most 5 % are allowed. The second column has the same claims, but the two systems exchange their answers
to half of them at random, so that their true difference is 0 and "equivalent" is right.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorahub.reports import tables
from lorahub.stats import bootstrap, equivalence, few_claims

RESULT = Path(__file__).parent / "results" / "equivalence.md"
LEVEL, CONFIDENCE = 0.05, 0.95


@dataclass(frozen=True)
class Population:
    """Claims by cell: a share for each (gold, ours, theirs), (C, C, C), with a metric and a number of test claims."""

    name: str
    metric: str
    claims: int
    shares: np.ndarray

    def difference(self):
        """Return the true difference ours - theirs."""
        labels = len(self.shares)
        gold, ours, theirs = (part.reshape(-1) for part in np.indices(self.shares.shape))
        counts = 1e12 * self.shares.reshape(1, -1)
        return float(
            bootstrap.headline(counts, gold, ours, labels)[self.metric][0]
            - bootstrap.headline(counts, gold, theirs, labels)[self.metric][0]
        )

    def draw(self, rng):
        """Return gold ids and both answers, (N,) each."""
        counts = rng.multinomial(self.claims, self.shares.reshape(-1))
        gold, ours, theirs = (np.repeat(part.reshape(-1), counts) for part in np.indices(self.shares.shape))
        return gold, ours, theirs


def population(name, metric, claims, labels, *, right, lost, gained):
    """Return a population from the share of each label, and per label the shares of its claims: both right, flips.

    `lost` is right with theirs only, `gained` with ours only; the other claims are wrong with both. Wrong answers
    are the first label, or the second one to claims of the first.
    """
    count = len(labels)
    shares = np.zeros((count, count, count))
    for gold, (share, both, less, more) in enumerate(zip(labels, right, lost, gained, strict=False)):
        other = 1 if gold == 0 else 0
        shares[gold, gold, gold] += share * both
        shares[gold, other, gold] += share * less
        shares[gold, gold, other] += share * more
        shares[gold, other, other] += share * (1 - both - less - more)
    return Population(name, metric, claims, shares)


def populations():
    """Return the rows: frequent and rare flips, flips in one direction only, rare labels, few and many claims."""
    few, none = (0.0, 0.0, 0.1), (0.0, 0.0, 0.0)
    two, three, rare = (0.5, 0.5), (0.5, 0.3, 0.2), (0.6, 0.36, 0.04)
    rows = [
        population(f"flips in one direction, {n}", "accuracy", n, two, right=(0.9,) * 2, lost=(0.02,) * 2, gained=none)
        for n in (50, 100, 150, 200, 400)
    ]  # fmt: skip
    rows += [
        population(f"few flips, {n}", metric, n, three, right=(0.85,) * 3, lost=(0.035,) * 3, gained=(0.015,) * 3)
        for n in (600, 2500)
        for metric in ("accuracy", "f1_weighted", "f1_macro")
    ]
    rows += [
        population("many flips", metric, 6000, three, right=(0.6,) * 3, lost=(0.14,) * 3, gained=(0.10,) * 3)
        for metric in ("accuracy", "f1_macro")
    ]
    rows += [
        population(f"flips in a rare label, {n}", "f1_macro", n, rare, right=(0.9, 0.9, 0.8), lost=few, gained=none)
        for n in (150, 500, 1200, 3000, 10000)
    ]  # fmt: skip
    lost, gained = (0.02, 0.03, 0.2), (0.01, 0.01, 0.1)
    rows += [
        population(f"a rare label, {n}", "f1_macro", n, rare, right=(0.9, 0.85, 0.5), lost=lost, gained=gained)
        for n in (500, 1200, 5000, 20000)
    ]  # fmt: skip
    return rows


def is_equivalent(gold, ours, theirs, labels, metric, margin, resamples):
    """Return whether `lorahub compare --margin` would call the two answers (N,) equivalent."""
    draws = bootstrap.paired_draws(gold, ours, theirs, labels, resamples=resamples).metrics[metric]
    unseen = few_claims.unseen_flips(gold, (ours, theirs), labels, metric=metric, confidence=CONFIDENCE)
    (found,) = equivalence.test([draws], [unseen], len(gold), margin=margin, confidence=CONFIDENCE)
    return found.equivalent


def rates(row, simulations, resamples, seed=0):
    """Return how often a population is called equivalent: with its difference at the margin, and with none."""
    rng, margin, labels = np.random.default_rng(seed), abs(row.difference()), len(row.shares)
    false, right = 0, 0
    for _ in range(simulations):
        gold, ours, theirs = row.draw(rng)
        false += is_equivalent(gold, ours, theirs, labels, row.metric, margin, resamples)
        swap = rng.random(len(gold)) < 0.5
        mixed = np.where(swap, theirs, ours), np.where(swap, ours, theirs)
        right += is_equivalent(gold, *mixed, labels, row.metric, margin, resamples)
    return false / simulations, right / simulations


def main():
    """Print and store the table; exit 1 if a rate of false answers is above 5 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found = []
    for row in populations():
        false, right = rates(row, options.simulations, options.resamples)
        cells = (f"{row.claims:,}", f"{abs(row.difference()):.4f}", f"{100 * false:.2f} %", f"{100 * right:.1f} %")
        found.append((row.name.rpartition(",")[0] or row.name, row.metric, *cells))
        print("  ".join(found[-1]), flush=True)
        worst = max(false, locals().get("worst", 0.0))
    header = ("population", "metric", "claims", "margin", "equivalent at the margin", "equivalent without a difference")
    text = f"{options.simulations:,} simulations of each row, {options.resamples:,} resamples.\n\n"
    options.out.write_text(text + tables.markdown(header, found) + "\n", encoding="utf-8")
    print(f"largest rate of false equivalence: {100 * worst:.2f} %")
    raise SystemExit(worst > LEVEL)


if __name__ == "__main__":
    main()
