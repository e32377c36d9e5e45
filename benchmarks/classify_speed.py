"""Claims per second: a file through lorahub, a list through transformers' pipeline, the base's encoder as the ceiling.

lorahub reads a csv file, classifies every claim with one adapter and writes the file with the verdict columns. The
pipeline has the merged model and a list, `batch_size=32`. The ceiling is sentence-transformers' `encode` on the same
base, which has neither adapter nor head and writes nothing. All run in float32 with the same number of threads. The
claims are split into parts, and the three take turns on each part; each classifies every claim once. The gain depends
on how unequal the lengths of the claims are, since the pipeline pads 32 claims in their given order: the mean number of
tokens is printed with and without that padding. The default is the only named data set with enough claims.

    pip install sentence-transformers
    python benchmarks/classify_speed.py
    python benchmarks/classify_speed.py --claims 2000 --parts 4 --data pubhealth,liar
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from side_by_side import LABELS, RESULTS, environment, make_adapters
from transformers import pipeline

from lorahub import atomic
from lorahub.config import BaseConfig, DataConfig
from lorahub.data import claims, tables
from lorahub.hub import fetch
from lorahub.models import adapters
from lorahub.models import base as bases
from lorahub.reports.tables import markdown
from lorahub.serving.engine.engine import Engine
from lorahub.serving.files import classify_file

# The defaults, base.max_length among them.
CONFIG = BaseConfig()


def texts_of(names, count):
    """Return this number of different claims of these data sets."""
    parts = [part for name in names for part in claims.load(DataConfig(id=name)).splits.values()]
    found = list(dict.fromkeys(text for part in parts for text in part.texts))
    if len(found) < count:
        raise SystemExit(f"{', '.join(names)} have {len(found):,} different claims; give more data sets with --data.")
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))[:count]]


def merged(folder, root):
    """Write the adapter merged into a plain transformers model."""
    base = bases.load(CONFIG, LABELS)
    model = adapters.load_with_peft(folder, base).merge_and_unload()
    model.save_pretrained(root / "merged")
    base.tokenizer.save_pretrained(root / "merged")
    return root / "merged"


def systems(root):
    """Return name -> a function that classifies a list of claims."""
    (folder,) = make_adapters(root, CONFIG, 1)
    engine = Engine(CONFIG.id, [folder], config=CONFIG)
    classifier = pipeline(
        "text-classification", model=str(merged(folder, root)), top_k=None, truncation=True, device="cpu"
    )
    encoder = SentenceTransformer(str(fetch.base(CONFIG.id).folder), device="cpu")
    encoder.max_seq_length = CONFIG.max_length

    def file(texts):
        with tables.Writer(root / "claims.csv", kind=".csv") as writer:
            writer.write([{"claim": text} for text in texts])
        return lambda: list(classify_file(engine, root / "claims.csv", root / "verdicts.csv"))

    return {
        "lorahub": file,
        "pipeline": lambda texts: lambda: classifier(texts, batch_size=32),
        "encode": lambda texts: lambda: encoder.encode(texts, batch_size=32, show_progress_bar=False),
    }


def lengths(texts):
    """Return the mean tokens of a claim, without and with the padding of 32 claims in their given order."""
    lengths = np.array([len(ids) for ids in bases.load(CONFIG, LABELS).tokenizer(texts, truncation=True)["input_ids"]])
    groups = np.array_split(lengths, range(32, len(lengths), 32))
    return {"tokens": lengths.mean(), "padded": sum(len(group) * group.max() for group in groups) / len(lengths)}


def measure(runs, texts, parts):
    """Yield after each part the number of classified claims, and system -> (wall, CPU) seconds per part."""
    times, done = {name: [] for name in runs}, 0
    for number, some in enumerate(np.array_split(np.array(texts, dtype=object), parts)):
        names = list(runs)
        for name in (*names[number % 3 :], *names[: number % 3]):
            run = runs[name](some.tolist())
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        done += len(some)
        yield done, times


def figures(count, times):
    """Return system -> claims per second, and how many times faster lorahub is: the median over the parts."""
    rates = {}
    for name, pairs in times.items():
        wall, cpu = (count / sum(column) for column in zip(*pairs, strict=True))
        ratios = {
            clock: statistics.median(
                theirs[place] / ours[place] for ours, theirs in zip(times["lorahub"], pairs, strict=True)
            )
            for place, clock in enumerate(("wall", "cpu"))
        }
        rates[name] = {"claims_a_second": {"wall": wall, "cpu": cpu}, "lorahub_is_faster_by": ratios}
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=20_000)
    parser.add_argument("--data", default="checkthat24_en", help="Data sets with enough different claims.")
    parser.add_argument("--parts", type=int, default=20, help="Number of parts.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    parser.add_argument("--out", default="classify-speed", help="Name of the files under benchmarks/results.")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    texts = texts_of(asked.data.split(","), asked.claims)
    with tempfile.TemporaryDirectory() as scratch:
        runs = systems(Path(scratch))
        for run in runs.values():
            run(texts[:64])()
        known = {"asked": vars(asked), "environment": environment(), "lengths": lengths(texts)}
        print(
            "mean tokens of a claim: {tokens:.1f}, padded as the pipeline does {padded:.1f}".format(**known["lengths"])
        )
        for done, times in measure(runs, texts, asked.parts):
            rates = figures(done, times)
            print(f"{done:,} claims:", *(line(name, **rate) for name, rate in rates.items()), sep="\n", flush=True)
            keep(asked.out, {**known, "claims": done, "systems": rates})


def keep(name, found):
    """Write the figures as JSON and as Markdown (docs/engine.md)."""
    header = ("", "claims a second", "a CPU second", "lorahub is faster by", "by CPU time")
    rows = [
        (system, *(f"{rate['claims_a_second'][clock]:.0f}" for clock in ("wall", "cpu")),
         *(f"{rate['lorahub_is_faster_by'][clock]:.2f}" for clock in ("wall", "cpu")))
        for system, rate in found["systems"].items()
    ]  # fmt: skip
    about = (
        f"{found['claims']:,} claims of {found['asked']['data']}, {found['asked']['threads']} thread(s) on "
        f"{found['environment']['device']}; mean tokens of a claim {found['lengths']['tokens']:.1f}, padded as the "
        f"pipeline does {found['lengths']['padded']:.1f}."
    )
    atomic.write_text(RESULTS / f"{name}.json", json.dumps(found, indent=1) + "\n")
    atomic.write_text(RESULTS / f"{name}.md", f"{about}\n\n{markdown(header, rows)}\n")


def line(name, claims_a_second, lorahub_is_faster_by):
    return (
        f"{name:9} {claims_a_second['wall']:6.0f} claims a second ({claims_a_second['cpu']:.0f} a CPU second); lorahub "
        f"is {lorahub_is_faster_by['wall']:.2f} times as fast ({lorahub_is_faster_by['cpu']:.2f} by CPU time)"
    )


if __name__ == "__main__":
    main()
