"""How often the intervals of accuracy and F1 contain the true value, for few and many claims, at 1 and in the middle.

    python benchmarks/intervals.py                    # 1,000 simulations of each row, about two minutes
    python benchmarks/intervals.py --simulations 200

Each row is a population: shares of the labels, and how often each is answered correctly; wrong answers go to the other
labels alike. A simulation draws test claims and computes the intervals of a run, `few_claims.intervals`, and those of a
plain percentile bootstrap. The intervals state 95 %.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorahub.reports import tables
from lorahub.stats import bootstrap, few_claims

RESULT = Path(__file__).parent / "results" / "intervals.md"
CONFIDENCE = 0.95
METRICS = ("accuracy", "f1_weighted", "f1_macro")


@dataclass(frozen=True)
class Population:
    """Claims by gold label and answer: a share for each cell, (C, C)."""

    name: str
    claims: int
    shares: np.ndarray

    def true(self):
        """Return the true headline metrics."""
        labels = len(self.shares)
        every = np.arange(labels * labels)
        found = bootstrap.headline(1e12 * self.shares.reshape(1, -1), every // labels, every % labels, labels)
        return {name: float(values[0]) for name, values in found.items()}


def population(name, claims, labels, right):
    """Return a population from the share of each label and the share of its claims that are answered correctly."""
    count = len(labels)
    shares = np.zeros((count, count))
    for gold, (share, hits) in enumerate(zip(labels, right, strict=True)):
        shares[gold] = share * (1 - hits) / (count - 1)
        shares[gold, gold] = share * hits
    return Population(name, claims, shares)


def populations():
    """Return the rows: near 1 and in the middle, balanced and rare labels, few and many claims."""
    two, three, rare = (0.5, 0.5), (0.5, 0.3, 0.2), (0.5, 0.3, 0.16, 0.04)
    rows = []
    for claims in (12, 30, 100, 300, 1200):
        rows += [
            population("two labels, 0.98 right", claims, two, (0.98, 0.98)),
            population("two labels, 0.9 right", claims, two, (0.9, 0.9)),
            population("three labels, 0.7 right", claims, three, (0.7, 0.7, 0.7)),
        ]
        if claims >= 100:
            rows.append(population("a rare label, 0.9 right", claims, rare, (0.9, 0.9, 0.9, 0.9)))
            rows.append(population("a rare label, 0.1 of it right", claims, rare, (0.8, 0.6, 0.4, 0.1)))
    return rows


def coverage(row, simulations, resamples, seed=0):
    """Return by metric the share of simulations whose interval contains the true value: ours, and the bootstrap's."""
    rng, true, labels = np.random.default_rng(seed), row.true(), len(row.shares)
    hits = {name: np.zeros(2) for name in METRICS}
    for _ in range(simulations):
        confusion = rng.multinomial(row.claims, row.shares.reshape(-1)).reshape(labels, labels)
        ours = few_claims.intervals(confusion, resamples=resamples, confidence=CONFIDENCE)
        plain = bootstrap.bootstrap(confusion, resamples=resamples, confidence=CONFIDENCE)
        for name in METRICS:
            hits[name] += [low <= true[name] <= high for low, high in (ours[name], plain[name])]
    return {name: count / simulations for name, count in hits.items()}


def main():
    """Print and store the table; exit 1 if a coverage is below 92 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found, lowest = [], 1.0
    for row in populations():
        by_metric = coverage(row, options.simulations, options.resamples)
        lowest = min(lowest, *(ours for ours, _ in by_metric.values()))
        cells = (f"{100 * ours:.1f} % ({100 * plain:.1f} %)" for ours, plain in by_metric.values())
        found.append((row.name, f"{row.claims:,}", *cells))
        print("  ".join(found[-1]), flush=True)
    header = ("population", "claims", *(tables.METRIC_NAMES[name] for name in METRICS))
    sizes = f"{options.simulations:,} simulations of each row, {options.resamples:,} resamples"
    text = f"{sizes}. In brackets: a percentile bootstrap.\n\n"
    options.out.write_text(text + tables.markdown(header, found) + "\n", encoding="utf-8")
    print(f"lowest coverage: {100 * lowest:.1f} %")
    raise SystemExit(lowest < 0.92)


if __name__ == "__main__":
    main()
