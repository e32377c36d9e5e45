"""Quality against rank: one run of rank 32 truncated to lower ranks, checked against training at three of them.

Every finished run is one cell, a JSON in benchmarks/results/ranks-DATA-sSEED/, written when it ends; cells that exist
are not run again. The run of rank 32 is needed whole, and stays in runs/benchmark-ranks-DATA-sSEED. A seed takes about
nine minutes of processor time on starter-wording, 45 on covid19_fake_news.

    python benchmarks/ranks.py                                          # starter-wording, seed 0: run what is missing
    python benchmarks/ranks.py --data covid19_fake_news --seeds 0,1
    python benchmarks/ranks.py --report                                 # print what is there, without torch
"""

import argparse
from functools import partial
from pathlib import Path

from lorahub import records, runfiles
from lorahub.experiments.ranks import report as reports
from lorahub.experiments.ranks import run as experiment
from lorahub.experiments.run_summary import Cell
from lorahub.hub.rules import WEIGHTS_FILE

RESULTS = Path(__file__).parent / "results"
RANK, CHECKED = 32, (1, 4, 16)
# The larger set with fewer training claims than it has; the report's title counts them.
DATA = {"starter-wording": [], "covid19_fake_news": ["data.train_rows=1000"]}


def run(data, seed):
    from lorahub.training.run import train

    high, folder = Path("runs") / f"benchmark-ranks-{data}-s{seed}", RESULTS / f"ranks-{data}-s{seed}"
    if not runfiles.is_finished(high):
        train(data=data, seed=seed, out=high, settings=[f"adapter.rank={RANK}", *DATA[data]])
    cell = folder / f"rank-{RANK}.json"
    if not cell.exists():
        Cell.of_run(high, records.load(high), high / WEIGHTS_FILE).save(cell)
    told = partial(print, flush=True)
    _, curves = experiment.ranks(high, retrain=True, only=CHECKED, out=folder, keep_runs=False, on_stage=told)
    reports.save(curves, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="starter-wording", choices=DATA)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--report", action="store_true", help="print the reports that are there and run nothing")
    options = parser.parse_args()
    for seed in [] if options.report else map(int, options.seeds.split(",")):
        run(options.data, seed)
    for path in sorted(RESULTS.glob(f"ranks-*/{reports.MARKDOWN}")):
        print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
