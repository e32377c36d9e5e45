"""Quality against rank: one run of rank 32 truncated to lower ranks, checked against training at three of them.

Every finished run is one cell, a JSON in benchmarks/results/ranks-covid19_fake_news-sSEED/, written when it ends; cells
that exist are not run again. The run of rank 32 is needed whole, and stays in runs/benchmark-ranks-sSEED. About 25
minutes of processor time a seed.

    python benchmarks/ranks.py                # run what is missing, then print
    python benchmarks/ranks.py --seed 1
    python benchmarks/ranks.py --report       # print what is there, without torch
"""

import argparse
from pathlib import Path

from lorahub import records
from lorahub.experiments import ranks as experiment
from lorahub.hub.rules import WEIGHTS_FILE
from lorahub.reports import ranks as reports
from lorahub.scoring.cells import Cell

RESULTS = Path(__file__).parent / "results"
DATA, RANK, CHECKED = "covid19_fake_news", 32, (1, 4, 16)
# Fewer training claims than there are; the report's title says how many.
SETTINGS = (f"adapter.rank={RANK}", "data.train_rows=1000")


def folder(seed):
    return RESULTS / f"ranks-{DATA}-s{seed}"


def run(seed):
    from lorahub.training.run import train

    high = Path("runs") / f"benchmark-ranks-s{seed}"
    if not (high / records.FILE_NAME).exists():
        train(data=DATA, seed=seed, out=high, settings=SETTINGS)
    cell = folder(seed) / f"rank-{RANK}.json"
    if not cell.exists():
        Cell.of_run(high, records.load(high), high / WEIGHTS_FILE).save(cell)
    _, curves = experiment.ranks(
        high, retrain=True, only=CHECKED, out=folder(seed), keep_runs=False, on_stage=partial(print, flush=True)
    )
    reports.save(curves, folder(seed))


def report(seed):
    return (folder(seed) / reports.MARKDOWN).read_text(encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="print the report that is there and run nothing")
    options = parser.parse_args()
    if not options.report:
        run(options.seed)
    print(report(options.seed))


if __name__ == "__main__":
    main()
