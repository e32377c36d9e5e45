"""The results table of docs/results.md: the default settings on several data sets and seeds, with the baselines.

Every finished run is one cell, a JSON file under benchmarks/results/; cells that exist are not run again. `--table`
prints the table from the cells, without torch.

    python benchmarks/defaults.py                 # run missing cells, then print
    python benchmarks/defaults.py --only pubhealth --seeds 0,1,2
    python benchmarks/defaults.py --table
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from lorahub import atomic
from lorahub.reports import tables

RESULTS = Path(__file__).parent / "results"
# (title, data, recipe), with the tutorial's recipe for comparison.
ROWS = (
    ("starter-checkable", "starter-checkable", None),
    ("starter-topic", "starter-topic", None),
    ("starter-wording", "starter-wording", None),
    ("pubhealth", "pubhealth", None),
    ("covid19_fake_news", "covid19_fake_news", None),
    ("pubhealth-tutorial", "pubhealth", "tutorial"),
)
SYSTEMS = ("majority", "tfidf", "linear_probe", "untrained", "adapter")


def cell_path(title, seed):
    return RESULTS / f"defaults-{title}-s{seed}.json"


def run_cell(title, data, recipe, seed):
    from lorahub.training.run import train

    with tempfile.TemporaryDirectory() as scratch:
        done = train(recipe, data=data, seed=seed, out=Path(scratch) / title)
    write_cell(title, seed, done.record.to_dict())


def write_cell(title, seed, record):
    """Write the part of a run's record that the table needs."""
    kept = ("steps", "epochs", "seconds", "samples_per_second", "peak_bytes", "trainable_parameters", "best_step")
    test = {
        system: {
            key: block[key] for key in ("n", "accuracy", "f1_weighted", "f1_macro", "ece", "interval", "per_label")
        }
        for system, block in record["results"]["test"].items()
    }
    validation = {
        system: {key: block[key] for key in ("n", "accuracy", "f1_weighted", "f1_macro")}
        for system, block in record["results"]["validation"].items()
    }
    cell = {
        "title": title,
        "seed": seed,
        "asked": record["asked"],
        "happened": {key: record["happened"][key] for key in kept},
        "environment": {key: record["environment"][key] for key in ("packages", "device", "threads", "data", "git")},
        "paired": record["results"]["test"]["adapter"]["paired"],
        "test": test,
        "validation": validation,
    }
    atomic.write_text(cell_path(title, seed), json.dumps(cell, indent=1) + "\n")
    print(f"{title} seed {seed}: macro F1 {test['adapter']['f1_macro']:.3f} in {cell['happened']['seconds']:.0f} s")


def load_cells():
    cells = {}
    for title, _, _ in ROWS:
        seeds = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"defaults-{title}-s*.json"))]
        if seeds:
            cells[title] = seeds
    return cells


def spread(values):
    mean = statistics.fmean(values)
    return f"{mean:.3f}" if len(set(values)) == 1 else f"{mean:.3f} ± {statistics.stdev(values):.3f}"


def rows(cells):
    for title, seeds in cells.items():
        for system in SYSTEMS:
            values = [cell["test"][system] for cell in seeds]
            name = tables.title(system) + (
                " (tutorial's recipe)" if system == "adapter" and "tutorial" in title else ""
            )
            if "tutorial" in title and system not in ("untrained", "adapter"):
                continue
            yield (
                f"{title.removesuffix('-tutorial')} ({values[0]['n']:,})",
                name,
                *(spread([value[metric] for value in values]) for metric in tables.METRIC_NAMES),
                str(len(seeds)),
            )


def differences(cells):
    """Per data set: the adapter against the best baseline on validation, with each seed's paired interval on test."""
    for title, seeds in cells.items():
        lines = []
        for cell in seeds:
            rival = best_baseline(cell)
            row = cell["paired"][rival]["f1_macro"]
            mark = "" if row["detectable"] else " (inside the noise)"
            low, high = row["interval"]
            lines.append(f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] against {rival}{mark}")
        yield f"- {title}: " + "; ".join(lines)


def table_text():
    cells = load_cells()
    header = ("data (test claims)", "system", "accuracy", "weighted F1", "macro F1", "seeds")
    return tables.markdown(header, list(rows(cells))) + "\n\n" + "\n".join(differences(cells))


def summary_text():
    """One row per data set: mean macro F1 of the adapter and of the best baseline, and the paired difference."""
    header = ("data", "test claims", "seeds", "best baseline", "adapter", "difference (seed 0)")
    rows = []
    for title, seeds in load_cells().items():
        if "tutorial" in title:
            continue
        baseline = best_baseline(seeds[0])
        difference = seeds[0]["paired"][baseline]["f1_macro"]
        shown = tables.signed(difference["difference"], difference["interval"])
        rows.append(
            (
                title,
                f"{seeds[0]['test']['adapter']['n']:,}",
                str(len(seeds)),
                f"{spread([cell['test'][baseline]['f1_macro'] for cell in seeds])} ({tables.title(baseline)})",
                spread([cell["test"]["adapter"]["f1_macro"] for cell in seeds]),
                shown if difference["detectable"] else f"{shown}, inside the noise",
            )
        )
    return tables.markdown(header, rows)


def best_baseline(cell):
    """The baseline with the highest macro F1 on validation."""
    return max(tables.BASELINES, key=lambda name: cell["validation"][name]["f1_macro"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated titles")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="print the table from the cells and run nothing")
    options = parser.parse_args()
    if not options.table:
        wanted = options.only.split(",") if options.only else [title for title, _, _ in ROWS]
        for seed in map(int, options.seeds.split(",")):
            for title, data, recipe in ROWS:
                if title in wanted and not cell_path(title, seed).exists():
                    run_cell(title, data, recipe, seed)
    print(table_text())


if __name__ == "__main__":
    main()
