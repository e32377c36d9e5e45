"""Ten methods on two data sets of real claims, three seeds each: `lorahub methods` with fewer claims and tokens.

Every finished run is one cell, a JSON in benchmarks/results/methods-DATA/; cells that exist are not run again. Sixty
trainings take three hours of one processor core. The folder also gets the report, methods.md with its picture.

    python benchmarks/methods.py                    # run what is missing, print both tables
    python benchmarks/methods.py --data pubhealth   # one of them
    python benchmarks/methods.py --table            # print what is there, without torch
"""

import argparse
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
DATA = ("covid19_fake_news", "pubhealth")
METHODS = ("full", "lora", "qlora", "dora", "rslora", "ia3", "prompt", "prefix", "p-tuning", "linear-probe")
# One pass over 800 claims is 100 steps; no more are made of few claims.
SETTINGS = ("data.train_rows=800", "base.max_length=40", "train.min_steps=0", "train.evaluate_every=50")


def run(data):
    from lorahub.experiments.methods import report as reports
    from lorahub.experiments.methods.run import methods

    def told(text, done, total):
        print(f"{data}, run {done + 1} of {total}: {text}", file=sys.stderr)

    out = RESULTS / f"methods-{data}"
    _, table = methods(names=METHODS, seeds=3, data=data, settings=SETTINGS, out=out, keep_runs=False, on_run=told)
    reports.save(table, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, help="default: both")
    parser.add_argument("--table", action="store_true", help="print the reports that are there and run nothing")
    asked = parser.parse_args()
    for data in [asked.data] if asked.data else DATA:
        if not asked.table:
            run(data)
        report = RESULTS / f"methods-{data}" / "methods.md"
        if report.exists():
            print(report.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
