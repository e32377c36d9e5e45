"""Quality against rank: one run of rank 32 truncated to lower ranks, and compared with training at three of them.

Every finished run is one cell, a JSON file in benchmarks/results/ranks-DATA-sSEED/; cells that exist are not run again.
The run of rank 32 is needed whole, and stays in runs/benchmark-ranks-DATA-sSEED. A seed takes about nine minutes of
processor time on starter-wording, 45 on covid19_fake_news.

    python benchmarks/ranks.py                                          # starter-wording, seed 0: run missing cells
    python benchmarks/ranks.py --data covid19_fake_news --seeds 0,1
    python benchmarks/ranks.py --report                                 # write the reports again, without torch
"""

import argparse
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from lorahub import records, runfiles
from lorahub.experiments.ranks import report
from lorahub.experiments.ranks.result import RankCurves
from lorahub.experiments.ranks.run import ranks
from lorahub.experiments.run_summary import RunSummary

RESULTS = Path(__file__).parent / "results"
RANK, CHECKED = 32, (1, 4, 16)
# The larger data set with a part of its training claims.
DATA = {"starter-wording": [], "covid19_fake_news": ["data.train_rows=1000"]}


def run(data, seed):
    from lorahub.training.run import train

    high, folder = Path("runs") / f"benchmark-ranks-{data}-s{seed}", RESULTS / f"ranks-{data}-s{seed}"
    if not runfiles.is_finished(high):
        train(data=data, seed=seed, out=high, settings=[f"adapter.rank={RANK}", *DATA[data]])
    cell = folder / f"rank-{RANK}.json"
    if not cell.exists():
        RunSummary.from_run(high, records.load(high)).save(cell)
    on_stage = partial(print, flush=True)
    _, curves = ranks(high, retrain=True, only=CHECKED, out=folder, keep_runs=False, on_stage=on_stage)
    report.build(curves).save(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="starter-wording", choices=DATA)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    for seed in [] if options.report else map(int, options.seeds.split(",")):
        run(options.data, seed)
    for path in sorted(RESULTS.glob("ranks-*/ranks.json")):
        built = report.build(TypeAdapter(RankCurves).validate_json(path.read_bytes()))
        built.save(path.parent)
        print(built.to_markdown())


if __name__ == "__main__":
    main()
