"""Claims a second: a file through lorahub, a list through transformers' pipeline, the base's encoder as the ceiling.

lorahub reads a csv file, judges every claim with one adapter and writes the file with the verdict columns. The pipeline
has the merged model and a list, `batch_size=32`. The ceiling is sentence-transformers' `encode` on the same base, which
knows neither adapter nor head and writes nothing. All run in float32 with the same number of threads. The claims are
cut into parts, and the three take turns on each part; every claim is judged once by each.

    pip install sentence-transformers
    python benchmarks/classify_speed.py
    python benchmarks/classify_speed.py --claims 2000
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
from lorahub.serving.engine import Engine
from lorahub.serving.files import classify_file

# What a user who does nothing gets: base.max_length's default.
CONFIG = BaseConfig()


def texts_of(names, count):
    """So many different claims of these data sets."""
    parts = [part for name in names for part in claims.load(DataConfig(id=name)).splits.values()]
    found = list(dict.fromkeys(text for part in parts for text in part.texts))
    if len(found) < count:
        raise SystemExit(f"{', '.join(names)} have {len(found):,} different claims; give more data sets with --data.")
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))[:count]]


def merged(folder, root):
    """The adapter merged into a plain transformers model."""
    base = bases.load(CONFIG, LABELS)
    model = adapters.load_with_peft(folder, base).merge_and_unload()
    model.save_pretrained(root / "merged")
    base.tokenizer.save_pretrained(root / "merged")
    return root / "merged"


def systems(root):
    """Name -> a function that judges a list of claims."""
    (folder,) = make_adapters(root, CONFIG, 1)
    engine = Engine(CONFIG.id, [folder], config=CONFIG)
    judge = pipeline("text-classification", model=str(merged(folder, root)), top_k=None, truncation=True, device="cpu")
    encoder = SentenceTransformer(str(fetch.base(CONFIG.id).folder), device="cpu")
    encoder.max_seq_length = CONFIG.max_length

    def file(texts):
        with tables.Writer(root / "claims.csv", kind=".csv") as writer:
            writer.write([{"claim": text} for text in texts])
        return lambda: classify_file(engine, root / "claims.csv", root / "verdicts.csv")

    return {
        "lorahub": file,
        "pipeline": lambda texts: lambda: judge(texts, batch_size=32),
        "encode": lambda texts: lambda: encoder.encode(texts, batch_size=32, show_progress_bar=False),
    }


def measure(runs, texts, parts):
    """System -> its (wall, CPU) seconds, a pair a part."""
    found = {name: [] for name in runs}
    for number, some in enumerate(np.array_split(np.array(texts, dtype=object), parts)):
        names = list(runs)
        for name in (*names[number % 3 :], *names[: number % 3]):
            run = runs[name](some.tolist())
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            print(f"part {number + 1}: {name} {len(some) / found[name][-1][1]:.0f} claims a CPU second", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=20_000)
    parser.add_argument("--data", default="pubhealth,liar", help="Data sets with enough different claims.")
    parser.add_argument("--parts", type=int, default=5, help="Parts into which the claims are cut.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    parser.add_argument("--out", default="classify_speed", help="Name of the file under benchmarks/results.")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    texts = texts_of(asked.data.split(","), asked.claims)
    with tempfile.TemporaryDirectory() as scratch:
        runs = systems(Path(scratch))
        for run in runs.values():
            run(texts[:64])()
        times = measure(runs, texts, asked.parts)
    rates = {}
    for name, pairs in times.items():
        wall, cpu = (len(texts) / sum(column) for column in zip(*pairs, strict=True))
        ratios = {
            clock: statistics.median(
                theirs[place] / ours[place] for ours, theirs in zip(times["lorahub"], pairs, strict=True)
            )
            for place, clock in enumerate(("wall", "cpu"))
        }
        rates[name] = {"claims_a_second": {"wall": wall, "cpu": cpu}, "lorahub_is_faster_by": ratios}
        print(
            f"{name:9} {wall:6.0f} claims a second ({cpu:.0f} a CPU second); lorahub is {ratios['wall']:.2f} times as "
            f"fast ({ratios['cpu']:.2f} by CPU time)"
        )
    found = {"asked": vars(asked), "environment": environment(), "systems": rates}
    atomic.write_text(RESULTS / f"{asked.out}.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
