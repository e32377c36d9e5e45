"""How often the risk of an abstaining model is above the limit that its threshold promises, by simulation.

    python benchmarks/abstention.py                    # 300 simulations of each row, about 20 minutes
    python benchmarks/abstention.py --simulations 100

A simulation draws validation claims and several candidates, such as checkpoints, ranks or trials of a sweep: models of
equal quality that differ by noise. The best one by macro F1 is selected and calibrated, as `lorahub train` does
(`lorahub.stats.calibration`), with one half of validation for each. Its true risk at its threshold is measured on
20,000 other claims. At a certainty of 95 %, at most 5 % of the simulations may have a threshold whose risk exceeds the
limit. "Same rows" selects and calibrates on the same claims, all of them. The coverage is the mean share of claims that
are answered, 0 where no threshold is found.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from lorahub import config as configs
from lorahub.reports import tables
from lorahub.stats import calibration, selective
from lorahub.stats.metrics import quick

RESULT = Path(__file__).parent / "results" / "abstention.md"
TEST_CLAIMS = 20_000


@dataclass(frozen=True)
class Setting:
    """Validation claims, candidates, and the standard deviation of what a candidate adds to the shared logits."""

    claims: int
    candidates: int
    noise: float
    shares: tuple[float, ...]

    @property
    def name(self):
        """The row's name."""
        kind = "nearly independent" if self.noise > 1 else "similar"
        candidates = "1 candidate" if self.candidates == 1 else f"{self.candidates} {kind} candidates"
        return f"{self.claims:,} claims, {len(self.shares)} labels, {candidates}"

    def draw(self, rng, claims):
        """Return gold ids (N,) and the logits (N, C) that all candidates share."""
        gold = rng.choice(len(self.shares), p=self.shares, size=claims)
        logits = 1.6 * np.eye(len(self.shares))[gold] + rng.normal(size=(claims, len(self.shares)))
        return gold, logits.astype(np.float32)

    def candidate(self, rng, shared):
        """Return the logits (N, C) of a candidate."""
        return shared + self.noise * rng.normal(size=shared.shape).astype(np.float32)


SETTINGS = [
    Setting(claims, candidates, noise, shares)
    for shares in ((0.5, 0.5), (0.5, 0.3, 0.15, 0.05))
    for claims, candidates, noise in (
        (100, 1, 0.3), (100, 10, 0.3), (100, 30, 1.2), (300, 10, 0.3), (300, 30, 1.2), (1200, 10, 0.3), (1200, 30, 1.2),
    )
]  # fmt: skip


def simulate(setting, config, seed):
    """Return, for the same rows and for halves, whether the risk is above the limit, and the coverage.

    The coverage is 0 without a threshold.
    """
    rng = np.random.default_rng(seed)
    gold, shared = setting.draw(rng, setting.claims)
    ids = {"train": np.repeat(np.arange(len(setting.shares)), np.round(1000 * np.array(setting.shares)).astype(int))}
    ids["validation"] = gold
    candidates = [setting.candidate(rng, shared) for _ in range(setting.candidates)]
    # Candidates differ by independent noise, so one draw of it serves as the test of the selected one.
    answers, test = setting.draw(rng, TEST_CLAIMS)
    test = setting.candidate(rng, test)

    def outcome(fitted):
        found = selective.figures(test, answers, fitted, confidence=0.95)
        if fitted.threshold is None or found.accuracy is None:  # promises nothing, or answers nothing
            return False, 0.0
        return 1 - found.accuracy > config.eval.abstain_risk, found.coverage

    # Without the bias, which would be searched for every candidate; the selected one is calibrated with it.
    plain = replace(config, eval=replace(config.eval, adjust=False))
    halves = max(candidates, key=lambda item: calibration.select(item, ids, plain).metrics["f1_macro"])
    same = max(candidates, key=lambda item: quick(gold, item.argmax(axis=1))["f1_macro"])
    bias = calibration.select(same, ids, config).bias
    return outcome(calibration.calibrate(same, gold, bias, config.eval)), outcome(
        calibration.of_run(halves, ids, config)
    )


def main():
    """Print and store the table; exit 1 if the limit is exceeded more often than the certainty allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=300, help="simulations of each row (default 300)")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    config = configs.load()
    rows, broken = [], False
    for setting in SETTINGS:
        outcomes = np.array([simulate(setting, config, seed) for seed in range(options.simulations)], dtype=float)
        (same, answered), (halves, coverage) = outcomes.mean(axis=0)
        # The rate that the luck of the simulations exceeds once in 1,000 tables' rows if the guarantee holds.
        broken |= bool(halves > stats.binom.ppf(0.999, options.simulations, 0.05) / options.simulations)
        rows.append([setting.name, f"{same:.1%}", f"{halves:.1%}", f"{answered:.0%}", f"{coverage:.0%}"])
        print("  ".join(rows[-1]), flush=True)
    header = ["validation", "above the limit: same rows", "halves", "coverage: same rows", "halves"]
    text = f"{options.simulations:,} simulations of each row.\n\n"
    options.out.write_text(text + tables.markdown(header, rows) + "\n", encoding="utf-8")
    raise SystemExit(broken)


if __name__ == "__main__":
    main()
