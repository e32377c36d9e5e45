"""Many users at once on one engine, each with adapters of their own choice, while adapters come and go.

Every user is a thread that asks for one to three claims and two adapters, again and again. The cache is smaller than
the number of adapters, so that they are evicted and loaded again; one more thread loads a further adapter, asks it and
drops it. Every answer is compared with what plain peft gives. benchmarks/app_users.py asks through the page instead.

    python benchmarks/many_users.py
    python benchmarks/many_users.py --users 10 --seconds 10
"""

import argparse
import json
import random
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from side_by_side import RESULTS, environment, make_adapters, texts_of

from lorahub import atomic
from lorahub.config import BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import adapters
from lorahub.models import base as bases
from lorahub.serving.engine import Engine

TOLERANCE = 1e-4
CLAIMS = 200


class Visitors:
    """The users of one engine, and what they saw."""

    def __init__(self, engine, folders, texts, expected):
        self.engine, self.names, self.texts, self.expected = (
            engine,
            [folder.name for folder in folders],
            texts,
            expected,
        )
        self.spare = folders[-1]
        self.end = 0.0
        self.seconds, self.wrong, self.errors, self.loads, self.bytes = [], [], [], 0, []

    def run(self, users, seconds):
        """Let so many users ask for so long."""
        self.end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._guarded, args=(self._ask, seed)) for seed in range(users)]
        threads += [threading.Thread(target=self._guarded, args=(work,)) for work in (self._come_and_go, self._watch)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guarded(self, work, *args):
        while time.monotonic() < self.end:
            try:
                work(*args)
            except Exception as error:
                self.errors.append(repr(error))

    def _ask(self, seed):
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            names = rng.sample(self.names, 2)
            places = rng.sample(range(len(self.texts)), rng.randint(1, 3))
            began = time.perf_counter()
            found = self.engine.logits([self.texts[place] for place in places], names)
            self.seconds.append(time.perf_counter() - began)
            self.wrong += [
                name
                for name in names
                if not np.allclose(found[name], self.expected[name][places], atol=TOLERANCE, rtol=0)
            ]

    def _come_and_go(self):
        (name,) = self.engine.add(self.spare)
        found = self.engine.logits(self.texts[:1], [name])[name]
        if not np.allclose(found, self.expected[self.spare.name][:1], atol=TOLERANCE, rtol=0):
            self.wrong.append(name)
        self.engine.drop(name)
        self.loads += 1

    def _watch(self):
        self.bytes.append((psutil.Process().memory_info().rss, self.engine.status().bytes))
        time.sleep(0.2)

    def report(self):
        """What a reader wants to know: answers, errors, milliseconds, and how memory moved."""
        early, late = (np.median([memory for memory, _ in part]) for part in np.array_split(self.bytes, 4)[1::2])
        return {
            "requests": len(self.seconds),
            "wrong": len(self.wrong),
            "errors": sorted(set(self.errors)),
            "ms": {f"p{share}": round(1000 * float(np.percentile(self.seconds, share))) for share in (50, 95, 99)},
            "loaded_and_dropped": self.loads,
            "adapter_bytes_at_most": max(held for _, held in self.bytes),
            "memory_growth_bytes": int(late - early),
        }


def reference(folder, config, texts):
    """Logits (N, C) by peft, one claim at a time."""
    base = bases.load(config, LabelSet.load(folder))
    model = adapters.load_with_peft(folder, base)
    with torch.inference_mode():
        found = [model(**base.tokenizer([text], truncation=True, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(found).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--adapters", type=int, default=13, help="The last one is the one that comes and goes.")
    parser.add_argument("--most-adapters", type=int, default=8, help="How many the cache holds.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    parser.add_argument("--base", default="minilm", help="Hub id or folder of the base.")
    parser.add_argument("--out", default="many_users", help="Name of the file under benchmarks/results.")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    config = BaseConfig(id=asked.base)
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_adapters(Path(scratch), config, asked.adapters)
        texts = next(texts_of(CLAIMS))
        expected = {
            folder.name: Engine(asked.base, [folder], config=config).logits(texts)[folder.name] for folder in folders
        }
        engine = Engine(asked.base, folders[:-1], config=config, most_adapters=asked.most_adapters)
        visitors = Visitors(engine, folders, texts, expected)
        visitors.run(asked.users, asked.seconds)
    found = visitors.report()
    print(json.dumps(found, indent=1))
    cell = {"asked": vars(asked), "environment": environment(), **found}
    atomic.write_text(RESULTS / f"{asked.out}.json", json.dumps(cell, indent=1) + "\n")
    if found["wrong"] or found["errors"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
