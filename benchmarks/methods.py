"""Compare ten methods on two data sets of real claims, three seeds each, with fewer claims and tokens than by default.

Every finished run is one cell, a JSON file in benchmarks/results/methods-DATA/; cells that exist are not run again.
Sixty trainings take three hours of one processor core. The report is written into the same folder.

    python benchmarks/methods.py                    # run missing cells, print both reports
    python benchmarks/methods.py --data pubhealth   # one data set
    python benchmarks/methods.py --table            # write the reports again from methods.json, without torch
"""

import argparse
import sys
from pathlib import Path

from pydantic import TypeAdapter

from lorahub.experiments.methods import report
from lorahub.experiments.methods.result import MethodComparison

RESULTS = Path(__file__).parent / "results"
DATA = ("covid19_fake_news", "pubhealth")
METHODS = ("full", "lora", "qlora", "dora", "rslora", "ia3", "prompt", "prefix", "p-tuning", "linear-probe")
# Four passes over 800 claims are 100 steps; train.min_steps would add more.
SETTINGS = ("data.train_rows=800", "base.max_length=40", "train.min_steps=0", "train.evaluate_every=50")


def run(data, out):
    from lorahub.experiments.methods.run import methods

    def on_run(text, done, total):
        print(f"{data}, run {done + 1} of {total}: {text}", file=sys.stderr)

    return methods(names=METHODS, seeds=3, data=data, settings=SETTINGS, out=out, keep_runs=False, on_run=on_run)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, help="default: both")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    for data in [options.data] if options.data else DATA:
        out = RESULTS / f"methods-{data}"
        if options.table:
            comparison = TypeAdapter(MethodComparison).validate_json((out / "methods.json").read_bytes())
        else:
            comparison = run(data, out)
        built = report.build(comparison)
        built.save(out)
        print(built.to_markdown())


if __name__ == "__main__":
    main()
